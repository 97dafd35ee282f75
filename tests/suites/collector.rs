//! A real OpenTelemetry Collector takes what real workers push, over every protocol; what it wrote equals what was counted.

use std::{collections::BTreeMap, fs::File, net::TcpListener};

use oz_worker_tests::{
    BOUND,
    message::Assignment,
    metrics::{Labels, Scrape},
    peers::{
        self,
        otelcol::{Collector, Setup},
        otlp::Export,
    },
    tls::Authority,
    worker::Launch,
};
use rustix::process::Signal;

use crate::scene::Scene;

/// The ways to push, and the compressions of each.
const PROTOCOLS: [(&str, &[&str]); 3] = [
    ("http/protobuf", &["none", "gzip", "zstd"]),
    ("http/json", &["none", "gzip", "zstd"]),
    ("grpc", &["none", "gzip", "zstd"]),
];

/// A worker that serves `/metrics` too, so that the two can be compared, and pushes often.
fn pushing(launch: Launch, collector: &Collector, protocol: &str) -> Launch {
    let endpoint = if protocol == "grpc" { collector.grpc() } else { collector.http() };
    launch
        .with_metrics()
        .env("OTEL_METRICS_EXPORTER", "prometheus,otlp")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
}

/// Tasks that end in several ways, one that still runs, and one that was rejected.
fn run_tasks(scene: &mut Scene) -> Scrape {
    for task_id in ["good-1", "good-2"] {
        scene.still_works(task_id);
    }
    scene.fail(&Assignment::new("bad").run("exit 3"));
    scene.claim(&Assignment::new("cancelled").run("gate"));
    scene.cancel("cancelled");
    scene.claim(&Assignment::new("running").run("gate"));
    scene.session.send(Assignment::new("rejected"));
    scene.session.expect("task_rejected");
    scene.worker.wait_for_metric("oz_worker_tasks_rejected_total", &[("reason", "at_capacity")], 1.0)
}

/// The samples of a scrape which are not about the scrape itself.
fn samples(scrape: &Scrape) -> BTreeMap<(String, Labels), f64> {
    let samples = scrape.families.values().flat_map(|family| family.samples.clone());
    samples.filter(|((name, _), _)| name != "target_info").collect()
}

/// Whether an export has each sample that was counted, and no other: to the last digit, but for what the collector has read
/// as JSON. It reads numbers of 17 digits a little wrong there: 0.0036766870000000002 becomes 0.003676687.
fn shows(export: &Export, counted: &BTreeMap<(String, Labels), f64>, protocol: &str) -> bool {
    let shown = export.samples();
    let tolerance = if protocol == "http/json" { 4.0 * f64::EPSILON } else { 0.0 };
    let equals = |shown: f64, counted: f64| (shown - counted).abs() <= tolerance * counted.abs();
    shown.len() == counted.len()
        && counted.iter().all(|(key, value)| shown.get(key).is_some_and(|shown| equals(*shown, *value)))
}

