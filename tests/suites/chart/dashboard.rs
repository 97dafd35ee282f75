//! The dashboard: Grafana's own types know every key of it, and a real Prometheus that scrapes real workers, or the Collector that they
//! push to, answers every query. How it looks was judged by drawings of its panels' data, since no package registry has Grafana.

use std::{collections::BTreeSet, process::Command, time::Duration};

use oz_worker_tests::{
    BOUND,
    agent::Agent,
    chart::{self, text},
    message::Assignment,
    peers::{
        Peer,
        otelcol::{Collector, Setup},
        prometheus::{Prometheus, Sample},
    },
    worker::Launch,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::scene::Scene;

const PATH: &str = "charts/dashboards/oz-agent-worker.json";

fn dashboard() -> Value {
    serde_json::from_str(&chart::read(PATH)).unwrap()
}

/// Every panel but the headings.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

#[test]
fn grafana_knows_every_key() {
    let Some([program]) = Peer::GrafanaCheck.programs() else { return };
    let ended = Command::new(program).arg(chart::repository().join(PATH)).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

#[test]
fn grafana_would_complain() {
    let Some([program]) = Peer::GrafanaCheck.programs() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), chart::read(PATH).replace("\"gridPos\"", "\"gridPosition\"")).unwrap();
    assert!(!Command::new(program).arg(file.path()).output().unwrap().status.success());
}

#[test]
fn it_answers_from_top_to_bottom_what_an_operator_asks() {
    let dashboard = dashboard();
    let rows = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "row");
    assert_eq!(
        rows.map(|row| text(&row["title"])).collect::<Vec<_>>(),
        [
            "Are workers up?",
            "Is there room?",
            "Is work succeeding?",
            "How long does it take?",
            "What fails, and where?",
            "Is the connection stable?",
            "Which versions run?"
        ]
    );
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter().map(|variable| text(&variable["name"]));
    assert_eq!(variables.collect::<Vec<_>>(), ["datasource", "worker", "backend"]);
}

#[test]
fn every_panel_asks_the_chosen_source_about_the_chosen_workers_and_covers_no_other() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let query = text(&target["expr"]);
            assert!(query.contains(r#"worker_id=~"$worker", backend=~"$backend""#), "{title}: {query}");
        }
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && taken.insert((x, y)), "{title} covers another at {x}, {y}");
            }
        }
    }
}

/// Workers may be scraped or push once a minute: over a shorter time a rate would find nothing to compare, and show 0.
#[test]
fn no_rate_is_asked_over_less_than_a_few_scrapes() {
    for panel in panels(&dashboard()) {
        for target in panel["targets"].as_array().unwrap() {
            let query = text(&target["expr"]);
            // Grafana makes it four of these at least.
            assert_eq!(query.contains("$__rate_interval"), target["interval"] == "1m", "{query}");
            for range in query.split('[').skip(1) {
                assert!(range.starts_with("$__r"), "{query}");
            }
        }
    }
}

#[test]
fn every_alert_is_named_beside_what_shows_it_with_its_runbook() {
    let dashboard = dashboard();
    let said: String = panels(&dashboard).into_iter().map(|panel| text(&panel["description"])).collect();
    for name in crate::alerts::names("alert") {
        let link = format!("Alert {name}: docs/runbooks.md#{}", name.to_lowercase());
        assert!(said.contains(&link), "{name}");
    }
}

#[test]
fn every_panel_has_a_description_and_no_title_is_there_twice() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    assert!(panels.iter().all(|panel| !text(&panel["description"]).is_empty()));
    let titles: BTreeSet<&str> = panels.iter().map(|panel| text(&panel["title"])).collect();
    assert_eq!(titles.len(), panels.len());
}

/// Every query as Grafana asks it with all workers chosen: title of its panel, and the query.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let asked = |panel: &Value| {
        let title = text(&panel["title"]).to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        targets.into_iter().map(move |target| (title.clone(), concrete(text(&target["expr"]), ".*", ".*")))
    };
    panels(&dashboard).into_iter().flat_map(asked).collect()
}

