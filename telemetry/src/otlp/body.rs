//! What is sent: a message as protobuf or JSON, packed or not.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use ruzstd::encoding::CompressionLevel;
use serde_json::Value;

use crate::otlp::failure::Failure;
use crate::settings::{Compression, Protocol};
use bytes::Bytes;

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
            Protocol::Grpc => "application/grpc",
        }
    }

    /// The value of `content-encoding`, and of `grpc-encoding`.
    pub(super) fn content_encoding(self) -> Option<&'static str> {
        match self.compression {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        }
    }

    /// # Errors
    /// The message has no JSON.
    pub(super) fn encode(self, message: &impl Message) -> Result<Bytes, Failure> {
        let bytes = match self.protocol {
            Protocol::HttpProtobuf | Protocol::Grpc => message.encode_to_vec(),
            Protocol::HttpJson => json(message).map_err(Failure::Encode)?,
        };
        let bytes = self.compress(bytes).map_err(Failure::Compress)?;
        Ok(if self.protocol == Protocol::Grpc { self.framed(&bytes) } else { bytes.into() })
    }

    fn compress(self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match self.compression {
            Compression::None => Ok(bytes),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
            Compression::Zstd => Ok(ruzstd::encoding::compress_to_vec(bytes.as_slice(), CompressionLevel::Fastest)),
        }
    }

    /// With gRPC's prefix: whether it is packed, and how long it is.
    fn framed(self, message: &[u8]) -> Bytes {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let packed = u8::from(self.compression != Compression::None);
        [&[packed], &length.to_be_bytes()[..], message].concat().into()
    }
}

/// As JSON in which a field without a value is left out: the Collector refuses a number that is `null`.
fn json(message: &impl Message) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::to_value(message)?;
    leave_out_nulls(&mut value);
    serde_json::to_vec(&value)
}

fn leave_out_nulls(value: &mut Value) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(leave_out_nulls),
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(leave_out_nulls);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint;

    use super::*;

    #[test]
    fn json_has_no_field_without_a_value() {
        let point = HistogramDataPoint { count: 1, sum: Some(2.0), ..HistogramDataPoint::default() };
        let json = String::from_utf8(json(&point).unwrap()).unwrap();
        assert!(json.contains(r#""sum":2.0"#) && json.contains(r#""bucketCounts":[]"#), "{json}");
        assert!(!json.contains("null"), "{json}");
    }
}
