//! A collector that is down, slow, refuses, takes a part or answers nonsense: one line when it begins, one when it is
//! over, and nothing waits for it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use common::collector::{Answer, Collector, nowhere, silent};
use common::{Log, PATIENCE, env, pushing, scrape, series, start};
use flate2::Compression;
use flate2::write::GzEncoder;
use oz_worker_core::metrics::MetricEvent;
use ruzstd::encoding::CompressionLevel;

/// `google.rpc.Status` with a `RetryInfo` of one second, in base64.
const RETRY_IN_A_SECOND: &str = "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAQ";

#[test]
fn an_outage_is_one_warning_when_it_begins_and_one_line_when_it_is_over() {
    let log = Log::capture();
    let collector = Collector::http(&[Answer::status(503), Answer::status(503), Answer::status(503)]);
    let (_, telemetry) = start(env(&pushing(&collector.url, "20")));
    for _ in 0..3 {
        collector.next();
    }
    log.wait_for(&[&collector.url, "again", "INFO"]);
    // A second outage is told again.
    collector.answers.push(&[Answer::status(400), Answer::status(400)]);
    while collector.answers.left() > 0 {
        collector.next();
    }
    log.wait_for(&[&collector.url, "HTTP 400"]);
    telemetry.shutdown(PATIENCE);

    let lines = log.lines_with(&collector.url);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    for (line, parts) in
        lines.iter().zip([["WARN", "HTTP 503"], ["INFO", "again"], ["WARN", "HTTP 400"], ["INFO", "again"]])
    {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    assert_eq!(log.lines_with("opentelemetry"), [""; 0], "the SDK must not log on its own");
}

#[test]
fn the_port_of_another_protocol_is_named_as_such() {
    let log = Log::capture();
    let (http, grpc) = (silent("127.0.0.1"), Collector::grpc(&[]));
    let http_url = format!("http://{}", http.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in http.incoming() {
            let mut stream = stream.unwrap();
            // As a server of HTTP/1 answers the beginning of HTTP/2; then it reads on, so that the answer arrives.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    for (url, protocol, words) in
        [(&http_url, "grpc", "does not speak HTTP/2"), (&grpc.url, "http/protobuf", "does not speak HTTP/1")]
    {
        let mut variables = pushing(url, "20");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        let (_, telemetry) = start(env(&variables));
        let line = log.wait_for(&[url]);
        let advice = [words, "scheme and port", "4317", "4318", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        assert!(advice.iter().all(|words| line.contains(words)), "{line}");
        telemetry.shutdown(PATIENCE);
    }
}

#[test]
fn a_collector_that_is_not_there_is_one_warning_with_the_cause() {
    let log = Log::capture();
    for (protocol, host) in [("http/protobuf", "127.0.0.6"), ("http/json", "127.0.0.7"), ("grpc", "127.0.0.8")] {
        let url = format!("http://{}", nowhere(host));
        let mut variables = pushing(&url, "20");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        let (_, telemetry) = start(env(&variables));
        let line = log.wait_for(&[&url]);
        assert!(line.contains("WARN") && line.contains("refused"), "{line}");
        telemetry.shutdown(PATIENCE);
        assert_eq!(log.lines_with(&url).len(), 1);
    }
}

#[test]
fn a_busy_collector_is_asked_again_within_the_same_export() {
    let log = Log::capture();
    let busy = [
        ("http/protobuf", Collector::http(&[Answer::status(503).with("Retry-After", "1")])),
        ("http/json", Collector::http(&[Answer::status(429)])),
        ("grpc", Collector::grpc(&[Answer::status(14)])),
        ("grpc", Collector::grpc(&[Answer::status(8).with("grpc-status-details-bin", RETRY_IN_A_SECOND)])),
    ];
    for (protocol, collector) in busy {
        let mut variables = pushing(&collector.url, "3600000");
        variables.retain(|(name, _)| *name != "OTEL_EXPORTER_OTLP_TIMEOUT");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        let (recorder, telemetry) = start(env(&variables));
        recorder.record(MetricEvent::TaskClaimed);
        telemetry.shutdown(PATIENCE);
        let claimed = series("oz_worker_tasks_claimed_total", &[]);
        let exports: Vec<_> = collector.received.try_iter().map(|post| post.decode().numbers[&claimed]).collect();
        assert_eq!(exports, [1, 1], "{protocol}");
        assert_eq!(log.lines_with(&collector.url), [""; 0], "{protocol}");
    }
}

#[test]
fn a_collector_that_wants_a_pause_is_left_alone_by_the_exports_after_it() {
    let log = Log::capture();
    // One pause ends within the export that comes next, one never.
    let busy = |pause: &str| [Answer::status(429).with("Retry-After", pause)];
    let (soon, never) = (Collector::http(&busy("2")), Collector::http(&busy("3600")));
    for collector in [&soon, &never] {
        let mut variables = pushing(&collector.url, "100");
        variables.retain(|(name, _)| *name != "OTEL_EXPORTER_OTLP_TIMEOUT");
        variables.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"));
        let (recorder, telemetry) = start(env(&variables));
        recorder.record(MetricEvent::TaskClaimed);
        collector.next();
        let begin = Instant::now();
        log.wait_for(&[&collector.url, "HTTP 429"]);
        if collector.url == soon.url {
            collector.next();
            assert!(begin.elapsed() > Duration::from_millis(1500), "{:?}", begin.elapsed());
            log.wait_for(&[&collector.url, "again", "INFO"]);
        }
        telemetry.shutdown(PATIENCE);
    }
    assert_eq!(never.received.try_iter().count(), 0);
    assert_eq!(log.lines_with(&never.url).len(), 1);
}

#[test]
fn a_refusal_and_a_wait_that_is_too_long_end_the_export() {
    let log = Log::capture();
    let collectors = [
        ("http/protobuf", Collector::http(&[Answer::status(401)]), "HTTP 401"),
        ("http/protobuf", Collector::http(&[Answer::status(503).with("Retry-After", "3600")]), "HTTP 503"),
        ("http/json", Collector::http(&[Answer::status(307).with("Location", "http://localhost:1/")]), "HTTP 307"),
        ("grpc", Collector::grpc(&[Answer::status(16)]), "gRPC 16 UNAUTHENTICATED"),
        ("grpc", Collector::grpc(&[Answer::status(8)]), "gRPC 8 RESOURCE_EXHAUSTED"),
    ];
    for (protocol, collector, cause) in collectors {
        let mut variables = pushing(&collector.url, "3600000");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        start(env(&variables)).1.shutdown(PATIENCE);
        assert_eq!(collector.received.try_iter().count(), 1);
        let lines = log.lines_with(&collector.url);
        assert!(matches!(&*lines, [line] if line.contains(cause)), "{lines:#?}");
    }
}

#[test]
fn what_a_collector_does_not_take_or_does_not_like_is_one_warning_in_its_own_words() {
    let log = Log::capture();
    for (protocol, status, start_collector) in
        [("http/protobuf", 200, Collector::http as fn(&[Answer]) -> Collector), ("grpc", 0, Collector::grpc)]
    {
        for (rejected, words) in
            [(7, "takes only a part of the metrics"), (0, "the collector takes the metrics with a warning")]
        {
            let partial = Answer::partial(status, rejected, "too\nold");
            let collector = start_collector(&[partial.clone(), partial]);
            let mut variables = pushing(&collector.url, "20");
            variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
            let (_, telemetry) = start(env(&variables));
            log.wait_for(&[&collector.url, "INFO", "again"]);
            telemetry.shutdown(PATIENCE);
            let lines = log.lines_with(&collector.url);
            assert_eq!(lines.len(), 2, "{lines:#?}");
            assert!(["WARN", words, "too\\nold"].iter().all(|part| lines[0].contains(part)), "{lines:#?}");
            assert_eq!(lines[0].contains("rejected=7"), rejected > 0, "{lines:#?}");
        }
    }
}

#[test]
fn an_answer_of_grpc_may_be_packed() {
    let log = Log::capture();
    let answer = Answer::partial(0, 7, "too old");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&answer.body).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(answer.body.as_slice(), CompressionLevel::Fastest);
    for (encoding, body) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd)] {
        let collector = Collector::grpc(&[Answer { body, ..answer.clone() }.with("grpc-encoding", encoding)]);
        let mut variables = pushing(&collector.url, "3600000");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
        start(env(&variables)).1.shutdown(PATIENCE);
        let lines = log.lines_with(&collector.url);
        assert!(matches!(&*lines, [line] if line.contains("rejected=7")), "{encoding}: {lines:#?}");
    }
}

#[test]
fn an_answer_that_is_not_otlp_is_an_outage() {
    let log = Log::capture();
    let page =
        Answer { status: 200, headers: vec![("Content-Type", "text/html".to_owned())], body: b"<html>".to_vec() };
    let collector = Collector::http(&[page]);
    let (_, telemetry) = start(env(&pushing(&collector.url, "20")));
    log.wait_for(&[&collector.url, "INFO", "again"]);
    telemetry.shutdown(PATIENCE);
    assert!(log.lines_with(&collector.url)[0].contains("is the endpoint an OTLP receiver?"));

    // gRPC to a server that only knows HTTP/1.1.
    let collector = Collector::http(&[]);
    let mut variables = pushing(&collector.url, "3600000");
    variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
    start(env(&variables)).1.shutdown(PATIENCE);
    let lines = log.lines_with(&collector.url);
    assert!(matches!(&*lines, [line] if line.contains("HTTP/2")), "{lines:#?}");
}

#[test]
fn a_last_export_on_exit_holds_the_last_event() {
    let collector = Collector::http(&[]);
    let (recorder, telemetry) = start(env(&pushing(&collector.url, "3600000")));
    recorder.record(MetricEvent::TaskClaimed);
    telemetry.shutdown(PATIENCE);
    let export = collector.received.try_recv().unwrap().decode();
    assert_eq!(export.numbers[&series("oz_worker_tasks_claimed_total", &[])], 1);
    assert!(collector.received.try_recv().is_err());
}

#[test]
fn a_collector_that_never_answers_does_not_hold_up_the_exit() {
    let log = Log::capture();
    for (protocol, host) in [("http/protobuf", "127.0.0.10"), ("grpc", "127.0.0.11")] {
        let silent = silent(host);
        let url = format!("http://{}", silent.local_addr().unwrap());
        let mut variables = pushing(&url, "3600000");
        variables.retain(|(name, _)| *name != "OTEL_EXPORTER_OTLP_TIMEOUT");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        let (_, telemetry) = start(env(&variables));
        let begin = Instant::now();
        telemetry.shutdown(Duration::from_millis(100));
        // The SDK alone would take 5 seconds, the request 10.
        assert!(begin.elapsed() < Duration::from_secs(4), "{protocol}");
        log.wait_for(&[&url, "WARN", "no answer in time"]);
    }
}

#[test]
fn neither_events_nor_scrapes_wait_for_a_collector_that_hangs() {
    let log = Log::capture();
    for (protocol, host) in [("http/protobuf", "127.0.0.4"), ("grpc", "127.0.0.5")] {
        let silent = silent(host);
        let url = format!("http://{}", silent.local_addr().unwrap());
        let mut variables = pushing(&url, "20");
        variables.retain(|(name, _)| *name != "OTEL_EXPORTER_OTLP_TIMEOUT");
        variables[0] = ("OTEL_METRICS_EXPORTER", "prometheus,otlp");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        variables.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "0"));
        variables.push(("OTEL_METRIC_EXPORT_TIMEOUT", "0"));
        variables.push(("OTEL_EXPORTER_PROMETHEUS_HOST", host));
        variables.push(("OTEL_EXPORTER_PROMETHEUS_PORT", "0"));
        let (recorder, telemetry) = start(env(&variables));
        let line = log.wait_for(&["metrics endpoint listening", host]);
        let address = line.rsplit_once("address=").unwrap().1.parse().unwrap();
        // The export has begun, and will not end.
        let connection = silent.accept().unwrap();
        recorder.record(MetricEvent::TaskClaimed);
        let claimed = scrape(address).values[&series("oz_worker_tasks_claimed_total", &[])];
        assert!((claimed - 1.0).abs() < f64::EPSILON, "{protocol}");
        drop(connection);
        telemetry.shutdown(Duration::from_millis(100));
    }
}

#[test]
fn who_leaves_asks_a_collector_once_that_was_down_already() {
    let log = Log::capture();
    for (protocol, collector) in [
        ("http/protobuf", Collector::http(&vec![Answer::status(503); 100])),
        ("grpc", Collector::grpc(&vec![Answer::status(14); 100])),
    ] {
        // Long enough for two attempts at least, and over before the next export begins.
        let mut variables = pushing(&collector.url, "2500");
        variables.retain(|(name, _)| *name != "OTEL_EXPORTER_OTLP_TIMEOUT");
        variables.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"));
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        let (_, telemetry) = start(env(&variables));
        log.wait_for(&[&collector.url]);
        assert!(collector.received.try_iter().count() >= 2, "{protocol}");
        telemetry.shutdown(PATIENCE);
        assert_eq!(collector.received.try_iter().count(), 1, "{protocol}");
        assert_eq!(log.lines_with(&collector.url).len(), 1);
    }
}
