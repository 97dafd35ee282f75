//! Dials: which address is tried when, what a proxy is asked, and what its answer makes of the dial.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Plan, Scripted, head};
use futures_lite::future::block_on;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use oz_worker_net::tls::Tls;
use oz_worker_net::url::Url;
use oz_worker_net::{Destination, DialError, Payload, dial};
use oz_worker_runtime::Address;

const SCHEMES: &[&str] = &["http", "ws", "wss"];

fn destination(url: &str, env: &'static [(&'static str, &'static str)]) -> Destination {
    let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let tls = Tls { roots: Some(Vec::new()), ..Tls::default() };
    Destination::new(Url::parse(url, SCHEMES).unwrap(), &env, Arc::new(tls)).unwrap()
}

fn failed(runtime: &Scripted, destination: &Destination) -> DialError {
    block_on(dial(runtime, destination)).err().unwrap()
}

fn echo(mut stream: UnixStream) {
    let mut copy = stream.try_clone().unwrap();
    let _ = std::io::copy(&mut copy, &mut stream);
}

#[test]
fn an_address_that_hangs_holds_up_the_next_for_a_quarter_of_a_second() {
    let plan = |address: &Address| match address {
        Address::Tcp(address) if address.is_ipv6() => Plan::Hangs,
        _ => Plan::Serves(echo),
    };
    let runtime = Scripted::new(&["[fd00::1]:80", "[fd00::2]:80", "10.0.0.1:80"], plan);
    let begun = Instant::now();
    assert!(block_on(dial(&runtime, &destination("ws://oz.example", &[]))).is_ok());
    assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&begun.elapsed()));
    assert_eq!(*runtime.tried.lock().unwrap(), ["oz.example:80", "[fd00::1]:80", "10.0.0.1:80"]);
}

#[test]
fn addresses_that_refuse_are_tried_at_once_and_the_last_is_named() {
    let runtime = Scripted::new(&["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80"], |_| Plan::Refuses);
    let begun = Instant::now();
    let error = failed(&runtime, &destination("ws://oz.example", &[])).to_string();
    assert!(begun.elapsed() < Duration::from_millis(200));
    assert_eq!(error, "cannot connect to oz.example (10.0.0.2:80): connection refused");
    let error = failed(&Scripted::new(&[], |_| Plan::Hangs), &destination("ws://oz.example", &[]));
    assert!(matches!(error, DialError::NoAddress { .. }), "{error}");
}

#[test]
fn an_address_needs_no_name_server_and_a_socket_no_address() {
    let runtime = Scripted::new(&[], |_| Plan::Serves(echo));
    block_on(dial(&runtime, &destination("ws://[fd00::1]:9", &[]))).unwrap();
    block_on(dial(&runtime, &Destination::Unix("/run/engine.sock".into()))).unwrap();
    assert_eq!(*runtime.tried.lock().unwrap(), ["[fd00::1]:9", "/run/engine.sock"]);
}

#[test]
fn a_request_names_the_host_without_the_port_of_its_scheme() {
    for (url, host) in [
        ("wss://oz.example/", "oz.example"),
        ("wss://oz.example:443", "oz.example"),
        ("ws://oz.example:80", "oz.example"),
        ("ws://oz.example:443", "oz.example:443"),
        ("wss://[fd00::1]", "[fd00::1]"),
        ("wss://[fd00::1]:444", "[fd00::1]:444"),
    ] {
        let request = destination(url, &[]).request(http::Method::GET, "/".parse().unwrap(), Payload::default());
        assert_eq!(request.headers().get(http::header::HOST).unwrap(), host, "{url}");
    }
}

#[test]
fn a_proxy_is_asked_for_host_and_port_and_told_who_asks() {
    let runtime = Scripted::serving(|mut stream| {
        let asked = head(&mut stream);
        assert!(asked.starts_with("connect oz.example:80 http/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nhost: oz.example:80\r\n"), "{asked}");
        assert!(asked.contains("\r\nproxy-authorization: basic bwu6csnz\r\n"), "{asked}");
        // As old proxies answer. Neither length nor encoding means anything here.
        stream.write_all(b"HTTP/1.0 200 Connection established\r\nContent-Length: 5\r\n\r\n").unwrap();
        echo(stream);
    });
    let env = &[("ALL_PROXY", "http://me:q%23s@proxy.example:3128")];
    let mut stream = block_on(dial(&runtime, &destination("ws://oz.example", env))).unwrap();
    let mut answer = [0; 5];
    block_on(async {
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
    });
    assert_eq!(&answer, b"hello");
    assert_eq!(runtime.tried.lock().unwrap().first().unwrap(), "proxy.example:3128");
}

type Answer = fn(UnixStream);

#[test]
fn what_a_proxy_answers_else_is_a_failed_dial_without_its_password() {
    let answers: [(Answer, &str); 6] = [
        (
            |stream| say(stream, b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"),
            "refused to connect: HTTP 407; its URL",
        ),
        (|stream| say(stream, b"HTTP/1.1 503 No\r\n\r\n"), "refused to connect: HTTP 503"),
        (|stream| say(stream, b"SSH-2.0-OpenSSH_9\r\n"), "the answer is not HTTP"),
        (|stream| say(stream, b"HTTP/1.1 200 OK\r\n\r\nhello"), "the answer is not HTTP"),
        (|stream| say(stream, b"HTTP/1.1 200"), "closed in the middle"),
        (|stream| say(stream, b""), "closed without an answer"),
    ];
    for (answer, words) in answers {
        let env = &[("HTTP_PROXY", "http://me:canary@proxy.example:3128")];
        let error = failed(&Scripted::serving(answer), &destination("ws://oz.example", env));
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("the proxy proxy.example:3128 ") && shown.contains(words), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("Basic"), "{shown}");
    }
}

fn say(mut stream: UnixStream, answer: &[u8]) {
    head(&mut stream);
    stream.write_all(answer).unwrap();
}

#[test]
fn plain_http_is_sent_to_the_proxy_whole() {
    let env = &[("HTTP_PROXY", "http://me:q%23s@proxy.example:3128")];
    let destination = destination("http://oz.example:80", env);
    let request = destination.request(http::Method::GET, "/a?b".parse().unwrap(), Payload::default());
    assert_eq!(request.uri(), "http://oz.example/a?b");
    assert_eq!(request.headers().get("host").unwrap(), "oz.example");
    assert!(request.headers().get("proxy-authorization").unwrap().is_sensitive());
    // Without a CONNECT before it.
    block_on(dial(&Scripted::serving(|_| {}), &destination)).unwrap();
}

#[test]
fn a_server_without_tls_is_named() {
    let runtime = Scripted::serving(|mut stream| {
        stream.read_exact(&mut [0; 64]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let error = failed(&runtime, &destination("wss://oz.example", &[])).to_string();
    assert_eq!(error, "TLS with oz.example failed: it does not speak TLS: are scheme and port right?");
}
