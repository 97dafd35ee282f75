//! What the endpoint answers to whom.

use std::sync::Arc;

use tiny_http::Method;

use crate::http::{HttpReply, HttpRequest};
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
    pub(crate) fn answer(&self, request: &HttpRequest) -> HttpReply {
        match request.path.as_str() {
            "/metrics" => get(request, || self.scraper.answer()),
            "/livez" => get(request, || health::live(&self.status)),
            "/readyz" => get(request, || health::ready(&self.status)),
            "/" if self.status.identity.status_page => get(request, || page::answer(&self.status)),
            _ => HttpReply::text(404, "there are /metrics, /livez and /readyz\n"),
        }
    }
}

/// Answers one request where nothing but health is to be seen.
pub(crate) fn health(status: &Status, request: &HttpRequest) -> HttpReply {
    match request.path.as_str() {
        "/livez" => get(request, || health::live(status)),
        "/readyz" => get(request, || health::ready(status)),
        _ => HttpReply::text(404, "there are /livez and /readyz\n"),
    }
}

/// Answers one request for something that can only be looked at.
fn get(request: &HttpRequest, answer: impl FnOnce() -> HttpReply) -> HttpReply {
    match request.method {
        Method::Get | Method::Head => answer(),
        _ => HttpReply::text(405, "use GET\n").with(&[("Allow", "GET, HEAD")]),
    }
}
