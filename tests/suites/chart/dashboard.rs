//! The dashboard: Grafana's own types know every key of it.

use std::{collections::BTreeSet, process::Command};

use oz_worker_tests::{
    chart::{self, text},
    peers::Peer,
};
use serde_json::Value;

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
