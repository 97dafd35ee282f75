//! As much of HTTP as a scraper needs, without sockets: a request's head from bytes, an answer to bytes.
//!
//! `tiny_http` writes the answers. It does not read the requests: its own server starts a thread for every connection,
//! waits for a slow client without end, and stops accepting for good when file descriptors run out; the limits are in
//! `server.rs`. Every answer closes its connection, so there is no second request, and no body to find the end of.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// The longest head that is read, in bytes; a scraper's is a few hundred.
pub(crate) const MAX_HEAD: usize = 8 * 1024;

/// The most header lines; `httparse` needs a bound.
const MAX_HEADERS: usize = 64;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The target without its query.
    pub(crate) path: String,
    pub(crate) accepts_gzip: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Other,
}

/// What has arrived so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Incomplete,
    Complete(Request),
    /// Not HTTP, or too long.
    Refused(Response),
}

/// An answer before it is encoded for one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// The status code.
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

/// Reads a request's head from the bytes that have arrived.
pub(crate) fn parse(bytes: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Head::Incomplete,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Head::Refused(Response::text(431, "the request is too long\n"));
        }
        Err(_) => return Head::Refused(Response::text(400, "not an HTTP/1.1 request\n")),
    }
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        _ => Method::Other,
    };
    let target = request.path.unwrap_or_default();
    let path = target.split_once('?').map_or(target, |(path, _)| path).to_owned();
    let accepts_gzip = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("accept-encoding"))
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(','))
        .any(allows_gzip);
    Head::Complete(Request { method, path, accepts_gzip })
}

/// Whether one element of `Accept-Encoding` (RFC 9110 section 12.5.3) lets the answer be gzipped.
fn allows_gzip(element: &str) -> bool {
    let mut parts = element.split(';').map(str::trim);
    let gzip = parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
    let refused = parts
        .filter_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")))
        .any(|weight| weight.parse() == Ok(0.0_f32));
    gzip && !refused
}

impl Response {
    pub(crate) fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, body }
    }

    /// A sentence for a person.
    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.as_bytes().to_vec())
    }

    /// The bytes that go to the client: gzipped if it may be, without the body if only the head was asked for.
    pub(crate) fn encode(self, accepts_gzip: bool, head_only: bool) -> Vec<u8> {
        let zipped = if accepts_gzip { gzip(&self.body) } else { None };
        let encoding = zipped.is_some().then_some(("Content-Encoding", "gzip"));
        let allow = (self.status == 405).then_some(("Allow", "GET, HEAD"));
        let headers = [("Content-Type", self.content_type), ("Vary", "Accept-Encoding")];
        let body = zipped.unwrap_or(self.body);
        let mut response = tiny_http::Response::from_data(body).with_status_code(self.status);
        for (name, value) in headers.into_iter().chain(encoding).chain(allow) {
            // Both are written here: there is nothing in them that a header cannot hold.
            if let Ok(header) = tiny_http::Header::from_bytes(name, value) {
                response.add_header(header);
            }
        }
        let mut bytes = Vec::new();
        // An answer of HTTP/1.0 is one after which the connection is closed. Writing to memory cannot fail.
        let _ = response.raw_print(&mut bytes, tiny_http::HTTPVersion(1, 0), &[], head_only, None);
        bytes
    }
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_request_is_incomplete_at_every_byte_but_its_last() {
        let bytes = b"GET /metrics?x=y HTTP/1.1\r\nHost: a\r\naccept-encoding: br, GZIP;q=0.5\r\n\r\n";
        for end in 0..bytes.len() {
            assert_eq!(parse(bytes.get(..end).unwrap()), Head::Incomplete, "{end}");
        }
        let path = "/metrics".to_owned();
        assert_eq!(parse(bytes), Head::Complete(Request { method: Method::Get, path, accepts_gzip: true }));
    }

    #[test]
    fn gzip_is_used_only_where_it_is_allowed() {
        for (element, allowed) in
            [("gzip", true), (" gzip ; q=1.0", true), ("gzip;q=0", false), ("gzip;q=0.000", false), ("br", false)]
        {
            assert_eq!(allows_gzip(element), allowed, "{element}");
        }
    }

    #[test]
    fn what_is_not_http_and_what_is_endless_are_refused() {
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            assert!(matches!(parse(bytes), Head::Refused(Response { status: 400, .. })));
        }
        let endless = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert!(matches!(parse(&endless), Head::Refused(Response { status: 431, .. })));
        let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(matches!(parse(headers.as_bytes()), Head::Refused(Response { status: 431, .. })));
    }

    #[test]
    fn an_answer_to_head_has_the_length_of_its_body_and_no_body() {
        let bytes = Response::text(200, "four").encode(false, true);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("Content-Length: 4\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }
}
