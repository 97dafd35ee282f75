//! URLs in settings: checked with the parser that will dial them, so that a bad one is found before anything starts.

use oz_worker_net::url::{Url, UrlError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Checks that `text` is an absolute URL with a host and one of `schemes`, and without a user.
///
/// # Errors
/// What is wrong with the text; the text itself is left to the caller to show.
pub fn check(text: &str, schemes: &'static [&'static str]) -> Result<(), UrlError> {
    match Url::parse(text, schemes)?.user_info() {
        Some(_) => Err(UrlError::Credentials),
        None => Ok(()),
    }
}

/// `url` with the query parameter `name` set to `value`, percent-encoded: the first one already there is replaced in its
/// place and any further one removed; other parameters stay exactly as they are (`docs/protocol.md`, Connecting).
pub fn with_query_parameter(url: &str, name: &str, value: &str) -> String {
    let pair = format!("{name}={}", utf8_percent_encode(value, RESERVED));
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut pairs: Vec<&str> = Vec::new();
    let mut placed = false;
    for old in query.split('&').filter(|old| !old.is_empty()) {
        let key = old.split('=').next().unwrap_or_default();
        if percent_decode_str(key).ne(name.bytes()) {
            pairs.push(old);
        } else if !placed {
            pairs.push(&pair);
            placed = true;
        }
    }
    if !placed {
        pairs.push(&pair);
    }
    // A URL without a path gets one: `?` straight after the host is legal, but not every server's router thinks so.
    let has_path = base.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    format!("{base}{}?{}", if has_path { "" } else { "/" }, pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WS: &[&str] = &["ws", "wss"];

    #[test]
    fn accepts_web_socket_urls() {
        for url in [
            "wss://oz.warp.dev/api/v1/selfhosted/worker/ws",
            "ws://127.0.0.1:8080",
            "ws://localhost:8080/?a=b",
            "WSS://host",
            "ws://[::1]:9000/ws",
            "ws://[::1]",
        ] {
            assert_eq!(check(url, WS), Ok(()), "{url}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_bad_one() {
        for (url, error) in [
            ("", UrlError::Scheme(WS)),
            ("oz.warp.dev", UrlError::Scheme(WS)),
            ("https://oz.warp.dev", UrlError::Scheme(WS)),
            ("wss://", UrlError::NoHost),
            ("wss:///path", UrlError::NoHost),
            ("wss://?x", UrlError::NoHost),
            ("wss://:8080/", UrlError::NoHost),
            ("wss://host:0", UrlError::Port),
            ("wss://host:70000/", UrlError::Port),
            ("wss://host:http/", UrlError::Port),
            ("wss://host:", UrlError::Port),
            ("wss://[::1]:x", UrlError::Port),
            ("wss://user:secret@host/", UrlError::Credentials),
            ("wss://host/#top", UrlError::Fragment),
        ] {
            assert_eq!(check(url, WS), Err(error), "{url}");
        }
        for url in ["wss://ho st/", "wss://host/a b", "wss://host/\n", "wss://hôst/"] {
            assert!(matches!(check(url, WS), Err(UrlError::Syntax(_))), "{url:?}");
        }
    }

    #[test]
    fn sets_one_parameter_and_leaves_the_others() {
        for (url, expected) in [
            ("wss://h/ws", "wss://h/ws?worker_id=w%201%2F%C3%A4"),
            ("wss://h/ws?", "wss://h/ws?worker_id=w%201%2F%C3%A4"),
            ("wss://h", "wss://h/?worker_id=w%201%2F%C3%A4"),
            ("wss://h?a=1", "wss://h/?a=1&worker_id=w%201%2F%C3%A4"),
            ("wss://h/ws?b=%20x&a", "wss://h/ws?b=%20x&a&worker_id=w%201%2F%C3%A4"),
            ("wss://h/ws?worker_id=old&a=1", "wss://h/ws?worker_id=w%201%2F%C3%A4&a=1"),
            ("wss://h/ws?a=1&worker_id=x&worker_id", "wss://h/ws?a=1&worker_id=w%201%2F%C3%A4"),
            ("wss://h/ws?worker%5Fid=x", "wss://h/ws?worker_id=w%201%2F%C3%A4"),
            ("wss://h/ws?my_worker_id=x%", "wss://h/ws?my_worker_id=x%&worker_id=w%201%2F%C3%A4"),
        ] {
            assert_eq!(with_query_parameter(url, "worker_id", "w 1/ä"), expected);
        }
    }
}