fn concrete(query: &str, worker: &str, backend: &str) -> String {
    let chosen = query.replace("$worker", worker).replace("$backend", backend);
    chosen.replace("$__rate_interval", "1m").replace("$__range", "5m")
}

/// The queries of one panel.
fn targets_of(title: &str) -> Vec<String> {
    queries().into_iter().filter(|(panel, _)| panel == title).map(|(_, query)| query).collect()
}

/// What the first query of a panel answers.
fn answer(prometheus: &Prometheus, title: &str) -> Vec<Sample> {
    prometheus.query(targets_of(title).first().unwrap_or_else(|| panic!("no panel {title}")))
}

/// The same for a panel that shows one number.
fn number(prometheus: &Prometheus, title: &str) -> f64 {
    let answer = answer(prometheus, title);
    assert_eq!(answer.len(), 1, "{title}: {answer:#?}");
    answer[0].value
}

/// The value of the one sample with these labels.
fn of(answer: &[Sample], labels: &[(&str, &str)]) -> f64 {
    let has = |sample: &&Sample| {
        labels.iter().all(|(name, value)| sample.labels.get(*name).map(String::as_str) == Some(*value))
    };
    let found: Vec<_> = answer.iter().filter(has).collect();
    assert_eq!(found.len(), 1, "{labels:?} of {answer:#?}");
    found[0].value
}

fn assert_every_query_is_answered(prometheus: &Prometheus) {
    for (title, query) in queries() {
        let answer = prometheus.query(&query);
        assert!(!answer.is_empty(), "{title} has no data: {query}");
        assert!(answer.iter().all(|sample| sample.value.is_finite()), "{title}: {query}: {answer:#?}");
    }
}

/// Two direct workers with two slots each and one that dispatches and has no limit.
fn workers(exporting: impl Fn(Launch) -> Launch) -> Vec<Scene> {
    let direct = || Scene::with(|launch| exporting(launch).flags(["--max-concurrent-tasks", "2"]));
    vec![direct(), direct(), Scene::command(Agent::running("cat > /dev/null"), &exporting)]
}

/// Workers, and a Prometheus that has seen them.
struct Fleet {
    workers: Vec<Scene>,
    prometheus: Prometheus,
    _collector: Option<Collector>,
}

/// Prometheus scrapes the workers.
fn scraped() -> Option<Fleet> {
    let workers = workers(Launch::with_metrics);
    let addresses: Vec<String> = workers.iter().map(|scene| scene.worker.metrics_address()).collect();
    Some(Fleet { workers, prometheus: seeing_all(Prometheus::scraping(&addresses)?), _collector: None })
}

/// The workers push to a Collector, and Prometheus scrapes that.
fn pushed() -> Option<Fleet> {
    // The Collector's own default.
    pushed_and_kept(Duration::from_secs(300))
}

/// The same; the Collector forgets a worker that has pushed nothing for so long.
fn pushed_and_kept(kept: Duration) -> Option<Fleet> {
    let collector = Setup::scraped(kept).start()?;
    let workers = workers(|launch| {
        let launch = launch.env("OTEL_METRICS_EXPORTER", "otlp").env("OTEL_METRIC_EXPORT_INTERVAL", "200");
        launch.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.http())
    });
    let prometheus = seeing_all(Prometheus::scraping_collector(&collector.scrape_address()?)?);
    Some(Fleet { workers, prometheus, _collector: Some(collector) })
}

fn seeing_all(prometheus: Prometheus) -> Prometheus {
    prometheus.wait_for_value("sum(oz_worker_connected)", 3.0);
    prometheus
}

#[test]
fn no_query_is_without_data_in_the_first_minute() {
    assert_first_minute_of(scraped());
}

#[test]
fn no_query_is_without_data_in_the_first_minute_of_pushed_metrics() {
    assert_first_minute_of(pushed());
}

