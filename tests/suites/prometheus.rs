//! A real Prometheus scrapes real workers while tasks run and end in all ways; every query of the product's monitoring page,
//! word for word, is asked through its API and held against what was run.
//!
//! `rate()` extrapolates to the edges of its window by at most about one scrape interval of the seconds that were sampled,
//! so that a rate is held against its expectation within 15 %; with the few events here, one more or less is beyond that.

use oz_worker_tests::{
    agent::Agent,
    message::{Assignment, Cancellation},
    metrics::Scrape,
    peers::{
        prometheus::{Prometheus, check_metrics},
        queries::{
            DURATION_P95, FAILURE_RATE, RECONNECT_STORMS, SATURATION, SUCCESS_RATE, WORKERS_ACTIVE, WORKERS_AVAILABLE,
        },
    },
    worker::Launch,
};

use crate::scene::Scene;

/// The window of every rate, in seconds.
const WINDOW: f64 = 300.0;

/// Waits at its gate until the test lets it end.
const LONG: &str = "say started; gate";

/// Workers with these limits and the Prometheus that scrapes them; it has seen every one with all its counters at 0.
fn fleet(limits: &[&str]) -> Option<(Vec<Scene>, Prometheus)> {
    let limited = |limit: &&str| Scene::with(|launch| launch.with_metrics().flags(["--max-concurrent-tasks", *limit]));
    let workers: Vec<Scene> = limits.iter().map(limited).collect();
    let prometheus = watch(&workers)?;
    Some((workers, prometheus))
}

fn watch(workers: &[Scene]) -> Option<Prometheus> {
    let addresses: Vec<String> = workers.iter().map(|scene| scene.worker.metrics_address()).collect();
    let prometheus = Prometheus::scraping(&addresses)?;
    prometheus.wait_for_value("count(oz_worker_tasks_completed_total == 0)", 4.0 * count(workers.len()));
    prometheus.wait_for_value(WORKERS_AVAILABLE, count(workers.len()));
    Some(prometheus)
}

fn count(things: usize) -> f64 {
    f64::from(u32::try_from(things).unwrap())
}

/// The answer of a query about rates comes as near to this as the extrapolation lets it; every scrape brings it nearer.
fn wait_for_rate(prometheus: &Prometheus, query: &str, expected: f64) {
    prometheus.wait_for(query, |answer| matches!(answer, [sample] if (sample.value / expected - 1.0).abs() < 0.15));
}

#[test]
fn what_runs_now_is_what_prometheus_answers() {
    let Some((mut workers, prometheus)) = fleet(&["2", "4", "0", "2"]) else { return };
    assert_eq!(prometheus.value(WORKERS_ACTIVE), None, "no worker is active, and count() of nothing is nothing");
    prometheus.wait_for_value(SATURATION, 0.0);

    for (worker, task_id) in [(0, "A1"), (0, "A2"), (1, "B1"), (2, "C1")] {
        workers[worker].claim(&Assignment::new(task_id).run(LONG));
    }
    prometheus.wait_for_value("sum(oz_worker_tasks_active)", 4.0);
    prometheus.wait_for_value(WORKERS_ACTIVE, 3.0);
    // The one without a limit counts above the line and not below it: the page warns of it.
    prometheus.wait_for_value(SATURATION, 4.0 / 8.0);

    // A worker whose server is gone is not available, but its task still runs.
    workers[0].session.hang_up();
    prometheus.wait_for_value(WORKERS_AVAILABLE, 3.0);
    prometheus.wait_for_value(WORKERS_ACTIVE, 3.0);

    for scene in &workers {
        scene.agent.open_gate();
    }
    prometheus.wait_for_value("sum(oz_worker_tasks_active)", 1.0);
    prometheus.wait_for_value(WORKERS_ACTIVE, 1.0);
    prometheus.wait_for_value(SATURATION, 1.0 / 8.0);
    workers[0].accept_again();
    prometheus.wait_for_value(WORKERS_AVAILABLE, 4.0);
}

