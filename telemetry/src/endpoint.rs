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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::identity::Identity;
    use crate::resource::tests::identity;

    fn request(method: Method, path: &str) -> HttpRequest {
        HttpRequest { method, path: path.to_owned(), accepts_gzip: false, keep_alive: true }
    }

    /// The status of a reply, and the last line of its body, if there is any.
    fn told(reply: HttpReply) -> (String, String) {
        let reply = String::from_utf8(reply.encode(false, false, true)).unwrap();
        let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
        (word(reply.split(' ').nth(1)), word(reply.lines().last()))
    }

    #[test]
    fn each_path_has_an_answer_of_its_own_and_the_page_only_where_it_is_wanted() {
        for status_page in [true, false] {
            let status = Arc::new(Status::new(Identity { status_page, ..identity() }));
            // Of no provider: there is nothing to be scraped.
            let endpoint = Endpoint { scraper: Scraper::default(), status };
            let get = |path| told(endpoint.answer(&request(Method::Get, path)));
            let health = |path| told(health(&endpoint.status, &request(Method::Get, path)));
            let nothing = ("404".to_owned(), "there are /metrics, /livez and /readyz".to_owned());
            assert_eq!(get("/metrics").1, "the worker is about to leave");
            assert_eq!(get("/"), if status_page { ("200".to_owned(), "</html>".to_owned()) } else { nothing.clone() });
            assert_eq!(get("/metrics/"), nothing);
            for path in ["/", "/metrics"] {
                assert_eq!(health(path), ("404".to_owned(), "there are /livez and /readyz".to_owned()));
            }
            for get in [&get as &dyn Fn(_) -> _, &health] {
                assert_eq!(get("/livez"), ("200".to_owned(), "ok".to_owned()));
                let (code, why) = get("/readyz");
                assert!(code == "503" && why.ends_with("the first dial has not ended yet"), "{code} {why}");
            }
        }
    }

    #[test]
    fn it_can_only_be_looked_at() {
        let status = Status::new(identity());
        for (method, code) in [(Method::Get, "200"), (Method::Head, "200"), (Method::Post, "405"), (Method::Put, "405")]
        {
            assert_eq!(told(health(&status, &request(method, "/livez"))).0, code);
        }
    }
}