fn assert_first_minute_of(fleet: Option<Fleet>) {
    let Some(Fleet { workers: _workers, prometheus, _collector }) = fleet else { return };
    assert_every_query_is_answered(&prometheus);
    assert_eq!(number(&prometheus, "Connected"), 3.0);
    assert_eq!(number(&prometheus, "Not connected"), 0.0);
    assert_eq!(number(&prometheus, "Gone"), 0.0);
    assert_eq!(number(&prometheus, "Workers with a task"), 0.0);
    assert_eq!(number(&prometheus, "Slots taken"), 0.0);
    assert_eq!(number(&prometheus, "Succeeded"), -1.0, "none ended yet");
    assert_eq!(number(&prometheus, "Duration of a task"), 0.0);
    let failures = answer(&prometheus, "Failures by worker and reason");
    assert_eq!((failures.len(), of(&failures, &[("reason", "none")])), (1, 0.0));
}

#[test]
fn every_panel_shows_what_was_run() {
    assert_shows_what_was_run(scraped());
}

#[test]
fn every_panel_shows_what_was_run_and_pushed() {
    assert_shows_what_was_run(pushed());
}

fn assert_shows_what_was_run(fleet: Option<Fleet>) {
    let Some(Fleet { mut workers, prometheus, _collector }) = fleet else { return };
    // `increase` sees what changes from one scrape to another.
    prometheus.wait_for_value("min(count_over_time(oz_worker_connected[5m])) > bool 1", 1.0);
    let ids: Vec<String> = workers.iter().map(|scene| scene.worker.launch.id().to_owned()).collect();
    for number in 0..6 {
        workers[0].still_works(&format!("good-{number}"));
    }
    for number in 0..2 {
        workers[1].fail(&Assignment::new(&format!("bad-{number}")).run("exit 3"));
    }
    workers[2].claim(&Assignment::new("dispatched"));
    workers[0].claim(&Assignment::new("long").run("say started; gate"));
    workers[1].session.hang_up();
    workers[1].accept_again();
    prometheus.wait_for_value("sum(oz_worker_tasks_completed_total)", 9.0);
    prometheus.wait_for_value("sum(oz_worker_websocket_reconnects_total)", 1.0);
    prometheus.wait_for_value("sum(oz_worker_tasks_active)", 1.0);
    prometheus.wait_for_value("sum(oz_worker_oldest_task_age_seconds > bool 0)", 1.0);
    prometheus.wait_for_value("sum(oz_worker_connected)", 3.0);

    assert_every_query_is_answered(&prometheus);
    assert_eq!(number(&prometheus, "Workers with a task"), 1.0);
    assert_eq!(number(&prometheus, "Slots taken"), 1.0 / 4.0);
    assert_eq!(number(&prometheus, "Tasks and slots"), 1.0);
    assert_eq!(of(&answer(&prometheus, "Tasks of each worker"), &[("worker_id", &ids[0])]), 1.0);
    let oldest = answer(&prometheus, "Oldest task of each worker");
    assert!(
        of(&oldest, &[("worker_id", &ids[0])]) > 0.0 && of(&oldest, &[("worker_id", &ids[1])]) == 0.0,
        "{oldest:?}"
    );
    assert_eq!(of(&answer(&prometheus, "Connection of each worker"), &[("worker_id", &ids[1])]), 1.0);
    // Both counts are extrapolated alike but for the moment of their scrapes.
    let succeeded = number(&prometheus, "Succeeded");
    assert!((succeeded - 6.0 / 8.0).abs() < 0.1, "{succeeded}");
    let ended = answer(&prometheus, "Tasks that ended");
    for (result, count) in [("succeeded", 6.0), ("failed", 2.0), ("dispatched", 1.0), ("cancelled", 0.0)] {
        let shown = of(&ended, &[("result", result)]);
        assert!((shown - count).abs() <= 1.0 && (shown > 0.0) == (count > 0.0), "{result}: {shown}");
    }
    for (target, good, bad) in [(0, 6.0, 2.0), (1, 0.0, 2.0), (2, 0.0, 1.0)] {
        let table = prometheus.query(&targets_of("Failed tasks of each worker")[target]);
        let shown = [&ids[0], &ids[1]].map(|id| of(&table, &[("worker_id", id)]));
        assert!((shown[0] - good).abs() <= 1.0 && (shown[1] - bad).abs() <= 1.0, "{table:?}");
        assert!((shown[0] > 0.0) == (good > 0.0) && shown[1] > 0.0, "{table:?}");
    }
    let reasons = answer(&prometheus, "Failures per minute, by reason");
    assert!(of(&reasons, &[("phase", "backend"), ("reason", "agent_invocation")]) >= 1.0, "{reasons:?}");
    let where_from = answer(&prometheus, "Failures by worker and reason");
    assert!(of(&where_from, &[("worker_id", &ids[1]), ("reason", "agent_invocation")]) >= 1.0, "{where_from:?}");
    let reconnects = answer(&prometheus, "Reconnects per minute, by worker");
    assert!(of(&reconnects, &[("worker_id", &ids[1])]) > 0.5 && of(&reconnects, &[("worker_id", &ids[0])]) == 0.0);
    assert_eq!(number(&prometheus, "Workers by version"), 3.0);
    let half = number(&prometheus, "Duration of a task");
    assert!(half > 0.0 && half < 30.0, "{half}");
    let every = answer(&prometheus, "Every worker");
    assert_eq!((every.len(), of(&every, &[("worker_id", &ids[2]), ("backend", "command")])), (3, 1.0));

    // What is chosen is what is shown.
    let connected = text(&panels(&dashboard())[0]["targets"][0]["expr"]).to_owned();
    for (worker, backend, count) in
        [(ids[0].as_str(), ".*", 1.0), (".*", "command", 1.0), (".*", "direct", 2.0), ("nobody", ".*", 0.0)]
    {
        assert_eq!(prometheus.value(&concrete(&connected, worker, backend)), Some(count), "{worker} {backend}");
    }
}

