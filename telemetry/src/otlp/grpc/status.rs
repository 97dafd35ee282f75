//! What a gRPC call ended with.

use std::time::Duration;

use data_encoding::BASE64_NOPAD;
use http::HeaderMap;
use prost::Message;

use crate::otlp::failure::ExportFailure;

/// The type of `RetryInfo` in a status' details.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// What `headers` say a call ended with; `None` when they say nothing.
pub(super) fn of(headers: &HeaderMap) -> Option<Result<(), ExportFailure>> {
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok());
    Some(match code {
        Some(0) => Ok(()),
        Some(code) => Err(ExportFailure::Grpc { code, retry_after: retry_after(headers) }),
        None => Err(ExportFailure::Nonsense("an answer with a gRPC status that is no number")),
    })
}

/// How long the collector wants not to see the call again.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let details = headers.get("grpc-status-details-bin")?.to_str().ok()?;
    let bytes = BASE64_NOPAD.decode(details.trim_end_matches('=').as_bytes()).ok()?;
    let status = Status::decode(bytes.as_slice()).ok()?;
    let info = status.details.iter().find(|detail| detail.type_url == RETRY_INFO)?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::new(delay.seconds.try_into().unwrap_or_default(), delay.nanos.try_into().unwrap_or_default()))
}

/// `google.rpc.Status`, as far as it matters here.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn failure(code: u16, details: Option<&str>) -> ExportFailure {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", code.into());
        if let Some(details) = details {
            headers.insert("grpc-status-details-bin", details.parse().unwrap());
        }
        of(&headers).unwrap().unwrap_err()
    }

    fn retry_info(seconds: i64, nanos: i32) -> String {
        let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos }) };
        let other = Any { type_url: "type.googleapis.com/google.rpc.DebugInfo".to_owned(), value: vec![1, 2, 3] };
        let info = Any { type_url: RETRY_INFO.to_owned(), value: info.encode_to_vec() };
        BASE64_NOPAD.encode(&Status { details: vec![other, info] }.encode_to_vec())
    }

    #[test]
    fn only_the_codes_that_the_specification_names_are_tried_again() {
        for code in 1..=16 {
            let again = matches!(code, 1 | 4 | 10 | 11 | 14 | 15);
            assert_eq!(failure(code, None).retry().is_some(), again, "{code}");
        }
    }

    #[test]
    fn who_has_no_room_is_asked_again_only_if_it_says_when() {
        assert_eq!(failure(8, None).retry(), None);
        assert_eq!(failure(8, Some(&retry_info(2, 500_000_000))).retry(), Some(Duration::from_millis(2500)));
        assert_eq!(failure(14, Some(&retry_info(3, 0))).retry(), Some(Duration::from_secs(3)));
        // Padded, as many send it; negative; not base64; not protobuf.
        assert_eq!(failure(8, Some(&format!("{}==", retry_info(2, 0)))).retry(), Some(Duration::from_secs(2)));
        assert_eq!(failure(8, Some(&retry_info(-5, 0))).retry(), Some(Duration::ZERO));
        for nonsense in ["*", "AAAA"] {
            assert_eq!(failure(8, Some(nonsense)).retry(), None, "{nonsense}");
        }
    }

    #[test]
    fn no_status_is_none_and_a_status_that_is_no_number_is_nonsense() {
        assert!(of(&HeaderMap::new()).is_none());
        let headers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "fine".parse().unwrap())]);
        assert!(matches!(of(&headers), Some(Err(ExportFailure::Nonsense(_)))));
    }
}
