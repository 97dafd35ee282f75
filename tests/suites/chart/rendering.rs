//! The Helm chart as a whole: what Helm, Kubernetes' own schemas and its unit tests say of it, over every value file of
//! `tests/chart/values`, and what it refuses. What each value changes is in `chart_values`.

use std::{collections::BTreeSet, process::Command};

use oz_worker_tests::{
    binary::worker_binary,
    chart::{self, Helm, Rendering, readme},
    peers::Peer,
    process::with_input,
};
use serde_json::{Value, json};

fn rendered() -> Option<Vec<(String, Rendering)>> {
    let helm = Helm::here()?;
    let render = |(name, values): (String, Value)| {
        let rendering = helm.try_render(&values).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, rendering)
    };
    Some(chart::value_files().into_iter().map(render).collect())
}

#[test]
fn helm_lint_is_satisfied_with_every_value_file() {
    let Some(helm) = Helm::here() else { return };
    let mut lint = helm.command();
    let ended = lint.args(["lint", "--strict"]).arg(chart::folder()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    for (name, values) in chart::value_files() {
        let mut lint = helm.command();
        let ended =
            with_input(lint.args(["lint", "--strict", "--values", "-"]).arg(chart::folder()), &values.to_string());
        assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stdout));
    }
}

#[test]
fn kubernetes_knows_every_field_of_every_object_the_oldest_and_the_newest() {
    let Some(helm) = Helm::here() else { return };
    let Some([program, oldest, newest]) = Peer::Kubeconform.programs() else { return };
    assert!(chart::value_files().len() >= 40);
    for schemas in [oldest, newest] {
        let location = format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", schemas.display());
        let mut check = Command::new(program);
        check.args(["-strict", "-summary", "-schema-location", &location, "-"]);
        let version = schemas.to_str().unwrap().rsplit_once('-').unwrap().1;
        let render = |(name, values): (String, Value)| {
            let rendering = helm.try_render_for(version, &values).unwrap_or_else(|error| panic!("{name}: {error}"));
            format!("---\n# {name}\n{}", rendering.text)
        };
        let objects: String = chart::value_files().into_iter().map(render).collect();
        let ended = with_input(&mut check, &objects);
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{version}: {said}");
        assert!(said.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{said}");
    }
}

/// With what the chart gives it, but for the folders of its Pod. A direct worker needs more of its machine than a file.
#[test]
fn the_worker_takes_the_arguments_and_the_file_that_every_value_file_makes() {
    let Some(renderings) = rendered() else { return };
    let worker = worker_binary().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let key = write("key", "wk-1");
    for (name, rendering) in renderings {
        let file = rendering.file();
        if file["backend"]["direct"].is_object() {
            continue;
        }
        let file = write("config.yaml", &file.to_string());
        let given = rendering.container()["args"].as_array().unwrap().iter().map(|argument| match argument.as_str() {
            Some("/etc/oz-agent-worker/config.yaml") => file.clone(),
            Some(argument) if argument.starts_with("/etc/oz-agent-worker-api-key/") => key.clone(),
            Some(argument) => argument.replace("$(POD_NAME)", "pod"),
            None => panic!("{name}: {argument}"),
        });
        let mut check = Command::new(&worker);
        check.args(given).arg("--check").env_clear().env("PATH", "/usr/bin:/bin").env("WARP_API_KEY", "wk-1");
        let ended = check.output().unwrap();
        assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[test]
fn kubernetes_would_complain() {
    let Some([program, oldest, _]) = Peer::Kubeconform.programs() else { return };
    let location = format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", oldest.display());
    let mut check = Command::new(program);
    check.args(["-strict", "-schema-location", &location, "-"]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}});
    assert!(!with_input(&mut check, &service.to_string()).status.success());
}

#[test]
fn the_charts_own_unit_tests_pass() {
    let Some([program]) = Peer::HelmUnittest.programs() else { return };
    let ended = Command::new(program).arg(chart::folder()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

/// Paths of everything in a tree that is no map with keys.
fn leaves(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(value, &format!("{path}/{key}"), into);
            }
        }
        _ => {
            into.insert(path.to_owned());
        }
    }
}

