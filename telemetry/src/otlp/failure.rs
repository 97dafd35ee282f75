//! Why a request was not taken, and whether to send it again.

use std::io;
use std::time::{Duration, SystemTime};

use oz_worker_net::tls::{TlsError, TlsFault};
use ureq::http::{HeaderMap, StatusCode, header};

/// Why a request was not taken. Nothing here shows a URL, a header or what the collector wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportFailure {
    #[error("HTTP {status}")]
    Http { status: StatusCode, retry_after: Option<Duration> },

    #[error("gRPC {code} {}", code_name(*.code))]
    Grpc { code: u16, retry_after: Option<Duration> },

    #[error("{0}")]
    Connection(ConnectionFault),

    #[error("TLS: {0}")]
    Tls(TlsFault),

    #[error("{0}")]
    NoTls(TlsError),

    #[error("no answer in time")]
    Timeout,

    #[error("{0}; is the endpoint an OTLP receiver?")]
    Nonsense(&'static str),

    #[error("the message cannot be written as JSON")]
    Encode,

    #[error("the message cannot be compressed")]
    Compress,
}

/// Why there was no answer to read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionFault {
    /// The operating system's words, which know nothing of a URL.
    #[error("{0}")]
    Io(io::Error),

    #[error("the host has no address")]
    NoAddress,

    #[error("the URL cannot be used")]
    Url,

    #[error("the proxy does not connect the worker")]
    Proxy,

    /// Most often an OTLP receiver for gRPC, or a server of TLS.
    #[error(
        "what answers does not speak HTTP/1: are scheme and port right? Of a collector, port 4318 takes http/protobuf, and 4317 \
         takes grpc (OTEL_EXPORTER_OTLP_PROTOCOL)"
    )]
    NotHttp,

    /// Most often an OTLP receiver for HTTP.
    #[error(
        "what answers does not speak HTTP/2: are scheme and port right? Of a collector, port 4317 takes grpc, and 4318 takes \
         http/protobuf (OTEL_EXPORTER_OTLP_PROTOCOL)"
    )]
    NotHttp2,

    #[error("HTTP/2: {}", .0.description())]
    Http2(h2::Reason),

    #[error("HTTP/2: {0}")]
    Http2Io(io::Error),

    #[error("the connection failed")]
    Broken,
}

impl From<ConnectionFault> for ExportFailure {
    fn from(fault: ConnectionFault) -> Self {
        Self::Connection(fault)
    }
}

impl From<TlsError> for ExportFailure {
    fn from(error: TlsError) -> Self {
        Self::NoTls(error)
    }
}

impl From<io::Error> for ExportFailure {
    fn from(error: io::Error) -> Self {
        match TlsFault::from(&error) {
            TlsFault::Io(error) => ConnectionFault::Io(error).into(),
            fault => Self::Tls(fault),
        }
    }
}

impl ExportFailure {
    /// An answer of HTTP other than a success.
    pub(super) fn http(status: StatusCode, headers: &HeaderMap) -> Self {
        Self::Http { status, retry_after: retry_after(headers, SystemTime::now()) }
    }

    /// How long the collector wants not to see the same request again, and zero when it does not say; `None` when it would
    /// not be taken later either. The codes are those that the OTLP specification names ("Failures", "OTLP/HTTP response").
    pub(super) fn retry(&self) -> Option<Duration> {
        match self {
            Self::Http { status, retry_after } => {
                matches!(status.as_u16(), 429 | 502 | 503 | 504).then(|| retry_after.unwrap_or_default())
            }
            Self::Grpc { code: 8, retry_after } => *retry_after,
            Self::Grpc { code, retry_after } => {
                matches!(code, 1 | 4 | 10 | 11 | 14 | 15).then(|| retry_after.unwrap_or_default())
            }
            Self::Connection(_) => Some(Duration::ZERO),
            Self::Tls(_) | Self::NoTls(_) | Self::Timeout | Self::Nonsense(_) | Self::Encode | Self::Compress => None,
        }
    }
}

/// The names of gRPC's codes (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
fn code_name(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).unwrap_or(&"(unknown)")
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let date = || Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default());
    value.parse().map(Duration::from_secs).ok().or_else(date)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn answer(status: u16, retry_after: Option<&str>) -> ExportFailure {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
        }
        ExportFailure::http(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn only_the_statuses_that_the_specification_names_are_tried_again() {
        for status in [429, 502, 503, 504] {
            assert_eq!(answer(status, None).retry(), Some(Duration::ZERO), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 408, 413, 500, 501, 505] {
            assert_eq!(answer(status, Some("1")).retry(), None, "{status}");
        }
    }

    #[test]
    fn of_grpc_only_what_may_pass_is_tried_again() {
        for code in 0..20 {
            let failure = |retry_after| ExportFailure::Grpc { code, retry_after };
            let passes = matches!(code, 1 | 4 | 10 | 11 | 14 | 15);
            assert_eq!(failure(None).retry(), passes.then_some(Duration::ZERO), "{code}");
            let asked = Some(Duration::from_secs(3));
            assert_eq!(failure(asked).retry(), asked.filter(|_| passes || code == 8), "{code}");
        }
    }

    #[test]
    fn no_connection_is_tried_again_and_nonsense_is_not() {
        assert_eq!(ExportFailure::from(ConnectionFault::NoAddress).retry(), Some(Duration::ZERO));
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(ExportFailure::from(reset).retry(), Some(Duration::ZERO));
        let tls = io::Error::other(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired));
        for failure in [tls.into(), ExportFailure::Timeout, ExportFailure::Nonsense("x"), TlsError::Pair.into()] {
            assert_eq!(ExportFailure::retry(&failure), None, "{failure}");
        }
    }

    #[test]
    fn every_failure_is_said_in_a_few_words() {
        let unavailable = ExportFailure::Grpc { code: 14, retry_after: None };
        let unknown = ExportFailure::Grpc { code: 17, retry_after: None };
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        for (failure, words) in [
            (answer(503, None), "HTTP 503 Service Unavailable"),
            (unavailable, "gRPC 14 UNAVAILABLE"),
            (unknown, "gRPC 17 (unknown)"),
            (io::Error::other(expired).into(), "TLS: its certificate has expired"),
            (io::Error::from(io::ErrorKind::ConnectionReset).into(), "connection reset"),
            (
                ConnectionFault::Http2(h2::Reason::ENHANCE_YOUR_CALM).into(),
                "HTTP/2: detected excessive load generating behavior",
            ),
        ] {
            assert_eq!(failure.to_string(), words);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_anything_else_is_not_there() {
        assert_eq!(answer(503, Some(" 7 ")).retry(), Some(Duration::from_secs(7)));
        for value in ["-1", "soon", "7.5", ""] {
            assert_eq!(answer(503, Some(value)).retry(), Some(Duration::ZERO), "{value}");
        }
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let at = |date: &str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, date.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(at("Sun, 06 Nov 1994 08:49:40 GMT"), Some(Duration::from_secs(3)));
        // A date in the past: now.
        assert_eq!(at("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
    }
}
