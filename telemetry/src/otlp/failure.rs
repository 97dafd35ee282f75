//! Why a request was not taken, and whether to send it again.

use std::io;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use oz_worker_net::tls::TlsFault;
use oz_worker_net::{AnswerError, DialError};

/// Why a request was not taken. Nothing here shows a URL, a header or what the collector wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportFailure {
    #[error("HTTP {status}")]
    Http { status: StatusCode, retry_after: Option<Duration> },

    #[error("gRPC {code} {}", code_name(*.code))]
    Grpc { code: u16, retry_after: Option<Duration> },

    /// No connection.
    #[error("{0}")]
    Dial(Box<DialError>),

    /// A connection, and no answer.
    #[error("{0}")]
    Answer(AnswerError),

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

    /// What the collector said after the handshake.
    #[error("TLS: {0}")]
    Tls(TlsFault),

    #[error("{0}")]
    Io(io::Error),

    #[error("no answer in time")]
    Timeout,

    #[error("the collector asked for a pause, which lasts")]
    Paused,

    #[error("{0}; is the endpoint an OTLP receiver?")]
    Nonsense(&'static str),

    #[error("the message cannot be written as asked for")]
    Encode,

    #[error("the message cannot be compressed")]
    Compress,
}

impl From<DialError> for ExportFailure {
    fn from(error: DialError) -> Self {
        Self::Dial(Box::new(error))
    }
}

impl From<AnswerError> for ExportFailure {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Broken(fault @ (TlsFault::Certificate(_) | TlsFault::Alert(_))) => Self::Tls(fault),
            AnswerError::NotHttp | AnswerError::HeadTooLarge => Self::NotHttp,
            AnswerError::BodyTooLarge(_) => Self::Nonsense("an answer that is far too long"),
            error => Self::Answer(error),
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
            Self::Dial(error) => match &**error {
                // Neither side will have other certificates, or another name, in a second.
                DialError::Tls(_) | DialError::ServerName(_) => None,
                DialError::Handshake { source, .. } if !matches!(source, TlsFault::Io(_)) => None,
                _ => Some(Duration::ZERO),
            },
            Self::Answer(_) | Self::NotHttp | Self::NotHttp2 | Self::Http2(_) | Self::Http2Io(_) | Self::Io(_) => {
                Some(Duration::ZERO)
            }
            Self::Tls(_) | Self::Timeout | Self::Paused | Self::Nonsense(_) | Self::Encode | Self::Compress => None,
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

    use oz_worker_net::tls::{CertificateFlaw, TlsError};
    use oz_worker_net::url::UrlHost;

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

    fn handshake(source: TlsFault) -> ExportFailure {
        DialError::Handshake { host: UrlHost::Name("h".to_owned()), source }.into()
    }

    #[test]
    fn no_connection_is_tried_again_and_nonsense_is_not() {
        let again = Some(Duration::ZERO);
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let nowhere = DialError::NoAddress { host: UrlHost::Name("h".to_owned()) };
        for failure in [nowhere.into(), AnswerError::Empty.into(), handshake(TlsFault::Io(reset()))] {
            assert_eq!(ExportFailure::retry(&failure), again, "{failure}");
        }
        for failure in [
            handshake(TlsFault::Certificate(CertificateFlaw::Expired)),
            ExportFailure::Tls(TlsFault::NotTls),
            DialError::Tls(TlsError::Pair).into(),
            AnswerError::BodyTooLarge(1).into(),
            ExportFailure::Timeout,
            ExportFailure::Nonsense("x"),
        ] {
            assert_eq!(failure.retry(), None, "{failure}");
        }
    }

    #[test]
    fn every_failure_is_said_in_a_few_words() {
        let unavailable = ExportFailure::Grpc { code: 14, retry_after: None };
        let unknown = ExportFailure::Grpc { code: 17, retry_after: None };
        let alert = TlsFault::Alert(rustls::AlertDescription::CertificateRequired);
        for (failure, words) in [
            (answer(503, None), "HTTP 503 Service Unavailable"),
            (unavailable, "gRPC 14 UNAVAILABLE"),
            (unknown, "gRPC 17 (unknown)"),
            (
                handshake(TlsFault::Certificate(CertificateFlaw::Expired)),
                "TLS with h failed: its certificate has expired",
            ),
            (AnswerError::Broken(alert).into(), "TLS: it asks for a client certificate"),
            (AnswerError::Empty.into(), "the connection was closed without an answer"),
            (AnswerError::BodyTooLarge(1).into(), "an answer that is far too long; is the endpoint an OTLP receiver?"),
            (
                ExportFailure::Http2(h2::Reason::ENHANCE_YOUR_CALM),
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