#[test]
fn the_value_files_set_every_value() {
    let defaults = chart::yaml(&chart::read("charts/oz-agent-worker/values.yaml"));
    let (mut known, mut set) = (BTreeSet::new(), BTreeSet::new());
    leaves(&defaults, "", &mut known);
    for (_, values) in chart::value_files() {
        leaves(&values, "", &mut set);
    }
    let is_set = |value: &String| set.iter().any(|path| path == value || path.starts_with(&format!("{value}/")));
    // Parts of what is replaced as a whole, or by other parts.
    let parts = ["/worker/podSecurityContext/", "/worker/securityContext/", "Probe/", "/metrics/service/annotations/"];
    let unset: Vec<_> =
        known.iter().filter(|value| !is_set(value) && !parts.iter().any(|part| value.contains(part))).collect();
    assert!(unset.is_empty(), "{unset:?}");
}

/// A misspelt or mistyped value anywhere, and what the error must name.
#[test]
fn a_value_that_is_misspelt_or_mistyped_is_refused_by_name() {
    let Some(helm) = Helm::here() else { return };
    let defaults = chart::yaml(&chart::read("charts/oz-agent-worker/values.yaml"));
    let mut refused = vec![
        (json!({"worker": {"replicas": "two"}}), "/worker/replicas"),
        (json!({"worker": {"cleanup": "false"}}), "/worker/cleanup"),
        (json!({"worker": {"maxConcurrentTasks": -1}}), "/worker/maxConcurrentTasks"),
        (json!({"worker": {"logLevel": "trace"}}), "/worker/logLevel"),
        (json!({"worker": {"workerId": "warp-1"}}), "/worker/workerId"),
        (json!({"worker": {"extraEnv": [{"nmae": "A", "value": "b"}]}}), "/worker/extraEnv/0"),
        (json!({"worker": {"extraEnv": [{"name": "A", "value": 1}]}}), "/worker/extraEnv/0/value"),
        (json!({"worker": {"livenessProbe": {"periodSecond": 1}}}), "/worker/livenessProbe"),
        (json!({"worker": {"idleOnComplete": "10 minutes"}}), "/worker/idleOnComplete"),
        (json!({"worker": {"backend": "docker"}}), "/worker/backend"),
        (json!({"warp": {"webSocketURL": "https://oz.example.com"}}), "/warp/webSocketURL"),
        (json!({"kubernetesBackend": {"imagePullPolicy": "Sometimes"}}), "/kubernetesBackend/imagePullPolicy"),
        (json!({"kubernetesBackend": {"activeDeadlineSeconds": "8h"}}), "/kubernetesBackend/activeDeadlineSeconds"),
        (
            json!({"kubernetesBackend": {"preflightResources": {"request": {}}}}),
            "/kubernetesBackend/preflightResources",
        ),
        (json!({"metrics": {"exporter": "prometeus"}}), "/metrics/exporter"),
        (json!({"metrics": {"port": "9464"}}), "/metrics/port"),
        (json!({"metrics": {"podMonitor": {"interval": 30}}}), "/metrics/podMonitor/interval"),
        (json!({"metrics": {"service": {"annotations": {"prometheus.io/scrape": true}}}}), "prometheus.io"),
        (json!({"networkPolicy": {"serverTo": [{"ipblock": {}}]}}), "/networkPolicy/serverTo/0"),
        (json!({"podDisruptionBudget": {"minAvailable": "most"}}), "/podDisruptionBudget/minAvailable"),
    ];
    // In each map of the chart's own, a key that is not there.
    let mut maps = vec![(String::new(), &defaults)];
    let mut paths = Vec::new();
    while let Some((path, value)) = maps.pop() {
        let open =
            ["annotations", "labels", "Labels", "Annotations", "nodeSelector", "affinity", "Context", "podTemplate"];
        let is_open = open.iter().any(|name| path.ends_with(name))
            || path.ends_with("codingCliSidecars")
            || path.ends_with("requests");
        let Some(map) = value.as_object().filter(|_| !is_open) else { continue };
        maps.extend(map.iter().map(|(key, value)| (format!("{path}/{key}"), value)));
        paths.push(path);
    }
    assert!(paths.len() >= 20, "{paths:?}");
    for path in &paths {
        let keys = path.split('/').skip(1).collect::<Vec<_>>();
        let value = keys.iter().rev().fold(json!({"mispelt": 1}), |inner, key| json!({*key: inner}));
        refused.push((value, "mispelt"));
    }
    for (values, place) in refused {
        let error = helm.try_render(&chart::values(&values)).expect_err(&values.to_string());
        assert!(error.contains(place), "{values}: {error}");
    }
}