#[test]
fn what_was_run_is_what_rates_and_quantiles_answer() {
    let dispatcher = Scene::command(Agent::running("cat > /dev/null"), Launch::with_metrics);
    let direct = Scene::with(|launch| launch.with_metrics().flags(["--max-concurrent-tasks", "2"]));
    let mut workers = [direct, dispatcher];
    let Some(prometheus) = watch(&workers) else { return };

    let [direct, dispatcher] = &mut workers;
    for number in 0..9 {
        direct.still_works(&format!("good-{number}"));
    }
    for number in 0..4 {
        direct.fail(&Assignment::new(&format!("bad-{number}")).run("exit 3"));
    }
    for number in 0..2 {
        let end = direct.run(&Assignment::new(&format!("slow-{number}")).run("sleep 0.6"));
        assert_eq!(end["type"], "task_completed");
    }
    direct.claim(&Assignment::new("cancelled").run(LONG));
    direct.claim(&Assignment::new("in-the-way").run(LONG));
    direct.session.send(Assignment::new("rejected"));
    direct.session.expect("task_rejected");
    direct.cancel("cancelled");
    direct.session.send(Cancellation::of("in-the-way"));
    direct.end_of("in-the-way");
    for number in 0..3 {
        dispatcher.claim(&Assignment::new(&format!("dispatched-{number}")));
    }

    let counts = [("succeeded", 11.0), ("failed", 4.0), ("cancelled", 2.0), ("dispatched", 3.0)];
    for (result, count) in counts {
        prometheus.wait_for_value(&format!("sum(oz_worker_tasks_completed_total{{result={result:?}}})"), count);
    }
    prometheus.wait_for_value("sum(oz_worker_tasks_claimed_total)", 20.0);
    prometheus.wait_for_value(r#"sum(oz_worker_tasks_rejected_total{reason="at_capacity"})"#, 1.0);
    prometheus.wait_for_value(r#"sum(oz_worker_task_failures_total{phase="backend", reason="agent_invocation"})"#, 4.0);
    prometheus.wait_for_value("sum(oz_worker_task_failures_total)", 4.0);

    wait_for_rate(&prometheus, SUCCESS_RATE, 11.0 / 20.0);
    wait_for_rate(&prometheus, FAILURE_RATE, 4.0 / WINDOW);
    let scrapes: Vec<Scrape> = workers.iter().map(|scene| scene.worker.scrape()).collect();
    let fast = buckets(&scrapes).iter().find(|(bound, _)| *bound == 0.5).unwrap().1;
    assert!(fast <= 18.0, "a task of 0.6 s is counted as one of 0.5 s at most");
    wait_for_rate(&prometheus, DURATION_P95, quantile(0.95, &buckets(&scrapes)));

    every_query_of_the_documentation_is_answered(&prometheus);
}

/// The histogram's cumulative counts over all results and workers, by upper bound.
fn buckets(scrapes: &[Scrape]) -> Vec<(f64, f64)> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    let families = scrapes.iter().map(|scrape| &scrape.families["oz_worker_task_duration_seconds"].samples);
    for ((name, labels), count) in families.flatten().filter(|((name, _), _)| name.ends_with("_bucket")) {
        let bound: f64 = labels["le"].parse().unwrap_or_else(|_| panic!("{name} {labels:?}"));
        match buckets.iter_mut().find(|(other, _)| *other == bound) {
            Some((_, sum)) => *sum += count,
            None => buckets.push((bound, *count)),
        }
    }
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    buckets
}

/// The quantile as Prometheus documents it: linear within the bucket it falls into.
fn quantile(quantile: f64, buckets: &[(f64, f64)]) -> f64 {
    let rank = quantile * buckets.last().unwrap().1;
    let at = buckets.iter().position(|(_, count)| *count >= rank).unwrap();
    let (start, below) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (end, up_to) = buckets[at];
    start + (end - start) * (rank - below) / (up_to - below)
}

/// `docs/metrics.md` shows queries of its own; none is wrong, and all but the alert have an answer now.
fn every_query_of_the_documentation_is_answered(prometheus: &Prometheus) {
    let page = include_str!("../../docs/metrics.md");
    let queries: Vec<&str> =
        page.split("```promql\n").skip(1).map(|rest| rest.split("```").next().unwrap().trim()).collect();
    assert!(queries.len() >= 7, "{queries:#?}");
    for query in queries {
        let is_empty = query == RECONNECT_STORMS || query == WORKERS_ACTIVE;
        prometheus.wait_for(query, |answer| answer.is_empty() == is_empty);
    }
}

#[test]
fn a_storm_of_reconnects_crosses_the_threshold_and_a_few_do_not() {
    let Some((mut workers, prometheus)) = fleet(&["1", "1", "1", "1"]) else { return };
    let mut drop_all = || {
        for scene in &mut workers {
            // A connection that brought a message was good: the worker dials again at once.
            scene.session.send(Cancellation::of("nobody's"));
            scene.session.hang_up();
        }
        for scene in &mut workers {
            scene.accept_again();
        }
    };
    drop_all();
    prometheus.wait_for_value(r#"sum(oz_worker_websocket_reconnects_total{reason="remote_close"})"#, 4.0);
    assert_eq!(prometheus.value(RECONNECT_STORMS), None);

    // 0.1 per second is 30 in the window.
    for _ in 0..9 {
        drop_all();
    }
    prometheus.wait_for_value("sum(oz_worker_websocket_reconnects_total)", 40.0);
    wait_for_rate(&prometheus, RECONNECT_STORMS, 40.0 / WINDOW);
}

#[test]
fn prometheus_stores_every_series_of_the_scrape_and_joins_them_by_labels() {
    let Some((mut workers, prometheus)) = fleet(&["3"]) else { return };
    let scene = &mut workers[0];
    scene.still_works("T1");
    prometheus.wait_for_value(r#"oz_worker_tasks_completed_total{result="succeeded"}"#, 1.0);
    scene.claim(&Assignment::new("T2").run(LONG));
    scene.agent.wait_for("T2", "started");
    // Nothing changes after both. That one task is active alone was true of the first too.
    prometheus.wait_for_value("oz_worker_tasks_active + oz_worker_tasks_claimed_total", 1.0 + 2.0);

    let scrape = scene.worker.scrape();
    let scraped = scrape.families.values().flat_map(|family| &family.samples);
    let mut expected: Vec<_> = scraped.filter(|((name, _), _)| name.starts_with("oz_worker_")).collect();
    let mut stored = prometheus.wait_for(r#"{__name__=~"oz_worker_.*"}"#, |stored| stored.len() == expected.len());
    for sample in &mut stored {
        assert_eq!(sample.labels.remove("job").as_deref(), Some("oz-agent-worker"));
        assert_eq!(sample.labels.remove("instance"), Some(scene.worker.metrics_address()));
        assert_eq!(sample.labels.remove("otel_scope_name").as_deref(), Some("oz-agent-worker"));
        sample.labels.retain(|label, _| !label.starts_with("otel_scope_"));
    }
    expected.retain(|((name, labels), value)| {
        !stored.iter().any(|sample| {
            let mut stored = sample.labels.clone();
            stored.remove("__name__").as_ref() == Some(name) && stored == *labels && sample.value == **value
        })
    });
    assert!(expected.is_empty(), "not stored as scraped: {expected:#?}");

    let join = "oz_worker_tasks_active * on (instance) group_left (version, backend, worker_id) oz_worker_info";
    let joined = prometheus.wait_for(join, |joined| matches!(joined, [sample] if sample.value == 1.0));
    let labels = &joined[0].labels;
    assert_eq!((labels["backend"].as_str(), labels["worker_id"].as_str()), ("direct", scene.worker.launch.id()));
    assert_ne!(labels["version"], "");
    let resource = prometheus.wait_for("target_info", |resource| resource.len() == 1);
    assert_eq!(resource[0].labels["service_name"], "oz-agent-worker");
    assert_eq!(resource[0].labels["worker_id"], scene.worker.launch.id());
    assert_eq!(resource[0].labels["worker_backend"], "direct");
    assert_eq!(resource[0].labels["service_version"], labels["version"]);
}

#[test]
fn no_attribute_of_the_operators_costs_the_scrape() {
    let attributes = "__name__=x,__address__=y,a.b=2,a-b=1,9lives=%00,job=j,instance=i,le=1,%C3%A4=%22%5C%0A";
    let worker = Scene::with(|launch| launch.with_metrics().env("OTEL_RESOURCE_ATTRIBUTES", attributes));
    let Some(prometheus) = Prometheus::scraping(&[worker.worker.metrics_address()]) else { return };
    let target = prometheus.wait_for("target_info", |answer| answer.len() == 1);
    for (label, value) in [
        ("_name_", "x"),
        ("_address_", "y"),
        ("a_b", "1;2"),
        ("_9lives", "\u{fffd}"),
        ("exported_job", "j"),
        ("exported_instance", "i"),
        ("le", "1"),
        ("_", "\"\\\n"),
        ("worker_id", worker.worker.launch.id()),
    ] {
        assert_eq!(target[0].labels.get(label).map(String::as_str), Some(value), "{label}: {target:#?}");
    }
    prometheus.wait_for_value(r#"up{job="oz-agent-worker"}"#, 1.0);
    prometheus.wait_for_value("oz_worker_connected", 1.0);
}

#[test]
fn promtool_has_nothing_to_complain_about() {
    let mut scene = Scene::with(Launch::with_metrics);
    scene.still_works("T1");
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "succeeded")], 1.0);
    let Some((satisfied, said)) = check_metrics(&scene.worker.scrape_text()) else { return };
    assert!(satisfied && said.is_empty(), "{said:#?}");
}

#[test]
fn promtool_would_complain() {
    let Some((satisfied, said)) = check_metrics("# TYPE a counter\na 1\n") else { return };
    assert!(!satisfied && !said.is_empty(), "{said:#?}");
}
