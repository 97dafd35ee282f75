//! The metric catalogue as a scrape shows it; the exporters themselves are tested in `telemetry`.

use std::{fs::File, net::TcpListener};

use oz_worker_tests::{
    agent::Agent,
    message::Assignment,
    peers::skip_this,
    server::Server,
    worker::{API_KEY, Launch, http_get},
};

use crate::scene::Scene;

/// Histogram boundaries, in seconds (`docs/metrics.md`).
const BOUNDARIES: [&str; 17] = [
    "0.5", "1", "2.5", "5", "10", "30", "60", "120", "300", "600", "1200", "1800", "3600", "7200", "14400", "28800",
    "+Inf",
];

#[test]
fn every_series_is_there_before_the_first_task_and_none_is_added() {
    let mut scene = Scene::with(|launch| launch.with_metrics().flags(["--max-concurrent-tasks", "7"]));
    let first = scene.worker.wait_for_metric("oz_worker_connected", &[], 1.0);
    assert_eq!(first.families["oz_worker_task_failures_total"].samples.len(), 87);
    assert_eq!(first.families["oz_worker_tasks_rejected_total"].samples.len(), 4);
    assert_eq!(first.families["oz_worker_tasks_completed_total"].samples.len(), 4);
    assert_eq!(first.value("oz_worker_tasks_max_concurrent", &[]), 7.0);
    assert_eq!(first.families["oz_worker_task_duration_seconds"].kind, "histogram");
    for result in ["succeeded", "failed", "cancelled", "dispatched"] {
        for boundary in BOUNDARIES {
            let labels = [("result", result), ("le", boundary)];
            assert_eq!(first.value("oz_worker_task_duration_seconds_bucket", &labels), 0.0);
        }
        assert_eq!(first.value("oz_worker_task_duration_seconds_sum", &[("result", result)]), 0.0);
        assert_eq!(first.value("oz_worker_task_duration_seconds_count", &[("result", result)]), 0.0);
    }
    assert_eq!(first.families["oz_worker_task_duration_seconds"].samples.len(), 4 * (BOUNDARIES.len() + 2));

    for count in 0..30 {
        scene.run(&Assignment::new(&format!("T{count}")).run(&format!("exit {}", count % 2)));
    }
    let last = scene.worker.wait_for_metric("oz_worker_tasks_active", &[], 0.0);
    assert_eq!(first.series(), last.series());
    assert_eq!(last.value("oz_worker_tasks_claimed_total", &[]), 30.0);
}

#[test]
fn port_in_use_is_named_and_the_worker_goes_on() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let mut scene = Scene::with(|launch| launch.with_metrics().env("OTEL_EXPORTER_PROMETHEUS_PORT", &port));
    let line = scene.worker.wait_for_line("OTEL_EXPORTER_PROMETHEUS_PORT");
    assert!(line.contains(&port) && line.contains("127.0.0.1"), "{line}");
    scene.still_works("T1");
}

#[test]
fn unknown_exporter_is_one_error_and_the_worker_goes_on() {
    let mut scene = Scene::with(|launch| launch.env("OTEL_METRICS_EXPORTER", "carrier-pigeon"));
    scene.still_works("T1");
    scene.warnings_before("T1");
    let lines = scene.worker.lines_with("carrier-pigeon");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(["otlp", "prometheus", "console", "none"].iter().all(|name| lines[0].contains(name)), "{}", lines[0]);
}

#[test]
fn console_exporter_writes_to_standard_output_at_exit() {
    let mut scene = Scene::with(|launch| launch.env("OTEL_METRICS_EXPORTER", "console"));
    scene.still_works("T1");
    scene.worker.signal(rustix::process::Signal::TERM);
    scene.session.expect_close();
    scene.session.hang_up();
    let ended = scene.worker.ended();
    assert!(ended.stdout.contains("oz_worker_tasks_claimed_total"), "{}", ended.stdout);
    assert!(!ended.stderr.contains("oz_worker_tasks_claimed_total"), "{}", ended.stderr);
}

#[test]
fn only_known_paths_are_served() {
    let mut scene = Scene::with(Launch::with_metrics);
    let address = scene.worker.metrics_address();
    assert_eq!(http_get(&address, "/metrics").0, 200);
    assert_eq!(http_get(&address, "/no-such-path").0, 404);
    scene.still_works("T1");
}

#[test]
fn endpoint_of_the_documented_commands_is_reached_from_outside_and_has_the_expected_families() {
    // Another run of this suite uses the same port and the same id.
    let turn = File::create(std::env::temp_dir().join("oz-worker-tests-9464.lock")).unwrap();
    turn.lock().unwrap();
    if let Err(error) = TcpListener::bind("0.0.0.0:9464") {
        return skip_this(&format!("port 9464 cannot be listened on: {error}"));
    }
    let (server, agent) = (Server::start(), Agent::new());
    let worker = Launch::direct(&server, &agent)
        .env("OTEL_METRICS_EXPORTER", "prometheus")
        .env("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0")
        .env("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")
        .without_env("WARP_API_KEY")
        .flags(["--api-key", API_KEY])
        .worker_id("my-worker")
        .start();
    let _session = server.accept();
    worker.wait_for_line("metrics endpoint listening");
    // `localhost`, and an address that whoever listens on `localhost` only does not have.
    for address in ["localhost:9464", "127.0.0.2:9464"] {
        let (status, body) = http_get(address, "/metrics");
        let found: Vec<&str> = body.lines().filter(|line| line.contains("oz_worker_")).collect();
        assert_eq!(status, 200);
        for family in ["oz_worker_connected", "oz_worker_tasks_active"] {
            assert!(found.iter().any(|line| line.starts_with(&format!("# TYPE {family} "))), "{family}: {found:#?}");
        }
    }
}

#[test]
fn exporter_none_is_no_listener_and_no_line() {
    let mut scene = Scene::with(|launch| launch.env("OTEL_METRICS_EXPORTER", "none"));
    scene.still_works("T1");
    scene.warnings_before("T1");
    for word in ["metrics", "telemetry", "OTEL"] {
        assert_eq!(scene.worker.lines_with(word), [""; 0]);
    }
    assert_eq!(listening_sockets(scene.worker.pid()), 0);
    let serving = Scene::with(Launch::with_metrics);
    serving.worker.metrics_address();
    assert_eq!(listening_sockets(serving.worker.pid()), 1);
}

/// How many TCP sockets a process listens on.
fn listening_sockets(pid: i32) -> usize {
    let of_process: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap());
    let lines = tables.iter().flat_map(|table| table.lines()).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // The fourth field is the state, 0A when listening; the tenth the inode.
    let listening = lines.filter(|fields| fields.get(3) == Some(&"0A"));
    listening.filter(|fields| of_process.contains(&format!("socket:[{}]", fields[9]))).count()
}