#[test]
fn what_the_collector_writes_is_what_the_worker_counted() {
    let Some(collector) = Setup::plain().start() else { return };
    for (protocol, compressions) in PROTOCOLS {
        for compression in compressions {
            let mut scene = Scene::with(|launch| {
                let launch = pushing(launch, &collector, protocol).flags(["--max-concurrent-tasks", "1"]);
                launch.env("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
            });
            let scrape = run_tasks(&mut scene);
            let of_this_worker = ("worker.id", scene.worker.launch.id());
            let (what, counted) = (format!("{protocol} with compression {compression}"), samples(&scrape));
            let export = collector.wait_for(&what, |exports| {
                let equal = |export: &&Export| is_from(export, of_this_worker) && shows(export, &counted, protocol);
                exports.iter().rfind(equal).cloned()
            });
            for (name, family) in scrape.families.iter().filter(|(name, _)| *name != "target_info") {
                let metric = &export.metrics[name];
                let kind = match (metric.kind.as_str(), metric.is_monotonic) {
                    ("sum", true) => "counter",
                    ("sum", false) => "gauge",
                    (kind, _) => kind,
                };
                assert_eq!((kind, &metric.description, metric.is_delta), (family.kind.as_str(), &family.help, false));
            }
            assert_eq!(export.metrics["oz_worker_task_duration_seconds"].unit, "s");
            assert_eq!(export.metrics.len(), 11);
        }
    }
}

fn is_from(export: &Export, (attribute, value): (&str, &str)) -> bool {
    export.resource.get(attribute).is_some_and(|given| given == value)
}

#[test]
fn every_export_says_who_it_is_from() {
    let Some(collector) = Setup::plain().start() else { return };
    let scene = Scene::with(|launch| {
        pushing(launch, &collector, "http/protobuf")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=staging%2Ceu,team=build")
    });
    let export = collector.wait_for("an export", |exports| exports.first().cloned());
    let resource = &export.resource;
    let version = resource["service.version"].clone();
    let info = [("version", version.as_str()), ("backend", "direct"), ("worker_id", scene.worker.launch.id())];
    assert_eq!(scene.worker.scrape().value("oz_worker_info", &info), 1.0);
    for (attribute, value) in [
        ("service.name", "oz-agent-worker"),
        ("worker.id", scene.worker.launch.id()),
        ("worker.backend", "direct"),
        ("deployment.environment", "staging,eu"),
        ("team", "build"),
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.language", "rust"),
        ("host.name", rustix::system::uname().nodename().to_str().unwrap()),
    ] {
        assert_eq!(resource.get(attribute).map(String::as_str), Some(value), "{attribute}");
    }

    // A second process with the same id is told apart.
    let other = scene.worker.launch.start();
    let _session = scene.server.accept();
    let instance = resource["service.instance.id"].clone();
    collector.wait_for("an export of the other process", |exports| {
        let id = ("worker.id", scene.worker.launch.id());
        exports
            .iter()
            .any(|export| is_from(export, id) && export.resource["service.instance.id"] != instance)
            .then_some(())
    });
    drop(other);
}

#[test]
fn deltas_add_up_to_what_was_counted() {
    let Some(collector) = Setup::plain().start() else { return };
    let mut scene = Scene::with(|launch| {
        pushing(launch, &collector, "http/protobuf")
            .flags(["--max-concurrent-tasks", "1"])
            .env("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    });
    let counted = samples(&run_tasks(&mut scene));
    collector.wait_for("the sum of all deltas", |exports| {
        let mut sums: BTreeMap<(String, Labels), f64> = BTreeMap::new();
        for metric in exports.iter().flat_map(|export| export.metrics.values()) {
            for (series, value) in &metric.samples {
                let sum = sums.entry(series.clone()).or_default();
                *sum = if metric.is_delta { *sum + value } else { *value };
            }
        }
        // What did not change has no delta, and a series that has none at all is still at 0.
        let equal = |(series, counted): (&(String, Labels), &f64)| {
            (counted - sums.get(series).copied().unwrap_or_default()).abs() < 1e-9
        };
        (sums.keys().all(|series| counted.contains_key(series)) && counted.iter().all(equal)).then_some(())
    });
    // What a worker is, and what runs on it, has no difference to the export before.
    let exports = collector.exports();
    let all = |name: &str| exports.iter().filter_map(|export| export.metrics.get(name)).collect::<Vec<_>>();
    for name in ["oz_worker_tasks_completed_total", "oz_worker_task_duration_seconds"] {
        assert!(!all(name).is_empty() && all(name).iter().all(|metric| metric.is_delta), "{name}");
    }
    for name in ["oz_worker_tasks_active", "oz_worker_info", "oz_worker_connected", "oz_worker_tasks_max_concurrent"] {
        let always = all(name).iter().filter(|metric| !metric.is_delta && metric.samples.len() == 1).count();
        assert_eq!(always, exports.len(), "{name}");
    }
}

#[test]
fn collector_that_is_killed_and_comes_back_is_one_line_each_way() {
    let Some(mut collector) = Setup::plain().start() else { return };
    for (protocol, _) in PROTOCOLS {
        let mut scene = Scene::with(|launch| pushing(launch, &collector, protocol));
        let id = ("worker.id", scene.worker.launch.id().to_owned());
        let id = (id.0, id.1.as_str());
        collector.wait_for("an export", |exports| exports.iter().any(|export| is_from(export, id)).then_some(()));
        scene.still_works("before");

        collector.kill();
        let line = scene.worker.wait_for_line("metrics do not reach the collector");
        assert!(line.contains("WARN"), "{line}");
        scene.still_works("meanwhile");

        collector.start_again();
        scene.worker.wait_for_line("metrics reach the collector again");
        scene.still_works("after");
        collector.wait_for("all three tasks", |exports| {
            let succeeded = ("oz_worker_tasks_completed_total".to_owned(), result("succeeded"));
            let has_all = |export: &Export| is_from(export, id) && export.samples().get(&succeeded) == Some(&3.0);
            exports.iter().any(has_all).then_some(())
        });
        let about_metrics = scene.worker.lines_with("collector");
        assert_eq!(about_metrics.len(), 2, "{about_metrics:#?}");
    }
}

fn result(value: &str) -> Labels {
    [("result".to_owned(), value.to_owned())].into()
}

#[test]
fn last_export_is_pushed_on_exit() {
    let Some(collector) = Setup::plain().start() else { return };
    for (protocol, _) in PROTOCOLS {
        let mut scene = Scene::with(|launch| {
            // No export but the last comes in a day.
            pushing(launch, &collector, protocol).env("OTEL_METRIC_EXPORT_INTERVAL", "86400000")
        });
        scene.still_works("T1");
        scene.worker.signal(Signal::TERM);
        scene.session.expect_close();
        scene.session.hang_up();
        assert!(scene.worker.has_ended_within(BOUND));
        let export = collector.wait_for("the last export", |exports| {
            exports.iter().find(|export| is_from(export, ("worker.id", scene.worker.launch.id()))).cloned()
        });
        let succeeded = ("oz_worker_tasks_completed_total".to_owned(), result("succeeded"));
        assert_eq!(export.samples()[&succeeded], 1.0);
    }
}

#[test]
fn worker_that_is_told_nothing_pushes_to_the_default_port_of_this_machine() {
    // Another run of this suite uses the same ports.
    let turn = File::create(std::env::temp_dir().join("oz-worker-tests-4318.lock")).unwrap();
    turn.lock().unwrap();
    for port in [4317, 4318] {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            return peers::skip_this(&format!("port {port} cannot be listened on: {error}"));
        }
    }
    let Some(collector) = Setup::on_default_ports().start() else { return };
    for (protocol, _) in PROTOCOLS {
        let mut scene = Scene::with(|launch| {
            let launch = launch.without_env("OTEL_METRICS_EXPORTER");
            if protocol == "http/protobuf" { launch } else { launch.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol) }
        });
        scene.worker.signal(Signal::TERM);
        scene.session.expect_close();
        scene.session.hang_up();
        collector.wait_for(protocol, |exports| {
            let id = ("worker.id", scene.worker.launch.id());
            exports.iter().any(|export| is_from(export, id)).then_some(())
        });
    }
}

#[test]
fn client_certificate_opens_a_collector_that_asks_for_one() {
    let authority = Authority::new("A test's authority");
    let dir = tempfile::tempdir().unwrap();
    let Some(collector) = Setup::tls(&authority, dir.path()).start() else { return };
    let (certificate, key) = authority.issue("worker", dir.path());
    let trusted = dir.path().join("trusted.pem");
    authority.write(&trusted);
    for (protocol, _) in PROTOCOLS {
        let trusting = |launch| {
            pushing(launch, &collector, protocol).env("OTEL_EXPORTER_OTLP_CERTIFICATE", trusted.to_str().unwrap())
        };
        let known = Scene::with(|launch| {
            trusting(launch)
                .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", certificate.to_str().unwrap())
                .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", key.to_str().unwrap())
        });
        let id = ("worker.id", known.worker.launch.id());
        collector.wait_for(protocol, |exports| exports.iter().any(|export| is_from(export, id)).then_some(()));
        assert_eq!(known.worker.lines_with("collector"), [""; 0], "{protocol}");

        let unknown = Scene::with(trusting);
        let line = unknown.worker.wait_for_line("metrics do not reach the collector");
        assert!(line.contains("it asks for a client certificate"), "{protocol}: {line}");
        let id = ("worker.id", unknown.worker.launch.id());
        assert!(!collector.exports().iter().any(|export| is_from(export, id)), "{protocol}");
    }
}

#[test]
fn span_that_the_collector_writes_is_the_context_that_the_task_saw() {
    let Some(collector) = Setup::plain().start() else { return };
    for (protocol, _) in PROTOCOLS {
        let mut scene = Scene::with(|launch| {
            let launch = pushing(launch, &collector, protocol).env("OTEL_TRACES_EXPORTER", "otlp");
            launch.env("OTEL_BSP_SCHEDULE_DELAY", "100")
        });
        let ids = ["good", "bad"].map(|task| format!("{task}-over-{}", protocol.replace('/', "-")));
        scene.run(&Assignment::new(&ids[0]).run("record"));
        scene.fail(&Assignment::new(&ids[1]).run("record; exit 3"));
        let spans = ids.each_ref().map(|task_id| {
            collector.wait_for(task_id, |exports| {
                exports.iter().flat_map(|export| &export.spans).find(|span| span.task_id() == task_id).cloned()
            })
        });
        for (task_id, span) in ids.iter().zip(&spans) {
            assert_eq!(scene.agent.record(task_id).environment["TRACEPARENT"], span.traceparent());
            assert_eq!(
                (span.name.as_str(), span.resource["worker.id"].as_str()),
                ("oz_worker.task", scene.worker.launch.id())
            );
            assert_eq!(span.resource["service.name"], "oz-agent-worker");
        }
        let [good, bad] = &spans;
        assert_eq!((good.status.as_str(), good.event_names().last()), ("ok", Some(&"task.completed")));
        assert!(bad.status.starts_with("error"), "{bad:#?}");
        assert_eq!(bad.event("task.failed").attributes["failure.reason"], "agent_invocation");
    }
}
