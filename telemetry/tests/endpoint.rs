//! The endpoint as HTTP has it, and what clients can and cannot do to it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use common::{Answer, Endpoint, Log, PATIENCE, connect, env, request, scrape, series, start};
use oz_worker_core::metrics::MetricEvent;

/// A client that keeps its connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(address: SocketAddr) -> Self {
        Self(BufReader::new(connect(address)))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Reads one answer, up to the end that its head names. One to `HEAD` has no body.
    fn read(&mut self, has_body: bool) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "closed after {head:?}");
        }
        let (_, length) = head.split_once("\r\nContent-Length: ").unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; if has_body { length } else { 0 }];
        self.0.read_exact(&mut body).unwrap();
        Answer { head, body }
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.read(true)
    }

    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn status(answer: &Answer) -> &str {
    answer.head.split("\r\n").next().unwrap().strip_prefix("HTTP/1.1 ").unwrap()
}

#[test]
fn text_format_0_0_4_is_served_whatever_the_client_accepts() {
    let endpoint = Endpoint::start("127.0.8.1");
    for accept in ["", "Accept: application/openmetrics-text; version=1.0.0\r\n", "Accept: text/html\r\n"] {
        let answer = request(endpoint.address, "GET", "/metrics?debug=1", accept);
        assert_eq!(status(&answer), "200 OK");
        assert!(answer.head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(!answer.head.contains("Content-Encoding"));
        assert!(answer.body.starts_with(b"# HELP "));
    }
    endpoint.stop();
}

#[test]
fn a_scrape_is_gzipped_for_a_client_that_accepts_it_and_plain_for_one_that_refuses_it() {
    let endpoint = Endpoint::start("127.0.8.2");
    let answer = request(endpoint.address, "GET", "/metrics", "Accept-Encoding: deflate, gzip\r\n");
    assert!(answer.head.contains("\r\nContent-Encoding: gzip\r\n"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.contains("\noz_worker_tasks_claimed_total{"), "{text}");
    assert!(answer.body.len() * 5 < text.len());
    let answer = request(endpoint.address, "GET", "/metrics", "Accept-Encoding: gzip;q=0, *;q=0\r\n");
    assert_eq!(answer.body, text.into_bytes());
    endpoint.stop();
}

#[test]
fn what_cannot_be_answered_is_refused_in_the_words_of_http() {
    let endpoint = Endpoint::start("127.0.8.3");
    let long = "a".repeat(9000);
    for (head, expected) in [
        ("GET /metrics/x HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"),
        ("POST /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405 Method Not Allowed"),
        ("GET nonsense /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        ("GET /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET /metrics HTTP/3.0\r\n\r\n", "505 HTTP Version Not Supported"),
        (&format!("GET /metrics HTTP/1.1\r\nHost: {long}\r\n\r\n"), "431 Request Header Fields Too Large"),
        (&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414 URI Too Long"),
    ] {
        let mut client = Client::new(endpoint.address);
        client.send(head);
        let answer = client.read(true);
        assert_eq!(status(&answer), expected, "{}", &head[..head.len().min(60)]);
        assert_eq!(answer.head.contains("\r\nAllow: GET, HEAD\r\n"), expected.starts_with("405"), "{}", answer.head);
        assert!(answer.body.ends_with(b"\n"));
    }
    endpoint.stop();
}

#[test]
fn a_connection_is_kept_for_further_requests() {
    let endpoint = Endpoint::start("127.0.8.4");
    let mut client = Client::new(endpoint.address);
    for path in ["/metrics", "/nowhere", "/metrics"] {
        let answer = client.get(path);
        assert!(answer.head.contains("\r\nConnection: keep-alive\r\n"), "{}", answer.head);
    }
    client.send("GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(client.read(true).head.contains("\r\nConnection: keep-alive\r\n"));
    client.send("HEAD /metrics HTTP/1.0\r\n\r\n");
    let answer = client.read(false);
    assert!(answer.head.contains("\r\nConnection: close\r\n"));
    assert!(client.is_closed());
    endpoint.stop();
}

#[test]
fn requests_that_are_sent_ahead_are_answered_in_their_order_wherever_they_are_cut() {
    let endpoint = Endpoint::start("127.0.8.5");
    let requests = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nHEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n\
                    GET /a HTTP/1.1\r\nHost: a\r\n\r\nPUT /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let requests = requests.repeat(25);
    for size in [1, 7, 60, requests.len()] {
        let mut client = Client::new(endpoint.address);
        for part in requests.as_bytes().chunks(size) {
            client.0.get_mut().write_all(part).unwrap();
        }
        for _ in 0..25 {
            for (has_body, expected) in
                [(true, "200 OK"), (false, "200 OK"), (true, "404 Not Found"), (true, "405 Method Not Allowed")]
            {
                assert_eq!(status(&client.read(has_body)), expected);
            }
        }
    }
    endpoint.stop();
}

#[test]
fn the_body_of_a_request_is_never_taken_for_the_next_one() {
    let endpoint = Endpoint::start("127.0.8.6");
    let body = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = body.len();
    for framing in [format!("Content-Length: {length}"), "Transfer-Encoding: chunked".to_owned()] {
        let mut client = Client::new(endpoint.address);
        client.send(&format!("POST /metrics HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"));
        let answer = client.read(true);
        assert_eq!(status(&answer), "405 Method Not Allowed");
        assert!(answer.head.contains("\r\nConnection: close\r\n"), "{}", answer.head);
        assert!(client.is_closed());
    }
    endpoint.stop();
}

#[test]
fn no_connection_is_kept_for_ever() {
    let endpoint = Endpoint::start("127.0.8.7");
    let mut client = Client::new(endpoint.address);
    let requests = (1..=2000).find(|_| client.get("/nowhere").head.contains("\r\nConnection: close\r\n")).unwrap();
    assert_eq!(requests, 1000);
    assert!(client.is_closed());
    endpoint.stop();
}

#[test]
fn half_a_request_is_answered_with_408_and_none_with_nothing() {
    let endpoint = Endpoint::start("127.0.8.8");
    let mut silent = Client::new(endpoint.address);
    let mut half = Client::new(endpoint.address);
    half.send("GET /metrics HTTP/1.1\r\nHost: ha");
    let mut second = Client::new(endpoint.address);
    second.get("/metrics");
    second.send("G");
    assert_eq!(status(&half.read(true)), "408 Request Timeout");
    assert!(half.is_closed() && silent.is_closed());
    assert_eq!(status(&second.read(true)), "408 Request Timeout");
    endpoint.stop();
}

#[test]
fn hundreds_of_clients_that_are_silent_or_slow_neither_delay_a_scrape_nor_use_up_descriptors() {
    const CLIENTS: usize = 250;
    let endpoint = Endpoint::start("127.0.8.9");
    let mut drip = connect(endpoint.address);
    // Asks for far more than the buffers of both ends hold, and reads one answer.
    let mut greedy = Client::new(endpoint.address);
    greedy.send(&"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(900));
    greedy.read(true);
    let mut clients = Vec::new();
    for count in 0..CLIENTS {
        let mut stream = connect(endpoint.address);
        if count % 3 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: sl").unwrap();
        }
        clients.push(stream);
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    for byte in b"GET /metrics HTTP/1.1\r\nHost: slow\r\nX-Padding: 0123456789" {
        // It may have been closed to make room for others.
        let _ = drip.write_all(&[*byte]);
        assert!(endpoint.scrape().values.contains_key(&series("oz_worker_connected", &[])));
    }
    let after = std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests of this process come and go meanwhile.
    assert!(open < CLIENTS + 64 + 100 && after <= open + 50, "{open} descriptors, then {after}");
    // What was begun is finished: the answer that was being read slowly is whole.
    for _ in 0..20 {
        let answer = greedy.read(true);
        assert!(answer.body.starts_with(b"# HELP ") && answer.body.ends_with(b"\n"));
    }
    drop(clients);
    endpoint.stop();
}

#[test]
fn ipv6_and_ipv4_are_served_as_the_host_says() {
    let port = |endpoint: &Endpoint| endpoint.address.port();
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let endpoint = Endpoint::start("[::1]");
    assert_eq!(scrape((v6, port(&endpoint)).into()).values.len(), 180);
    assert!(TcpStream::connect((v4, port(&endpoint))).is_err());
    endpoint.stop();
    let endpoint = Endpoint::start("[::]");
    assert_eq!(scrape((v6, port(&endpoint)).into()).values.len(), 180);
    assert_eq!(scrape((v4, port(&endpoint)).into()).values.len(), 180);
    endpoint.stop();
    let endpoint = Endpoint::start("0.0.0.0");
    assert_eq!(scrape((v4, port(&endpoint)).into()).values.len(), 180);
    endpoint.stop();
}

#[test]
fn a_host_that_does_not_resolve_is_one_error_that_names_it_and_the_variable() {
    let log = Log::capture();
    let host = "no-such-host.invalid";
    let variables = [("OTEL_METRICS_EXPORTER", "prometheus"), ("OTEL_EXPORTER_PROMETHEUS_HOST", host)];
    let (recorder, telemetry) = start(env(&variables));
    recorder.record(MetricEvent::Connected);
    telemetry.shutdown(PATIENCE);
    let lines = log.lines_with(host);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ERROR") && lines[0].contains("OTEL_EXPORTER_PROMETHEUS_HOST"), "{lines:?}");
}
