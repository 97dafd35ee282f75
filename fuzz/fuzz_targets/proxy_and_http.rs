//! What a dial may read: URLs, proxy variables, answers of a server that need not be one, and streams of lines.
#![no_main]

use std::collections::VecDeque;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::future::block_on;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite};
use libfuzzer_sys::arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oz_worker::link::{Target, check_handshake, refusal};
use oz_worker::settings::secret::ApiKey;
use oz_worker_core::secret::Secret;
use oz_worker_net::lines::{Lines, Splitter};
use oz_worker_net::url::{Url, UrlHost};
use oz_worker_net::{AnswerError, Destination, HttpClient, LARGEST_HEAD, Payload, proxy};

const KEY: &str = "wk-5ecret";
const SCHEMES: &[&str] = &["http", "https", "ws", "wss"];
/// The longest line, in bytes.
const LINE: usize = 16;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    proxy: &'a str,
    exceptions: &'a str,
    secure: bool,
    host: &'a str,
    port: u16,
    answer: &'a [u8],
    body: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    urls(input.host);
    urls(input.proxy);
    proxies(&input);
    answers(input.answer, input.body);
    lines(input.body, usize::from(input.port % 7) + 1);
    if let Ok(key) = ApiKey::from_text(KEY) {
        // A target is made of a URL that was checked; here it is not.
        let _ = Target::new(input.host, key, |_| None);
    }
});

/// A URL is read the same when it is put together again, and all of it can stand in a request of one line each.
fn urls(text: &str) {
    let Ok(url) = Url::parse(text, SCHEMES) else { return };
    let again = format!("{}://{}{}", url.scheme(), url.authority(), url.path_and_query());
    let again = Url::parse(&again, SCHEMES).unwrap();
    assert_eq!((again.host(), again.port()), (url.host(), url.port()));
    assert_eq!(again.path_and_query(), url.path_and_query());
    assert!(url.host_header().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@'));
    if let UrlHost::Name(name) = url.host() {
        assert!(!name.is_empty() && !name.contains([':', '/', '[', ']']));
    }
    if let Some(info) = url.user_info() {
        assert!(info.basic().expose().bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
    }
}

fn proxies(input: &Input<'_>) {
    let env = |name: &str| match name {
        "HTTPS_PROXY" | "http_proxy" => Some(input.proxy.to_owned()),
        "no_proxy" => Some(input.exceptions.to_owned()),
        _ => None,
    };
    let scheme = if input.secure { "https" } else { "http" };
    let Ok(url) = Url::parse(&format!("{scheme}://{}:{}", input.host, input.port), SCHEMES) else { return };
    match proxy::for_url(&env, &url) {
        Ok(None) => {}
        Ok(Some(proxy)) => {
            assert!(!proxy::is_loopback(url.host()));
            assert!(proxy.to_string().bytes().all(|byte| byte.is_ascii_graphic()), "{proxy}");
            assert!(proxy.authorization.is_none_or(|value| !value.expose().contains(char::is_control)));
        }
        Err(error) => assert!(["HTTPS_PROXY", "http_proxy"].contains(&error.variable)),
    }
}

/// Says this in pieces, whatever it is asked, and then hangs up.
struct Says {
    bytes: VecDeque<u8>,
    piece: usize,
}

impl Says {
    fn new(bytes: &[u8], piece: usize) -> Self {
        Self { bytes: bytes.to_vec().into(), piece }
    }
}

impl AsyncRead for Says {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let most = to.len().min(self.piece);
        Poll::Ready(self.bytes.read(&mut to[..most]))
    }
}

impl AsyncWrite for Says {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn answers(bytes: &[u8], body: &[u8]) {
    let destination = Destination::Unix("/".into());
    let request = destination.request(http::Method::GET, http::uri::PathAndQuery::from_static("/"), Payload::default());
    let client = block_on(HttpClient::new(Says::new(bytes, LARGEST_HEAD))).unwrap();
    match block_on(client.send(request)) {
        Ok(mut answer) => {
            let head = &answer.head;
            let _ = check_handshake(&head.headers, "dGhlIHNhbXBsZSBub25jZQ==");
            let host = UrlHost::Name("host".to_owned());
            let shown = &body[..body.len().min(512)];
            let text = refusal(&host, &Secret::from(KEY), head.status, &head.headers, shown).to_string();
            assert!(!text.contains(KEY) && !text.contains(char::is_control), "{text}");
            assert!(text.len() < 8 * 1024, "{}", text.len());
            if head.status == 101 {
                // Everything is either the head or there to be read.
                let (mut rest_of, rest) = block_on(answer.into_stream()).unwrap();
                let mut rest = rest.to_vec();
                block_on(rest_of.read_to_end(&mut rest)).unwrap();
                assert!(bytes.ends_with(&rest));
            } else {
                match block_on(answer.body.read_whole(100)) {
                    Ok(body) => assert!(body.len() <= 100),
                    Err(error) => assert!(!matches!(error, AnswerError::Empty | AnswerError::HeadTooLarge)),
                }
            }
        }
        Err(AnswerError::HeadTooLarge) => assert!(bytes.len() >= LARGEST_HEAD),
        Err(AnswerError::Empty) => assert!(bytes.is_empty()),
        Err(error) => assert!(!matches!(error, AnswerError::Broken(_) | AnswerError::BodyTooLarge(_))),
    }
}

/// However a stream is cut into pieces, its lines are the same, and none of its bytes is forgotten.
fn lines(bytes: &[u8], piece: usize) {
    let mut splitter = Splitter::new(LINE);
    let (mut rest, mut whole) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (taken, line) = splitter.take(rest);
        rest = &rest[taken..];
        whole.extend(line);
    }
    whole.extend(splitter.finish());
    let counted: usize = whole.iter().map(|line| line.bytes.len() + line.cut as usize).sum();
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(counted + ends <= bytes.len() && counted + 2 * ends >= bytes.len());
    assert!(whole.iter().all(|line| line.bytes.len() <= LINE && !line.bytes.contains(&b'\n')));

    let mut lines = Lines::new(Says::new(bytes, piece), LINE);
    let mut in_pieces = Vec::new();
    while let Some(line) = block_on(lines.next()).unwrap() {
        in_pieces.push(line);
    }
    assert_eq!(in_pieces, whole);
}
