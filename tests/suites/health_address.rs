//! `--health-address`: something to probe where no metrics are scraped.

use std::net::TcpListener;

use oz_worker_tests::{
    peers::skip_this,
    worker::{Worker, http_get},
};

use crate::scene::Scene;

/// The address that the log names.
fn address(worker: &Worker) -> String {
    let line = worker.wait_for_line("health endpoint listening");
    line.rsplit_once("address=").unwrap().1.to_owned()
}

#[test]
fn a_worker_without_metrics_answers_probes_and_nothing_else() {
    let mut scene =
        Scene::with(|launch| launch.flags(["--health-address", "127.0.0.1:0", "--max-concurrent-tasks", "1"]));
    let address = address(&scene.worker);
    assert_eq!(http_get(&address, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(http_get(&address, "/readyz"), (200, "ok\n".to_owned()));
    for path in ["/metrics", "/", "/healthz"] {
        assert_eq!(http_get(&address, path), (404, "there are /livez and /readyz\n".to_owned()), "{path}");
    }
    scene.claim(&oz_worker_tests::message::Assignment::new("T1").run("say started; gate"));
    scene.agent.wait_for("T1", "started");
    let (status, reason) = http_get(&address, "/readyz");
    assert_eq!(status, 503, "{reason}");
    assert_eq!(http_get(&address, "/livez").0, 200);
    scene.agent.open_gate();
    scene.end_of("T1");
}

#[test]
fn on_every_address_of_both_families_either_is_answered() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        return skip_this(&format!("this machine has no IPv6: {error}"));
    }
    let scene = Scene::with(|launch| {
        launch.with_metrics().env("OTEL_EXPORTER_PROMETHEUS_HOST", "[::]").flags(["--health-address", "[::]:0"])
    });
    for address in [address(&scene.worker), scene.worker.metrics_address()] {
        let port = address.strip_prefix("[::]:").unwrap_or_else(|| panic!("not every address: {address}"));
        for host in ["127.0.0.1", "[::1]"] {
            assert_eq!(http_get(&format!("{host}:{port}"), "/readyz").0, 200, "{host}:{port}");
        }
    }
}

#[test]
fn it_is_beside_the_endpoint_that_is_scraped() {
    let scene = Scene::with(|launch| launch.with_metrics().flags(["--health-address", "127.0.0.1:0"]));
    let health = address(&scene.worker);
    assert_ne!(health, scene.worker.metrics_address());
    for address in [health, scene.worker.metrics_address()] {
        assert_eq!(http_get(&address, "/readyz").0, 200, "{address}");
    }
}

#[test]
fn a_port_that_is_taken_is_one_line_and_costs_no_task() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut scene = Scene::with(|launch| launch.flags(["--health-address", &address]));
    let line = scene.worker.wait_for_line("no /livez and /readyz");
    assert!(line.contains(&address) && line.contains("change --health-address"), "{line}");
    scene.still_works("T1");
}
