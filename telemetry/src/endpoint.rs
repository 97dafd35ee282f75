//! What the endpoint answers to whom.

use std::sync::Arc;

use prometheus::Registry;

use crate::http::{Method, Request, Response};
use crate::status::Status;
use crate::{health, page, scrape};

/// Everything there is to see.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) registry: Registry,
    pub(crate) status: Arc<Status>,
}

impl Endpoint {
    /// Answers one request.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        match request.path.as_str() {
            _ if request.method == Method::Other => not_allowed(),
            "/metrics" => scrape::answer(&self.registry),
            "/livez" => health::live(&self.status),
            "/readyz" => health::ready(&self.status),
            "/" if self.status.identity.status_page => page::answer(&self.status),
            _ => Response::text(404, "there are /metrics, /livez and /readyz\n"),
        }
    }
}

/// Answers one request where nothing but health is to be seen.
pub(crate) fn health(status: &Status, request: &Request) -> Response {
    match request.path.as_str() {
        _ if request.method == Method::Other => not_allowed(),
        "/livez" => health::live(status),
        "/readyz" => health::ready(status),
        _ => Response::text(404, "there are /livez and /readyz\n"),
    }
}

/// Nothing here is changed by anybody.
fn not_allowed() -> Response {
    Response::text(405, "use GET\n").with(&[("Allow", "GET, HEAD")])
}
