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
        if request.method == Method::Other {
            // Nothing here is changed by anybody.
            return Response::text(405, "use GET\n").with(&[("Allow", "GET, HEAD")]);
        }
        match request.path.as_str() {
            "/metrics" => scrape::answer(&self.registry),
            "/livez" => health::live(&self.status),
            "/readyz" => health::ready(&self.status),
            "/" if self.status.identity.status_page => page::answer(&self.status),
            _ => Response::text(404, "there are /metrics, /livez and /readyz\n"),
        }
    }
}
