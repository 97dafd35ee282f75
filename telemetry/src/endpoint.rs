//! What the endpoint answers to whom.

use std::sync::Arc;

use tiny_http::Method;

use crate::http::{Request, Response};
use crate::scrape::Scraper;
use crate::status::Status;
use crate::{health, page};

/// Everything there is to see.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) scraper: Scraper,
    pub(crate) status: Arc<Status>,
}

impl Endpoint {
    /// Answers one request.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        match request.path.as_str() {
            "/metrics" => get(request, || self.scraper.answer()),
            "/livez" => get(request, || health::live(&self.status)),
            "/readyz" => get(request, || health::ready(&self.status)),
            "/" if self.status.identity.status_page => get(request, || page::answer(&self.status)),
            _ => Response::text(404, "there are /metrics, /livez and /readyz\n"),
        }
    }
}

/// Answers one request where nothing but health is to be seen.
pub(crate) fn health(status: &Status, request: &Request) -> Response {
    match request.path.as_str() {
        "/livez" => get(request, || health::live(status)),
        "/readyz" => get(request, || health::ready(status)),
        _ => Response::text(404, "there are /livez and /readyz\n"),
    }
}

/// Answers one request for something that can only be looked at.
fn get(request: &Request, answer: impl FnOnce() -> Response) -> Response {
    match request.method {
        Method::Get | Method::Head => answer(),
        _ => Response::text(405, "use GET\n").with(&[("Allow", "GET, HEAD")]),
    }
}
