//! What is sent: a message as protobuf or as JSON that a collector takes, packed or not.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::CompressionLevel;
use serde_json::Value;

use crate::otlp::answer::MAX_ANSWER;
use crate::otlp::failure::ExportFailure;
use crate::settings::{Compression, Protocol};

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

    /// The body that carries `message`, which the protocol's encoding has made.
    ///
    /// # Errors
    /// The message is not JSON although it should be; cannot happen.
    pub(super) fn encode(self, message: &[u8]) -> Result<Bytes, ExportFailure> {
        Ok(match self.protocol {
            Protocol::HttpProtobuf => self.packed(message)?.into(),
            Protocol::HttpJson => self.packed(&without_nulls(message).map_err(|_| ExportFailure::Encode)?)?.into(),
            Protocol::Grpc => self.framed(&self.packed(message)?),
        })
    }

    fn packed(self, bytes: &[u8]) -> Result<Vec<u8>, ExportFailure> {
        match self.compression {
            Compression::None => Ok(bytes.to_owned()),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|_| ExportFailure::Compress)
            }
            Compression::Zstd => Ok(ruzstd::encoding::compress_to_vec(bytes, CompressionLevel::Fastest)),
        }
    }

    /// With gRPC's prefix: whether it is packed, and how long it is.
    fn framed(self, message: &[u8]) -> Bytes {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let packed = u8::from(self.compression != Compression::None);
        [&[packed], &length.to_be_bytes()[..], message].concat().into()
    }
}

/// The same JSON without the fields that have no value: the Collector refuses a number that is `null`.
fn without_nulls(json: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::from_slice(json)?;
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

/// What a collector packed as `encoding` says; `None` when that cannot be undone.
pub(super) fn unpack(encoding: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    let most = MAX_ANSWER as u64;
    let read = match encoding {
        "gzip" => GzDecoder::new(bytes).take(most).read_to_end(&mut unpacked),
        "zstd" => StreamingDecoder::new(bytes).ok()?.take(most).read_to_end(&mut unpacked),
        _ => return None,
    };
    read.ok().map(|_| unpacked)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ALL: [(Compression, Option<&str>); 3] =
        [(Compression::None, None), (Compression::Gzip, Some("gzip")), (Compression::Zstd, Some("zstd"))];

    #[test]
    fn the_types_are_those_of_each_protocol_and_packing() {
        for (protocol, kind) in [
            (Protocol::HttpProtobuf, "application/x-protobuf"),
            (Protocol::HttpJson, "application/json"),
            (Protocol::Grpc, "application/grpc"),
        ] {
            for (compression, name) in ALL {
                let encoding = Encoding::new(protocol, compression);
                assert_eq!((encoding.content_type(), encoding.content_encoding()), (kind, name));
            }
        }
    }

    #[test]
    fn what_is_packed_can_be_unpacked_and_is_the_message() {
        let message = br#"{"a":[1,{}]}"#;
        for (compression, name) in ALL {
            let unpacked = |bytes: &[u8]| name.map_or(bytes.to_vec(), |name| unpack(name, bytes).unwrap());
            for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
                let body = Encoding::new(protocol, compression).encode(message).unwrap();
                assert_eq!(unpacked(&body), message, "{protocol:?} {compression:?}");
            }
            let body = Encoding::new(Protocol::Grpc, compression).encode(message).unwrap();
            let (prefix, packed) = body.split_at(5);
            let length = u32::try_from(packed.len()).unwrap().to_be_bytes();
            assert_eq!(prefix, [&[u8::from(name.is_some())], &length[..]].concat());
            assert_eq!(unpacked(packed), message, "{compression:?}");
        }
    }

    #[test]
    fn what_is_packed_in_another_way_or_broken_is_not_unpacked() {
        assert_eq!(unpack("br", b"x"), None);
        assert_eq!(unpack("gzip", b"x"), None);
        assert_eq!(unpack("zstd", b"x"), None);
    }

    #[test]
    fn nothing_that_is_unpacked_is_longer_than_an_answer_may_be() {
        let bomb = vec![0; 2 * MAX_ANSWER];
        for (compression, name) in ALL.into_iter().skip(1) {
            let packed = Encoding::new(Protocol::HttpProtobuf, compression).encode(&bomb).unwrap();
            assert_eq!(unpack(name.unwrap(), &packed).unwrap().len(), MAX_ANSWER);
        }
    }

    #[test]
    fn what_is_not_json_is_not_sent_as_json() {
        let encoding = Encoding::new(Protocol::HttpJson, Compression::None);
        assert!(matches!(encoding.encode(b"<html>"), Err(ExportFailure::Encode)));
    }

    #[test]
    fn json_has_no_field_without_a_value() {
        let json = br#"{ "points": [{ "bucketCounts": [], "count": "1", "min": null, "sum": 2.0 }], "schema": null }"#;
        let sent = String::from_utf8(without_nulls(json).unwrap()).unwrap();
        assert_eq!(sent, r#"{"points":[{"bucketCounts":[],"count":"1","sum":2.0}]}"#);
    }
}