#[test]
fn what_is_required_is_asked_for_by_name() {
    let Some(helm) = Helm::here() else { return };
    for (values, error) in [
        (json!({"worker": {"workerId": "w"}}), "image.tag is required"),
        (json!({"image": {"tag": "1"}}), "worker.workerId is required"),
        (chart::values(&json!({"warp": {"apiKeySecret": {"create": true}}})), "warp.apiKeySecret.value is required"),
        (chart::values(&json!({"warp": {"apiKeySecret": {"name": ""}}})), "warp.apiKeySecret.name is required"),
        (chart::values(&json!({"serviceAccount": {"create": false}})), "serviceAccount.name is required"),
        (chart::values(&json!({"worker": {"backend": "command"}})), "commandBackend.dispatchCommand is required"),
        (
            chart::values(
                &json!({"metrics": {"enabled": true, "service": {"create": false}, "serviceMonitor": {"create": true}}}),
            ),
            "metrics.serviceMonitor.create needs metrics.service.create",
        ),
    ] {
        let said = helm.try_render(&values).expect_err(&values.to_string());
        assert!(said.contains(error), "{values}: {said}");
    }
}

#[test]
fn no_number_is_written_with_an_exponent() {
    let Some(renderings) = rendered() else { return };
    for (name, rendering) in renderings {
        let exponent = |line: &&str| line.rsplit(' ').next().is_some_and(|word| word.contains("e+0"));
        assert_eq!(rendering.text.lines().find(exponent), None, "{name}");
    }
}

#[test]
fn the_readme_has_every_value_as_values_yaml_has_it() {
    let whole = readme::whole();
    assert!(whole == chart::read(readme::PATH), "out of date: cargo run -p oz-worker-tests --bin chart-readme");
    let mut known = BTreeSet::new();
    leaves(&chart::yaml(&chart::read("charts/oz-agent-worker/values.yaml")), "", &mut known);
    for value in known {
        // Of a map that is one value, the map.
        let names: Vec<&str> = value.split('/').skip(1).collect();
        let is_there = (1..=names.len()).any(|count| whole.contains(&format!("| `{}` | `", names[..count].join("."))));
        assert!(is_there, "{value} is not in the README");
    }
}

#[test]
fn the_chart_is_for_the_worker_of_this_repository() {
    let chart = chart::yaml(&chart::read("charts/oz-agent-worker/Chart.yaml"));
    let manifest = chart::read("Cargo.toml");
    let version = chart["appVersion"].as_str().unwrap();
    assert!(manifest.contains(&format!("[workspace.package]\nversion = \"{version}\"\n")), "appVersion {version}");
    let Some([_, oldest, _]) = Peer::Kubeconform.programs() else { return };
    let named = chart["kubeVersion"].as_str().unwrap().trim_start_matches(">=").trim_end_matches(".0-0").to_owned();
    assert!(oldest.display().to_string().contains(&format!("-{named}.")), "kubeVersion {named}, checked: {oldest:?}");
}