#[test]
fn a_pushed_worker_that_restarts_is_one_worker() {
    let Some(Fleet { mut workers, prometheus, _collector }) = pushed() else { return };
    let restarted = &mut workers[0];
    restarted.still_works("before");
    prometheus.wait_for_value("sum(oz_worker_tasks_completed_total)", 1.0);
    stop(restarted);
    prometheus.wait_for_value("sum(oz_worker_connected)", 2.0);
    restarted.worker = restarted.worker.launch.clone().start();
    restarted.accept_again();
    prometheus.wait_for_value("sum(oz_worker_connected)", 3.0);

    // Both series of it are there for a while.
    assert_eq!(prometheus.value("count(oz_worker_info)"), Some(4.0));
    assert_every_query_is_answered(&prometheus);
    assert_eq!(number(&prometheus, "Connected"), 3.0);
    assert_eq!(number(&prometheus, "Not connected"), 0.0);
    assert_eq!(number(&prometheus, "Gone"), 0.0);
    assert_eq!(number(&prometheus, "Workers by version"), 3.0);
    assert_eq!(answer(&prometheus, "Connection of each worker").len(), 3);
    let slots = &targets_of("Tasks and slots")[1];
    assert_eq!(prometheus.value(slots), Some(4.0));
}

fn stop(scene: &mut Scene) {
    scene.worker.signal(Signal::TERM);
    scene.session.expect_close();
    scene.session.hang_up();
    assert!(scene.worker.has_ended_within(BOUND));
}

#[test]
fn of_pushed_workers_the_one_that_was_killed_is_lost_and_the_one_that_was_stopped_is_not() {
    let Some(Fleet { mut workers, prometheus, _collector }) = pushed_and_kept(Duration::from_secs(2)) else { return };
    let killed = workers[0].worker.launch.id().to_owned();
    stop(&mut workers[1]);
    prometheus.wait_for_value("sum(oz_worker_connected)", 2.0);
    workers[0].worker.kill();
    prometheus.wait_for_value("count(oz_worker_connected)", 1.0);

    let lost = prometheus.query(&crate::alerts::expression("OzWorkerLost"));
    assert_eq!((lost.len(), of(&lost, &[("worker_id", &killed), ("backend", "direct")])), (1, 1.0));
    assert_eq!(number(&prometheus, "Gone"), 2.0);
}
