//! What is sent: a message as protobuf or JSON, packed or not.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::otlp::failure::Failure;
use crate::settings::{Compression, Protocol};

/// A request of OTLP, which is protobuf and, by the specification's mapping, JSON.
pub(super) trait Message: prost::Message + serde::Serialize {}

impl<M: prost::Message + serde::Serialize> Message for M {}

/// How a message becomes bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoding {
    protocol: Protocol,
    compression: Compression,
}

impl Encoding {
    pub(super) fn new(protocol: Protocol, compression: Compression) -> Self {
        Self { protocol, compression }
    }

    /// The value of `content-type`, of the request and of the answer that goes with it.
    pub(super) fn content_type(self) -> &'static str {
        match self.protocol {
            Protocol::HttpProtobuf => "application/x-protobuf",
            Protocol::HttpJson => "application/json",
        }
    }

    /// The value of `content-encoding`.
    pub(super) fn content_encoding(self) -> Option<&'static str> {
        match self.compression {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
        }
    }

    /// # Errors
    /// The message has no JSON.
    pub(super) fn encode(self, message: &impl Message) -> Result<Vec<u8>, Failure> {
        let bytes = match self.protocol {
            Protocol::HttpProtobuf => message.encode_to_vec(),
            Protocol::HttpJson => serde_json::to_vec(message).map_err(Failure::Encode)?,
        };
        self.compress(bytes).map_err(Failure::Compress)
    }

    fn compress(self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match self.compression {
            Compression::None => Ok(bytes),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
        }
    }
}
