//! As much of HTTP/1.1 as the endpoint needs (RFC 9110, RFC 9112), without sockets: a request's head from bytes, an answer
//! to bytes.
//!
//! `tiny_http` has the words: methods, and status codes with their reasons. Its server is not used: it starts a thread for
//! every connection, waits for a slow client without end, and stops accepting for good when file descriptors run out. Our
//! limits are in `server.rs` and `client.rs`. Nor does it print the answers: the header `Connection` is its own server's.

use std::borrow::Cow;
use std::io::Write;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use tiny_http::{Method, StatusCode};

/// The longest head that is read, in bytes; a scraper's is a few hundred.
pub(crate) const MAX_HEAD: usize = 8192;

/// The most header lines; `httparse` needs a bound.
const MAX_HEADERS: usize = 64;

/// The shortest body that is compressed, in bytes: below that it gains nothing.
const MIN_GZIP: usize = 512;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpRequest {
    pub(crate) method: Method,
    /// The target without its query.
    pub(crate) path: String,
    pub(crate) accepts_gzip: bool,
    /// Whether the connection may stay open after the answer.
    pub(crate) keep_alive: bool,
}

/// What has arrived so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedHead {
    Incomplete,
    /// A request, and how many bytes its head takes.
    Complete(HttpRequest, usize),
    /// Not HTTP, or too long. Where the next request would begin is not known.
    Refused(HttpReply),
}

/// An answer before it is encoded for one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpReply {
    status: StatusCode,
    content_type: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Cow<'static, [u8]>,
}

/// Reads a request's head from the bytes that have arrived.
pub(crate) fn parse(bytes: &[u8]) -> ParsedHead {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return ParsedHead::Incomplete,
        Ok(_) if !bytes.get(..MAX_HEAD).unwrap_or(bytes).contains(&b'\n') => {
            return ParsedHead::Refused(HttpReply::text(414, "the request target is too long\n"));
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return ParsedHead::Refused(HttpReply::text(431, "the request has too many or too long headers\n"));
        }
        Err(httparse::Error::Version) if names_a_version(bytes) => {
            return ParsedHead::Refused(HttpReply::text(505, "use HTTP/1.1\n"));
        }
        Err(_) => return ParsedHead::Refused(HttpReply::text(400, "not an HTTP/1.1 request\n")),
    };
    let Some(method) = request.method.and_then(|token| token.parse().ok()) else {
        return ParsedHead::Refused(HttpReply::text(400, "not an HTTP/1.1 request\n"));
    };
    let is_1_1 = request.version == Some(1);
    let headers = Headers(request.headers);
    if is_1_1 && headers.values("host").count() != 1 {
        return ParsedHead::Refused(HttpReply::text(400, "an HTTP/1.1 request has one Host header\n"));
    }
    // Nothing here takes a body. Rather than find the end of one, the connection is closed after the answer.
    let has_body = headers.values("transfer-encoding").next().is_some()
        || headers.values("content-length").any(|size| size != "0");
    let wanted =
        if is_1_1 { !headers.has_token("connection", "close") } else { headers.has_token("connection", "keep-alive") };
    let request = HttpRequest {
        method,
        path: path(request.path.unwrap_or_default()).to_owned(),
        accepts_gzip: accepts_gzip(headers.values("accept-encoding")),
        keep_alive: wanted && !has_body,
    };
    ParsedHead::Complete(request, length)
}

/// Whether the first line is that of a request, of a version of HTTP that `httparse` does not know.
fn names_a_version(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b' ').nth(2).is_some_and(|word| word.starts_with(b"HTTP/"))
}

/// The path of a target: without its query, and without scheme and host where a client sends the whole URL.
fn path(target: &str) -> &str {
    let target = target.split_once('?').map_or(target, |(before, _)| before);
    match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        _ => target,
    }
}

/// The headers of a request; names in lower case.
struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    /// The values of a header that are text, one for each of its lines.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let lines = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        lines.filter_map(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    }

    fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.values(name).flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
    }
}

