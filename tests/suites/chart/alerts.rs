//! Alerts and recording rules: promtool runs the cases of `tests/chart/alerts.yaml`, and no rule is without one.

use std::{collections::BTreeSet, process::Command};

use oz_worker_tests::{
    chart::{self, Helm, text},
    peers::{
        Peer,
        queries::{
            DURATION_P95, FAILURE_RATE, RECONNECT_STORMS, SATURATION, SUCCESS_RATE, WORKERS_ACTIVE, WORKERS_AVAILABLE,
        },
    },
};
use serde_json::{Value, json};

const RULES: &str = "charts/alerts/oz-agent-worker.yaml";
const CASES: &str = "tests/chart/alerts.yaml";

fn promtool(args: &[&str]) -> Option<String> {
    let program = Peer::Prometheus.programs()?.get(1)?;
    let ended = Command::new(program).args(args).current_dir(chart::repository()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}");
    Some(said)
}

/// Every rule of the file: alerts and recording rules.
fn rules() -> Vec<Value> {
    let file = chart::yaml(&chart::read(RULES));
    let groups = file["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The names of all alerts, or of what is recorded (`record`).
pub fn names(kind: &str) -> BTreeSet<String> {
    rules().iter().filter(|rule| rule[kind].is_string()).map(|rule| text(&rule[kind]).to_owned()).collect()
}

pub fn expression(alert: &str) -> String {
    let rules = rules();
    text(&rules.iter().find(|rule| rule["alert"] == alert).unwrap()["expr"]).to_owned()
}

#[test]
fn promtool_finds_the_rules_to_be_rules() {
    let Some(said) = promtool(&["check", "rules", "--lint-fatal", RULES]) else { return };
    assert!(said.contains(&format!("{} rules found", rules().len())), "{said}");
}

#[test]
fn every_alert_fires_when_it_should_and_not_when_it_should_not() {
    let Some(said) = promtool(&["test", "rules", CASES]) else { return };
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn every_alert_has_both_kinds_of_case_and_every_recording_rule_one() {
    let cases = chart::yaml(&chart::read(CASES));
    let tests = cases["tests"].as_array().unwrap();
    let of = |kind: &str| {
        tests.iter().flat_map(|test| test[kind].as_array().cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let named = |fires: bool| {
        let fires = |case: &&Value| case["exp_alerts"].as_array().is_some_and(|alerts| alerts.is_empty() != fires);
        of("alert_rule_test")
            .iter()
            .filter(fires)
            .map(|case| text(&case["alertname"]).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(named(true), names("alert"));
    assert_eq!(named(false), names("alert"));
    let recorded: BTreeSet<String> = of("promql_expr_test").iter().map(|case| text(&case["expr"]).to_owned()).collect();
    assert_eq!(recorded, names("record"));
}

#[test]
fn every_alert_says_how_bad_it_is_what_to_do_and_where_to_read_on() {
    let runbooks = chart::read("docs/runbooks.md");
    let sections: Vec<String> =
        runbooks.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_lowercase).collect();
    for alert in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let name = text(&alert["alert"]);
        assert!(["critical", "warning"].contains(&text(&alert["labels"]["severity"])), "{name}");
        let annotations = &alert["annotations"];
        assert!(text(&annotations["summary"]).ends_with('.') && text(&annotations["description"]).len() > 80, "{name}");
        assert_eq!(text(&annotations["runbook"]), format!("docs/runbooks.md#{}", name.to_lowercase()));
        assert!(sections.contains(&name.to_lowercase()), "{name} has no section in docs/runbooks.md");
    }
    assert_eq!(sections.len(), names("alert").len(), "a section of no alert");
}

#[test]
fn every_reason_that_the_kubernetes_backend_gives_has_a_section_that_says_what_to_do() {
    let metrics = chart::read("docs/metrics.md");
    let (_, of_reasons) = metrics.split_once("### Failure reasons").unwrap();
    let (of_reasons, _) = of_reasons.split_once("\n## ").unwrap();
    let reasons: BTreeSet<&str> = of_reasons
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(_, of)| of.split(" | ").next().is_some_and(|backends| backends.contains("kubernetes")))
        .map(|(reason, _)| reason)
        .collect();
    assert!(reasons.len() >= 15, "{reasons:?}");
    let page = chart::read("docs/kubernetes.md");
    let sections = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    assert_eq!(sections.collect::<BTreeSet<_>>(), reasons);
}

/// Word for word, as they are asked of a real Prometheus in the suite of that name.
#[test]
fn the_queries_of_the_monitoring_page_are_recorded() {
    let recorded: BTreeSet<String> =
        rules().iter().filter(|rule| rule["record"].is_string()).map(|rule| text(&rule["expr"]).to_owned()).collect();
    let asked = [
        WORKERS_AVAILABLE,
        WORKERS_ACTIVE,
        SATURATION,
        SUCCESS_RATE,
        DURATION_P95,
        FAILURE_RATE,
        // Its threshold is the alert's.
        RECONNECT_STORMS.trim_end_matches(" > 0.1"),
    ];
    assert_eq!(recorded, asked.map(str::to_owned).into());
    let alerts = rules();
    let storm = alerts.iter().find(|rule| rule["alert"] == "OzWorkerReconnectStorm").unwrap();
    assert_eq!(storm["expr"], RECONNECT_STORMS);
}

#[test]
fn the_charts_rule_and_dashboard_are_the_files() {
    let Some(helm) = Helm::here() else { return };
    let rendering =
        helm.render(&json!({"metrics": {"prometheusRule": {"create": true}, "dashboard": {"create": true}}}));
    assert_eq!(rendering.the("PrometheusRule")["spec"], chart::yaml(&chart::read(RULES)));
    let name = "oz-agent-worker.json";
    let maps: Vec<&Value> = rendering.objects.iter().filter(|object| object["data"][name].is_string()).collect();
    assert_eq!(maps.len(), 1);
    let dashboard = chart::read(&format!("charts/dashboards/{name}"));
    assert_eq!(text(&maps[0]["data"][name]).trim_end(), dashboard.trim_end());
}
