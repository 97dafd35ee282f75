//! OTLP over HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, header};
use oz_worker_net::{HttpClient, Payload};

use crate::otlp::answer::{MAX_ANSWER, PartialSuccess};
use crate::otlp::body::Encoding;
use crate::otlp::failure::ExportFailure;
use crate::otlp::route::Route;
use crate::otlp::runtime::ExportRuntime;
use crate::settings::Otlp;

pub(super) struct Http {
    route: Route,
    path: PathAndQuery,
}

impl Http {
    pub(super) fn new(otlp: &Otlp, encoding: Encoding) -> Self {
        let mut route = Route::new(otlp, encoding);
        if let Some(packed) = encoding.content_encoding() {
            route.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(packed));
        }
        Self { route, path: otlp.endpoint.path_and_query().clone() }
    }

    /// Sends `body` and reads the answer, within `time`.
    ///
    /// # Errors
    /// No connection, no answer, or an answer that says no.
    pub(super) fn post(&self, body: Bytes, time: Duration) -> Result<PartialSuccess, ExportFailure> {
        ExportRuntime::run(time, async {
            let (stream, said) = self.route.connect().await?;
            let mut request = self.route.destination.request(Method::POST, self.path.clone(), Payload::from(body));
            request.headers_mut().extend(self.route.headers.clone());
            let answer = async { HttpClient::new(stream).await?.send(request).await };
            let mut answer = answer.await.map_err(|error| said.take().map_or(error.into(), ExportFailure::Tls))?;
            // A redirect is a failure like others: it would take the headers, and what is secret in them, to somebody else.
            if !answer.status().is_success() {
                return Err(ExportFailure::http(answer.status(), &answer.head.headers));
            }
            let bytes = answer.body.read_whole(MAX_ANSWER).await?;
            if bytes.is_empty() {
                Ok(PartialSuccess::default())
            } else if is_json(&answer.head.headers) {
                PartialSuccess::from_json(&bytes)
            } else {
                PartialSuccess::from_protobuf(&bytes)
            }
        })
    }
}

/// Whether the media type is JSON, whatever its case and its parameters (RFC 9110, section 8.3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_media_type_is_read_whatever_its_case_and_parameters() {
        for (kind, expected) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json ;charset=utf-8", true),
            ("application/jsonp", false),
            ("application/x-protobuf", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
            assert_eq!(is_json(&headers), expected, "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