/// Whether `Accept-Encoding` (RFC 9110 section 12.5.3) lets the answer be gzipped, and does not rather have it plain.
fn accepts_gzip<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, 0.0);
    for element in values.flat_map(|value| value.split(',')) {
        let mut parts = element.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts
            .find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")))
            // A weight that is none is no reason to compress.
            .map_or(1.0, |weight| weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0_f32));
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "*" => any = Some(weight),
            "identity" => identity = weight,
            _ => {}
        }
    }
    gzip.or(any).is_some_and(|weight| weight > 0.0 && weight >= identity)
}

impl HttpReply {
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { status: status.into(), content_type, headers: &[], body: body.into() }
    }

    /// Words for whoever reads the answer by eye.
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.into().into_bytes())
    }

    /// With these headers besides.
    pub(crate) fn with(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    #[cfg(test)]
    pub(crate) fn into_body(self) -> Vec<u8> {
        self.body.into_owned()
    }

    /// The bytes to send. `keep_alive`: the connection stays open. `head_only`: everything but the body, as for `HEAD`.
    pub(crate) fn encode(self, gzip: bool, head_only: bool, keep_alive: bool) -> Vec<u8> {
        let zipped = (gzip && self.body.len() >= MIN_GZIP).then(|| compress(&self.body)).flatten();
        let zipped_as = zipped.is_some().then_some(("Content-Encoding", "gzip"));
        let body = zipped.map_or(self.body, Cow::Owned);
        let (date, length) = (httpdate::fmt_http_date(SystemTime::now()), body.len().to_string());
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status.0, self.status.default_reason_phrase());
        [
            ("Server", "oz-agent-worker"),
            ("Date", date.as_str()),
            ("Content-Type", self.content_type),
            ("Vary", "Accept-Encoding"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        .into_iter()
        .chain(zipped_as)
        .chain(self.headers.iter().copied())
        // Never in chunks: a client of HTTP/1.0 could not read them.
        .chain([("Content-Length", length.as_str()), ("Connection", if keep_alive { "keep-alive" } else { "close" })])
        // All of them are written in this crate: there is nothing in them that a header cannot hold.
        .for_each(|(name, value)| head.extend([name, ": ", value, "\r\n"]));
        head.push_str("\r\n");
        if head_only { head.into_bytes() } else { [head.as_bytes(), &body].concat() }
    }
}

fn compress(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn refused_with(bytes: &[u8]) -> u16 {
        match parse(bytes) {
            ParsedHead::Refused(response) => response.status.0,
            other => panic!("{other:?}"),
        }
    }

    fn request(bytes: &str) -> HttpRequest {
        match parse(bytes.as_bytes()) {
            ParsedHead::Complete(request, length) => {
                assert_eq!(length, bytes.len());
                request
            }
            other => panic!("{bytes}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_incomplete_at_every_byte_but_its_last() {
        let bytes = b"GET /metrics?x=y HTTP/1.1\r\nHost: a\r\naccept-encoding: br, GZIP;q=0.5\r\n\r\nGET /next";
        let length = bytes.len() - b"GET /next".len();
        for end in 0..length {
            assert_eq!(parse(bytes.get(..end).unwrap()), ParsedHead::Incomplete, "{end}");
        }
        let path = "/metrics".to_owned();
        let request = HttpRequest { method: Method::Get, path, accepts_gzip: true, keep_alive: true };
        assert_eq!(parse(bytes), ParsedHead::Complete(request, length));
    }

    #[test]
    fn gzip_is_used_only_where_it_is_allowed_and_not_less_wanted_than_plain() {
        for (value, allowed) in [
            ("gzip", true),
            (" x-GZIP ; q=1.0", true),
            ("br, *;q=0.1", true),
            ("gzip;q=0.5, identity;q=0.5", true),
            ("identity;q=0, gzip;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("gzip;q=0, *", false),
            ("gzip;q=nan", false),
            ("gzip;q=2", false),
            ("identity, gzip;q=0.5", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip([value].into_iter()), allowed, "{value}");
        }
        assert!(!accepts_gzip(["gzip;q=0", "br"].into_iter()), "two lines are one list");
    }

    #[test]
    fn what_is_not_http_is_refused_with_the_code_that_says_so() {
        for (bytes, status) in [
            (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], 400),
            (b"GET nonsense /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        ] {
            assert_eq!(refused_with(bytes), status, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_head_may_be_as_long_as_the_longest_and_no_longer() {
        let head = |length: usize| {
            let (begin, end) = ("GET / HTTP/1.1\r\nHost: a\r\nA: ", "\r\n\r\n");
            format!("{begin}{}{end}", "a".repeat(length - begin.len() - end.len()))
        };
        assert_eq!(request(&head(MAX_HEAD)).path, "/");
        let longer = head(MAX_HEAD + 1);
        assert_eq!(refused_with(longer.as_bytes()), 431);
        assert_eq!(parse(longer.as_bytes().get(..MAX_HEAD - 1).unwrap()), ParsedHead::Incomplete);
        assert_eq!(refused_with(longer.as_bytes().get(..MAX_HEAD).unwrap()), 431);
    }

    #[test]
    fn what_is_endless_is_refused_where_it_is_too_long() {
        let target = [b"GET /".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert_eq!(refused_with(&target), 414);
        let header = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert_eq!(refused_with(&header), 431);
        let whole = [header.as_slice(), b"\r\n\r\n"].concat();
        assert_eq!(refused_with(&whole), 431, "also when it comes in one piece");
        let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(refused_with(headers.as_bytes()), 431);
    }

    #[test]
    fn a_connection_is_kept_as_each_version_has_it_and_never_after_a_body() {
        for (head, kept) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            assert_eq!(request(head).keep_alive, kept, "{head}");
        }
    }

    #[test]
    fn a_target_may_be_a_whole_url() {
        for (target, expected) in [
            ("http://worker:9464/metrics?a=b", "/metrics"),
            ("http://worker:9464", "/"),
            ("/livez?verbose", "/livez"),
            ("/?next=http://a/b", "/"),
            ("/a://b/c", "/a://b/c"),
            ("*", "*"),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
    }

    #[test]
    fn an_answer_to_head_has_the_length_of_its_body_and_no_body() {
        let answer =
            |head_only| String::from_utf8(HttpReply::text(200, "four").encode(false, head_only, true)).unwrap();
        let head = answer(true);
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\nConnection: keep-alive\r\n\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nContent-Length: 4\r\n"), "{head}");
        assert!(answer(false).ends_with("\r\n\r\nfour"));
    }

    #[test]
    fn an_answer_says_what_it_is_of_whom_and_when() {
        let answer = HttpReply::text(405, "no").with(&[("Allow", "GET")]).encode(false, false, false);
        let (head, body) = split(&answer);
        let (date, head): (Vec<_>, Vec<_>) = head.split("\r\n").partition(|line| line.starts_with("Date: "));
        assert_eq!(
            head,
            [
                "HTTP/1.1 405 Method Not Allowed",
                "Server: oz-agent-worker",
                "Content-Type: text/plain; charset=utf-8",
                "Vary: Accept-Encoding",
                "X-Content-Type-Options: nosniff",
                "Allow: GET",
                "Content-Length: 2",
                "Connection: close",
            ]
        );
        let date = httpdate::parse_http_date(date.concat().trim_start_matches("Date: ")).unwrap();
        assert!(SystemTime::now().duration_since(date).unwrap().as_secs() < 60);
        assert_eq!(body, b"no");
    }

    #[test]
    fn what_is_compressed_can_be_unpacked_and_has_the_length_that_is_sent() {
        let text = "a long text, ".repeat(100);
        let answer = HttpReply::text(200, text.clone()).encode(true, false, true);
        let (head, body) = split(&answer);
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        let mut unpacked = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(body), &mut unpacked).unwrap();
        assert_eq!(unpacked, text);
    }

    /// Head and body of an answer.
    fn split(answer: &[u8]) -> (&str, &[u8]) {
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        (std::str::from_utf8(answer.get(..end).unwrap()).unwrap(), answer.get(end + 4..).unwrap())
    }

    #[test]
    fn only_what_is_worth_it_is_compressed_and_nothing_is_chunked() {
        let answer = |size, gzip| {
            let bytes = HttpReply::text(200, "a".repeat(size)).encode(gzip, true, false);
            String::from_utf8(bytes).unwrap()
        };
        assert!(!answer(MIN_GZIP - 1, true).contains("Content-Encoding"));
        assert!(answer(MIN_GZIP, true).contains("\r\nContent-Encoding: gzip\r\n"));
        assert!(answer(1 << 20, false).contains("\r\nContent-Length: 1048576\r\n"));
    }
}
