//! What the endpoint answers to whom.

use prometheus::Registry;

use crate::http::{Method, Request, Response};
use crate::scrape;

/// Everything there is to see.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) registry: Registry,
}

impl Endpoint {
    /// Answers one request.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        let resource = match request.path.as_str() {
            "/metrics" => || scrape::answer(&self.registry),
            _ => return Response::text(404, "metrics are at /metrics\n"),
        };
        match request.method {
            Method::Get | Method::Head => resource(),
            Method::Other => Response::text(405, "use GET\n").with(&[("Allow", "GET, HEAD")]),
        }
    }
}
