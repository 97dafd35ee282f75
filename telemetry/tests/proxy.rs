//! The `otlp` exporter and a proxy that stands before the collector.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use common::certificates::Authority;
use common::collector::Collector;
use common::{Log, PATIENCE, env, pushing, start};

/// A proxy that leads whoever asks to one collector, whatever name is asked for: by a tunnel, or by passing on what it reads.
/// Gives its port and the heads that it gets; refuses where there is no collector.
fn proxy(collector: Option<&Collector>) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = collector.map(|collector| collector.url.rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
    let (sender, heads) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut head = String::new();
            let mut reader = BufReader::new(client.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut head).unwrap() > 0);
            }
            sender.send(head.clone()).unwrap();
            let Some(target) = target else {
                let _ = client.write_all(b"HTTP/1.1 403 canary\r\nContent-Length: 0\r\n\r\n");
                continue;
            };
            let mut server = TcpStream::connect(("127.0.0.1", target)).unwrap();
            if head.starts_with("CONNECT ") {
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            } else {
                server.write_all(head.as_bytes()).unwrap();
                server.write_all(reader.buffer()).unwrap();
            }
            let pump = |mut from: TcpStream, mut to: TcpStream| {
                thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
            };
            pump(client.try_clone().unwrap(), server.try_clone().unwrap());
            pump(server, client);
        }
    });
    (port, heads)
}

#[test]
fn a_collector_behind_a_proxy_is_reached_by_its_name_with_the_credentials_of_the_proxy() {
    let authority = Authority::new();
    let own = authority.issue("worker");
    let plain = "POST http://collector.test:4318/v1/metrics HTTP/1.1\r\n";
    let tunnel = "CONNECT collector.test:4318 HTTP/1.1\r\n";
    let method = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    let secure = || authority.server_at("collector.test");
    for (protocol, scheme, collector, request, path) in [
        // Plain HTTP is for the proxy to read; many refuse a tunnel to another port than 443.
        ("http/protobuf", "http", Collector::http(&[]), plain, "http://collector.test:4318/v1/metrics"),
        ("http/protobuf", "https", Collector::https(secure()), tunnel, "/v1/metrics"),
        // A proxy reads no HTTP/2.
        ("grpc", "http", Collector::grpc(&[]), tunnel, method),
        ("grpc", "https", Collector::grpc_tls(secure()), tunnel, method),
    ] {
        let (port, heads) = proxy(Some(&collector));
        let url = format!("{scheme}://collector.test:4318");
        let proxy = format!("http://me:p%40ss@127.0.0.1:{port}");
        let certificate = authority.certificate();
        let mut variables = pushing(&url, "3600000");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        variables.push((if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" }, &proxy));
        variables.push(("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "3000"));
        variables.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", &certificate));
        variables.push(("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &own.certificate));
        variables.push(("OTEL_EXPORTER_OTLP_CLIENT_KEY", &own.key));
        start(env(&variables)).1.shutdown(PATIENCE);
        let head = heads.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with(request), "{protocol} over {scheme}: {head}");
        assert!(head.to_ascii_lowercase().contains("host: collector.test:4318\r\n"), "{head}");
        assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic bwu6cebzcw=="), "{head}");
        assert_eq!(collector.received.try_recv().unwrap().path, path, "{protocol} over {scheme}");
    }
}

#[test]
fn a_proxy_that_refuses_is_one_warning_without_its_words_or_credentials() {
    let log = Log::capture();
    let (port, heads) = proxy(None);
    let proxy = format!("http://me:canary@127.0.0.1:{port}");
    for (protocol, url, words) in [
        ("http/protobuf", "http://behind.test:4318", "HTTP 403 Forbidden"),
        ("http/json", "https://behind.test:4318", "refused to connect: HTTP 403"),
        ("grpc", "http://behind.test:4317", "refused to connect: HTTP 403"),
    ] {
        let mut variables = pushing(url, "3600000");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        variables.push(("ALL_PROXY", &proxy));
        start(env(&variables)).1.shutdown(PATIENCE);
        heads.recv_timeout(PATIENCE).unwrap();
        let lines = log.lines_with(url);
        assert!(matches!(&*lines, [line] if line.contains(words)), "{lines:?}");
    }
    assert_eq!(log.lines_with("canary"), [""; 0]);
}
