//! Each value of the chart changes what it changed in the chart that operators use today, field by field: the expectations are
//! written down here from a recording of that one. What this chart adds is below.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use oz_worker_tests::chart::{self, Helm, Rendering, text};
use serde_json::{Map, Value, json};

fn helm() -> Option<Helm> {
    static HELM: OnceLock<Option<Helm>> = OnceLock::new();
    *HELM.get_or_init(Helm::here)
}

/// Renders with the least values and these; `None` skips the test.
fn render(more: &Value) -> Option<Rendering> {
    Some(helm()?.render(more))
}

/// Renders with these values, or ends the test that is skipped.
macro_rules! rendered {
    ($($values:tt)*) => {
        match render(&json!($($values)*)) {
            Some(rendering) => rendering,
            None => return,
        }
    };
}

/// Every difference between two trees: the path, and what stands there now.
fn differences(path: &str, one: &Value, other: &Value, into: &mut Map<String, Value>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                differences(
                    &format!("{path}/{key}"),
                    one.get(key).unwrap_or(&Value::Null),
                    other.get(key).unwrap_or(&Value::Null),
                    into,
                );
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for at in 0..one.len().max(other.len()) {
                differences(
                    &format!("{path}/{at}"),
                    one.get(at).unwrap_or(&Value::Null),
                    other.get(at).unwrap_or(&Value::Null),
                    into,
                );
            }
        }
        (one, other) if one == other => {}
        (_, other) => {
            into.insert(path.to_owned(), other.clone());
        }
    }
}

/// A release as one tree: `file` is the worker's file, `container` the worker's, `pod` the rest of its Pod.
fn tree(rendering: &Rendering) -> Value {
    let installed = |object: &&Value| object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    let mut tree = Map::new();
    for object in rendering.objects.iter().filter(installed) {
        let mut object = object.clone();
        if object["kind"] == "Deployment" {
            let mut pod = object["spec"]["template"].take();
            // They follow from other objects.
            pod["metadata"]["annotations"].as_object_mut().unwrap().retain(|name, _| !name.starts_with("checksum/"));
            tree.insert("container".to_owned(), pod["spec"]["containers"][0].take());
            tree.insert("pod".to_owned(), pod);
        } else if object["data"]["config.yaml"].is_string() {
            object["data"]["config.yaml"].take();
            tree.insert("file".to_owned(), rendering.file());
        }
        tree.insert(text(&object["kind"]).to_owned(), object);
    }
    Value::Object(tree)
}

/// Lays each of the values over the base and holds every field that changes against what is written down.
fn assert_changes(base: &Value, expected: &[(Value, Value)]) {
    let Some(before) = render(base) else { return };
    for (values, expected) in expected {
        let mut all = base.clone();
        chart::merge(&mut all, values);
        let Some(after) = render(&all) else { return };
        let mut found = Map::new();
        differences("", &tree(&before), &tree(&after), &mut found);
        let expected: Map<String, Value> =
            expected.as_object().unwrap().iter().map(|(path, value)| (format!("/{path}"), value.clone())).collect();
        assert_eq!(found, expected, "{values}");
    }
}

#[test]
fn the_least_values_render_what_they_always_did() {
    let rendering = rendered!({});
    assert_eq!(
        rendering.names(),
        [
            "ServiceAccount/r-oz-agent-worker",
            "ConfigMap/r-oz-agent-worker-config",
            "Role/r-oz-agent-worker",
            "RoleBinding/r-oz-agent-worker",
            "Deployment/r-oz-agent-worker"
        ]
    );
    for object in &rendering.objects {
        assert_eq!(object["metadata"]["namespace"], "ns");
    }
    for kind in ["ServiceAccount", "ConfigMap", "Role", "RoleBinding", "Deployment"] {
        let labels: BTreeMap<String, String> =
            serde_json::from_value(rendering.the(kind)["metadata"]["labels"].clone()).unwrap();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("app.kubernetes.io/instance", "r"),
            ("app.kubernetes.io/managed-by", "Helm"),
            ("app.kubernetes.io/name", "oz-agent-worker"),
            ("app.kubernetes.io/version", env!("CARGO_PKG_VERSION")),
            ("helm.sh/chart", "oz-agent-worker-0.2.0"),
        ];
        assert_eq!(labels, expected, "{kind}");
    }
    assert_eq!(
        rendering.file(),
        json!({
            "worker_id": "w1", "cleanup": true, "max_concurrent_tasks": 0,
            "backend": {"kubernetes": {
                "namespace": "ns", "image_pull_policy": "IfNotPresent", "use_image_volumes": false,
                "active_deadline_seconds": 28800, "ttl_seconds_after_finished": 86400, "unschedulable_timeout": "30s"
            }}
        })
    );
    assert_eq!(
        rendering.the("Role")["rules"],
        json!([
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "list", "watch", "patch", "delete"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]}
        ])
    );
    let binding = rendering.the("RoleBinding");
    assert_eq!(
        binding["roleRef"],
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r-oz-agent-worker"})
    );
    assert_eq!(
        binding["subjects"],
        json!([{"kind": "ServiceAccount", "name": "r-oz-agent-worker", "namespace": "ns"}])
    );
}

#[test]
fn the_deployment_of_the_least_values_is_what_it_always_was() {
    let rendering = rendered!({});
    let deployment = rendering.the("Deployment");
    let selector = json!({"app.kubernetes.io/name": "oz-agent-worker", "app.kubernetes.io/instance": "r"});
    assert_eq!(deployment["apiVersion"], "apps/v1");
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(deployment["spec"]["selector"], json!({"matchLabels": selector}));
    let pod = rendering.pod();
    assert_eq!(pod["metadata"]["labels"], selector);
    assert_eq!(pod["metadata"]["annotations"].as_object().unwrap().len(), 1);
    assert_eq!(text(&pod["metadata"]["annotations"]["checksum/config"]).len(), 64);
    let mut spec = pod["spec"].clone();
    let mut container = spec["containers"][0].take();
    // What is new beside what there always was.
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(container.as_object_mut().unwrap().remove(probe).is_some(), "{probe}");
    }
    assert_eq!(
        container["securityContext"].as_object_mut().unwrap().remove("readOnlyRootFilesystem"),
        Some(json!(true))
    );
    let args = container["args"].as_array_mut().unwrap();
    assert_eq!(args.split_off(10), ["--health-address", "[::]:9464"]);
    assert_eq!(
        spec,
        json!({
            "serviceAccountName": "r-oz-agent-worker",
            "terminationGracePeriodSeconds": 43,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}
            },
            "containers": [null],
            "volumes": [{"name": "config", "configMap": {"name": "r-oz-agent-worker-config"}}]
        })
    );
    assert_eq!(
        container,
        json!({
            "name": "oz-agent-worker",
            "image": "warpdotdev/oz-agent-worker:1.2.3",
            "imagePullPolicy": "IfNotPresent",
            "args": [
                "--config-file", "/etc/oz-agent-worker/config.yaml", "--backend", "kubernetes", "--log-level", "info",
                "--web-socket-url", "wss://oz.warp.dev/api/v1/selfhosted/worker/ws", "--server-root-url", "https://app.warp.dev"
            ],
            "env": [
                {"name": "WARP_API_KEY", "valueFrom": {"secretKeyRef": {"name": "oz-agent-worker", "key": "WARP_API_KEY"}}},
                {"name": "OTEL_METRICS_EXPORTER", "value": "none"}
            ],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/oz-agent-worker", "readOnly": true}]
        })
    );
}

#[test]
fn names_are_made_from_the_release_and_cut_at_63() {
    let long = "n".repeat(62) + "-and-more";
    let cut = "n".repeat(62);
    for (values, full, label) in [
        (json!({"nameOverride": "hands"}), "r-hands", "hands"),
        (json!({"nameOverride": "r"}), "r", "r"),
        (json!({"fullnameOverride": "other"}), "other", "oz-agent-worker"),
        (json!({"fullnameOverride": long}), cut.as_str(), "oz-agent-worker"),
    ] {
        let rendering = rendered!(values);
        let deployment = rendering.the("Deployment");
        assert_eq!(deployment["metadata"]["name"], full, "{values}");
        assert_eq!(rendering.the("ConfigMap")["metadata"]["name"], format!("{full}-config"));
        assert_eq!(deployment["metadata"]["labels"]["app.kubernetes.io/name"], label);
        assert_eq!(rendering.container()["name"], "oz-agent-worker");
    }
}

#[test]
fn image_account_and_rights() {
    let account = |name: &str| json!({"ServiceAccount/metadata/name": name, "RoleBinding/subjects/0/name": name, "pod/spec/serviceAccountName": name});
    assert_changes(
        &json!({}),
        &[
            (json!({"image": {"repository": "a/b"}}), json!({"container/image": "a/b:1.2.3"})),
            (json!({"image": {"tag": "9"}}), json!({"container/image": "warpdotdev/oz-agent-worker:9"})),
            (json!({"image": {"tag": 20_261_122}}), json!({"container/image": "warpdotdev/oz-agent-worker:20261122"})),
            (json!({"image": {"pullPolicy": "Always"}}), json!({"container/imagePullPolicy": "Always"})),
            (json!({"image": {"pullSecrets": [{"name": "s"}]}}), json!({"pod/spec/imagePullSecrets": [{"name": "s"}]})),
            (json!({"serviceAccount": {"name": "mine"}}), account("mine")),
            (
                json!({"serviceAccount": {"annotations": {"a": "b"}}}),
                json!({"ServiceAccount/metadata/annotations": {"a": "b"}}),
            ),
            (
                json!({"serviceAccount": {"create": false, "name": "theirs"}}),
                json!({"ServiceAccount": null, "RoleBinding/subjects/0/name": "theirs", "pod/spec/serviceAccountName": "theirs"}),
            ),
            (json!({"rbac": {"create": false}}), json!({"Role": null, "RoleBinding": null})),
        ],
    );
}

#[test]
fn the_api_key_and_the_server() {
    let reference = "container/env/0/valueFrom/secretKeyRef";
    assert_changes(
        &json!({}),
        &[
            (
                json!({"warp": {"apiKeySecret": {"name": "mine", "key": "token"}}}),
                json!({format!("{reference}/name"): "mine", format!("{reference}/key"): "token"}),
            ),
            (json!({"warp": {"webSocketURL": "ws://a:1/b?c=d&e"}}), json!({"container/args/7": "ws://a:1/b?c=d&e"})),
            (json!({"warp": {"serverRootURL": "http://a"}}), json!({"container/args/9": "http://a"})),
            // Not used unless the Secret is created.
            (json!({"warp": {"apiKeySecret": {"value": "wk"}}}), json!({})),
        ],
    );
    for (values, name) in [
        (json!({"create": true, "value": "w: k"}), "oz-agent-worker"),
        (json!({"create": true, "value": "w: k", "name": ""}), "r-oz-agent-worker-api-key"),
    ] {
        let rendering = rendered!({"warp": {"apiKeySecret": values}});
        let secret = rendering.the("Secret");
        assert_eq!((&secret["metadata"]["name"], &secret["type"]), (&json!(name), &json!("Opaque")));
        assert_eq!((&secret["stringData"], &secret["data"]), (&json!({"WARP_API_KEY": "w: k"}), &Value::Null));
        assert_eq!(rendering.container()["env"][0]["valueFrom"]["secretKeyRef"]["name"], name);
        assert_eq!(text(&rendering.pod()["metadata"]["annotations"]["checksum/secret"]).len(), 64);
    }
}

#[test]
fn the_worker() {
    assert_changes(
        &json!({}),
        &[
            (json!({"worker": {"workerId": "other"}}), json!({"file/worker_id": "other"})),
            (json!({"worker": {"workerId": 7}}), json!({"file/worker_id": "7"})),
            (json!({"worker": {"logLevel": "debug"}}), json!({"container/args/5": "debug"})),
            (
                json!({"worker": {"cleanup": false}}),
                json!({"file/cleanup": false, "file/backend/kubernetes/ttl_seconds_after_finished": null}),
            ),
            (json!({"worker": {"maxConcurrentTasks": 1_000_000}}), json!({"file/max_concurrent_tasks": 1_000_000})),
            (json!({"worker": {"idleOnComplete": "10m"}}), json!({"file/idle_on_complete": "10m"})),
            (json!({"worker": {"idleOnComplete": 0}}), json!({})),
            (
                json!({"worker": {"extraArgs": ["-e", "A=b: c", 3]}}),
                json!({"container/args/12": "-e", "container/args/13": "A=b: c", "container/args/14": "3"}),
            ),
            (
                json!({"worker": {"extraEnv": [{"name": "A", "value": "1"}]}}),
                json!({"container/env/1/name": "A", "container/env/1/value": "1", "container/env/2": {"name": "OTEL_METRICS_EXPORTER", "value": "none"}}),
            ),
            (
                json!({"worker": {"deploymentAnnotations": {"a": "b"}}}),
                json!({"Deployment/metadata/annotations": {"a": "b"}}),
            ),
            (json!({"worker": {"podAnnotations": {"a": "b"}}}), json!({"pod/metadata/annotations/a": "b"})),
            (json!({"worker": {"podLabels": {"a": "b"}}}), json!({"pod/metadata/labels/a": "b"})),
            (
                json!({"worker": {"terminationGracePeriodSeconds": 600}}),
                json!({"pod/spec/terminationGracePeriodSeconds": 600}),
            ),
            (
                json!({"worker": {"podSecurityContext": {"runAsUser": 1_000_650_000}}}),
                json!({"pod/spec/securityContext/runAsUser": 1_000_650_000}),
            ),
            (json!({"worker": {"podSecurityContext": null}}), json!({"pod/spec/securityContext": null})),
            (
                json!({"worker": {"securityContext": {"privileged": false}}}),
                json!({"container/securityContext/privileged": false}),
            ),
            (json!({"worker": {"securityContext": null}}), json!({"container/securityContext": null})),
            (json!({"worker": {"livenessProbe": null}}), json!({"container/livenessProbe": null})),
            (
                json!({"worker": {"livenessProbe": {"periodSeconds": 5}}}),
                json!({"container/livenessProbe/periodSeconds": 5}),
            ),
            (
                // As some had to write for images without a shell.
                json!({"worker": {"livenessProbe": {"exec": {"command": ["/bin/true"]}}}}),
                json!({"container/livenessProbe/exec": {"command": ["/bin/true"]}, "container/livenessProbe/httpGet": null}),
            ),
            (
                json!({"worker": {"resources": {"limits": {"memory": "1Gi"}}}}),
                json!({"container/resources/limits": {"memory": "1Gi"}}),
            ),
            (json!({"worker": {"resources": null}}), json!({"container/resources": null})),
            (json!({"worker": {"nodeSelector": {"a": "b"}}}), json!({"pod/spec/nodeSelector": {"a": "b"}})),
            (
                json!({"worker": {"tolerations": [{"operator": "Exists"}]}}),
                json!({"pod/spec/tolerations": [{"operator": "Exists"}]}),
            ),
            (json!({"worker": {"affinity": {"podAffinity": {}}}}), json!({"pod/spec/affinity": {"podAffinity": {}}})),
        ],
    );
}

#[test]
fn the_kubernetes_backend() {
    let expected = |key: &str, value: Value| json!({format!("file/backend/kubernetes/{key}"): value});
    let same = [
        ("defaultImage", "default_image", json!("a:1")),
        ("imagePullPolicy", "image_pull_policy", json!("Never")),
        ("useImageVolumes", "use_image_volumes", json!(true)),
        ("preflightImage", "preflight_image", json!("a:1")),
        ("sidecarImage", "sidecar_image", json!("a:1")),
        ("extraLabels", "extra_labels", json!({"a": "b", "cost-center": 42})),
        ("extraAnnotations", "extra_annotations", json!({"a": "b: c"})),
        ("activeDeadlineSeconds", "active_deadline_seconds", json!(31_536_000)),
        ("ttlSecondsAfterFinished", "ttl_seconds_after_finished", json!(31_536_000)),
        ("workspaceSizeLimit", "workspace_size_limit", json!("10Gi")),
        ("unschedulableTimeout", "unschedulable_timeout", json!("0s")),
        ("imagePullGrace", "image_pull_grace", json!("2m")),
        ("podStartTimeout", "pod_start_timeout", json!("1h")),
        ("protectFromEviction", "protect_from_eviction", json!(true)),
        ("allowedImages", "allowed_images", json!(["a/*", "b:1"])),
        ("kubeconfig", "kubeconfig", json!("/etc/kubeconfig")),
        ("context", "context", json!("other")),
        ("podTemplate", "pod_template", json!({"activeDeadlineSeconds": 31_536_000, "nodeSelector": {"a": "yes"}})),
        ("preflightResources", "preflight_resources", json!({"requests": {"cpu": "100m"}})),
        ("setupCommand", "setup_command", json!("echo \"a: $B\"\ntrue")),
        ("teardownCommand", "teardown_command", json!("true")),
    ];
    let same: Vec<(Value, Value)> = same
        .into_iter()
        .map(|(key, file, value)| (json!({"kubernetesBackend": {key: value}}), expected(file, value)))
        .collect();
    assert_changes(&json!({}), &same);
    assert_changes(
        &json!({}),
        &[
            (json!({"kubernetesBackend": {"setupCommand": "a\nb\n"}}), expected("setup_command", json!("a\nb"))),
            (
                json!({"kubernetesBackend": {"activeDeadlineSeconds": null}}),
                expected("active_deadline_seconds", Value::Null),
            ),
            (
                json!({"kubernetesBackend": {"activeDeadlineSeconds": 0}}),
                expected("active_deadline_seconds", Value::Null),
            ),
            (
                json!({"kubernetesBackend": {"ttlSecondsAfterFinished": 0}}),
                expected("ttl_seconds_after_finished", Value::Null),
            ),
            (json!({"kubernetesBackend": {"unschedulableTimeout": 0}}), expected("unschedulable_timeout", json!("0"))),
            (json!({"kubernetesBackend": {"imagePullGrace": 0}}), expected("image_pull_grace", json!("0"))),
            (json!({"kubernetesBackend": {"podStartTimeout": 0}}), expected("pod_start_timeout", json!("0"))),
        ],
    );
}

#[test]
fn rights_are_where_the_jobs_are() {
    // Today's Role stays where no Job is.
    let rendering = rendered!({"kubernetesBackend": {"namespace": "jobs"}});
    assert_eq!(rendering.file()["backend"]["kubernetes"]["namespace"], "jobs");
    for kind in ["Role", "RoleBinding"] {
        let of_kind = rendering.objects.iter().filter(|object| object["kind"] == kind);
        let namespaces: Vec<&str> = of_kind.map(|object| text(&object["metadata"]["namespace"])).collect();
        assert_eq!(namespaces, ["jobs", "ns"], "{kind}");
    }
    let rules = &rendering.the("Role")["rules"];
    assert_eq!(rules[0]["verbs"], json!(["create", "get", "list", "watch", "patch", "delete"]));
}

#[test]
fn metrics() {
    let scraped = json!({
        // The endpoint is the one that is scraped.
        "container/args/10": null, "container/args/11": null,
        "container/env/1/value": "prometheus",
        "container/env/2": {"name": "OTEL_EXPORTER_PROMETHEUS_HOST", "value": "[::]"},
        "container/env/3": {"name": "OTEL_EXPORTER_PROMETHEUS_PORT", "value": "9464"},
        "container/ports": [{"name": "metrics", "containerPort": 9464, "protocol": "TCP"}]
    });
    assert_changes(&json!({}), &[(json!({"metrics": {"enabled": true, "service": {"create": false}}}), scraped)]);
    // Without metrics none of the rest matters.
    assert_changes(
        &json!({}),
        &[
            (
                json!({"metrics": {"extraEnv": [{"name": "A"}], "podMonitor": {"create": true}, "serviceMonitor": {"create": true}}}),
                json!({}),
            ),
            (json!({"metrics": {"enabled": true, "exporter": "otlp"}}), json!({"container/env/1/value": "otlp"})),
            (json!({"metrics": {"enabled": true, "exporter": "console"}}), json!({"container/env/1/value": "console"})),
            (json!({"metrics": {"enabled": true, "exporter": "none"}}), json!({})),
            (
                json!({"metrics": {"enabled": true, "exporter": "otlp", "extraEnv": [{"name": "A", "value": "b"}], "podMonitor": {"create": true}}}),
                json!({"container/env/1/value": "otlp", "container/env/2": {"name": "A", "value": "b"}}),
            ),
        ],
    );
    let port = json!({
        "container/ports/0/containerPort": 9999, "container/env/3/value": "9999", "Service/spec/ports/0/port": 9999,
        // In the chart of today it stays at 9464, where nothing is.
        "Service/metadata/annotations/prometheus.io/port": "9999",
        "container/startupProbe/httpGet/port": 9999, "container/livenessProbe/httpGet/port": 9999, "container/readinessProbe/httpGet/port": 9999
    });
    assert_changes(
        &json!({"metrics": {"enabled": true}}),
        &[
            (json!({"metrics": {"port": 9999}}), port),
            (json!({"metrics": {"service": {"type": "NodePort"}}}), json!({"Service/spec/type": "NodePort"})),
            (
                json!({"metrics": {"service": {"annotations": {"a": "b"}}}}),
                json!({"Service/metadata/annotations/a": "b"}),
            ),
            (
                json!({"metrics": {"extraEnv": [{"name": "A", "value": "b"}]}}),
                json!({"container/env/4": {"name": "A", "value": "b"}}),
            ),
        ],
    );
}

#[test]
fn what_scrapes_finds_the_worker() {
    let rendering = rendered!({"metrics": {"enabled": true, "podMonitor": {
        "create": true, "interval": "15s", "scrapeTimeout": "5s", "additionalLabels": {"release": "prometheus"}
    }}});
    let selector = json!({"app.kubernetes.io/name": "oz-agent-worker", "app.kubernetes.io/instance": "r"});
    let service = rendering.the("Service");
    assert_eq!(service["metadata"]["name"], "r-oz-agent-worker-metrics");
    assert_eq!(
        service["metadata"]["annotations"],
        json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9464", "prometheus.io/path": "/metrics"})
    );
    assert_eq!(
        service["spec"],
        json!({
            "type": "ClusterIP", "selector": selector, "publishNotReadyAddresses": true,
            "ports": [{"name": "metrics", "port": 9464, "targetPort": "metrics", "protocol": "TCP"}]
        })
    );
    let monitor = rendering.the("PodMonitor");
    assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(monitor["metadata"]["name"], "r-oz-agent-worker");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        monitor["spec"],
        json!({
            "selector": {"matchLabels": selector},
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": "15s", "scrapeTimeout": "5s"}]
        })
    );
}

/// Names of the worker's variables, in order.
fn variables(rendering: &Rendering) -> Vec<String> {
    let entries = rendering.container()["env"].as_array().unwrap();
    entries.iter().map(|entry| text(&entry["name"]).to_owned()).collect()
}

#[test]
fn a_name_stands_once_in_every_list_and_the_operators_wins() {
    let given = |name: &str, value: &str| json!({"name": name, "value": value});
    let rendering = rendered!({
        "image": {"pullSecrets": [{"name": "s"}, {"name": "t"}, {"name": "s"}]},
        "worker": {
            "backend": "direct", "podLabels": {"a": "b", "app.kubernetes.io/instance": "r"},
            "extraEnv": [
                given("HOME", "/srv/oz"), given("WARP_API_KEY", "wk"), given("TWICE", "1"), given("BOTH", "1"),
                given("TWICE", "2"), given("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0")
            ]
        },
        "directBackend": {"environment": [given("A", "1"), given("B", "1"), given("A", "2")], "workspaceRoot": "/tmp/"},
        "metrics": {
            "enabled": true, "extraEnv": [given("BOTH", "2"), given("OTEL_SERVICE_NAME", "x")],
            "podMonitor": {"create": true, "additionalLabels": {"app.kubernetes.io/name": "mine"}},
            "serviceMonitor": {"create": true, "additionalLabels": {"app.kubernetes.io/name": "mine"}},
            "prometheusRule": {"create": true, "additionalLabels": {"app.kubernetes.io/name": "mine"}},
            "dashboard": {"create": true, "labels": {"app.kubernetes.io/name": "mine"}}
        },
        "networkPolicy": {"create": true, "collectorPorts": [4317, 4317]}
    });
    // YAML with a key twice is no YAML to this reader: that every object was read shows the maps.
    for (name, value) in [
        ("HOME", "/srv/oz"),
        ("WARP_API_KEY", "wk"),
        ("TWICE", "2"),
        ("BOTH", "2"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_SERVICE_NAME", "x"),
    ] {
        assert_eq!(rendering.variable(name).unwrap()["value"], value, "{name}");
    }
    let names = variables(&rendering);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    assert_eq!(rendering.pod()["spec"]["imagePullSecrets"], json!([{"name": "s"}, {"name": "t"}]));
    assert_eq!(
        rendering.pod()["metadata"]["labels"],
        json!({"a": "b", "app.kubernetes.io/instance": "r", "app.kubernetes.io/name": "oz-agent-worker"})
    );
    for kind in ["PodMonitor", "ServiceMonitor", "PrometheusRule"] {
        assert_eq!(rendering.the(kind)["metadata"]["labels"]["app.kubernetes.io/name"], "mine", "{kind}");
    }
    let environment = &rendering.file()["backend"]["direct"]["environment"];
    assert_eq!(*environment, json!([{"name": "B", "value": "1"}, {"name": "A", "value": "2"}]));
    let paths: Vec<&str> = rendering.container()["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| text(&mount["mountPath"]))
        .collect();
    assert_eq!(paths, ["/etc/oz-agent-worker", "/tmp"]);
    assert_eq!(rendering.file()["backend"]["direct"]["workspace_root"], "/tmp");
    let volumes: Vec<&str> =
        rendering.pod()["spec"]["volumes"].as_array().unwrap().iter().map(|volume| text(&volume["name"])).collect();
    assert_eq!(volumes, ["config", "workspaces"]);
}

#[test]
fn what_would_break_the_release_is_refused_by_name() {
    let Some(helm) = helm() else { return };
    let variable = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let scraped = json!({"enabled": true});
    let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    for (values, said) in [
        (json!({"worker": {"podLabels": {"app.kubernetes.io/name": "x"}}}), "worker.podLabels: app.kubernetes.io/name"),
        (json!({"worker": {"podAnnotations": {"checksum/config": "x"}}}), "worker.podAnnotations: checksum/config"),
        (
            json!({"worker": {"replicas": 2, "backend": "direct", "extraEnv": variable("POD_NAME", "x")}}),
            "worker.extraEnv: POD_NAME",
        ),
        (json!({"worker": {"replicas": 2, "extraArgs": ["--worker-id=x"]}}), "worker.extraArgs: --worker-id"),
        (json!({"worker": {"extraArgs": ["--health-address", "a:1"]}}), "worker.extraArgs: --health-address"),
        (json!({"worker": {"extraArgs": ["--drain-timeout", "1h"]}}), "worker.drainTimeoutSeconds"),
        (json!({"worker": {"extraArgs": ["--cancel-grace-period=1m"]}}), "worker.cancelGracePeriodSeconds"),
        (
            json!({"worker": {"extraEnv": variable("OTEL_METRICS_EXPORTER", "prometheus")}}),
            "worker.extraEnv: OTEL_METRICS_EXPORTER",
        ),
        (
            json!({"metrics": {"enabled": true, "extraEnv": variable("OTEL_METRICS_EXPORTER", "otlp")}}),
            "metrics.extraEnv: OTEL_METRICS_EXPORTER",
        ),
        (
            json!({"metrics": scraped, "worker": {"extraEnv": variable("OTEL_EXPORTER_PROMETHEUS_PORT", "1")}}),
            "OTEL_EXPORTER_PROMETHEUS_PORT is where probes and Service find the worker; set metrics.port",
        ),
        (
            json!({"metrics": scraped, "worker": {"extraEnv": variable("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost")}}),
            "OTEL_EXPORTER_PROMETHEUS_HOST",
        ),
        (
            json!({"metrics": scraped, "worker": {"extraEnv": variable("OTEL_SDK_DISABLED", "true")}}),
            "OTEL_SDK_DISABLED",
        ),
        (
            json!({"worker": {"topologySpreadConstraints": [constraint, constraint]}}),
            "worker.topologySpreadConstraints: zone stands twice",
        ),
        (
            json!({"worker": {"backend": "direct"}, "directBackend": {"workspaceRoot": "/etc/oz-agent-worker/ws"}}),
            "directBackend.workspaceRoot: /etc/oz-agent-worker/ws",
        ),
        (
            json!({"worker": {"backend": "direct"}, "directBackend": {"workspaceRoot": "//"}}),
            "directBackend.workspaceRoot",
        ),
    ] {
        let error = helm.try_render(&chart::values(&values)).expect_err(&values.to_string());
        assert!(error.contains(said), "{values}: {error}");
    }
    // What breaks nothing is the operator's.
    let rendering = rendered!({"worker": {"extraEnv": [{"name": "OTEL_METRICS_EXPORTER", "value": "otlp"}]}});
    assert_eq!(variables(&rendering), ["WARP_API_KEY", "OTEL_METRICS_EXPORTER"]);
    assert_eq!(rendering.variable("OTEL_METRICS_EXPORTER").unwrap()["value"], "otlp");
}

/// Seconds of a constant of the worker.
fn seconds(source: &str, name: &str) -> u64 {
    let after = chart::read(source);
    let (_, after) = after.split_once(&format!("const {name}: Duration = Duration::from_secs(")).expect(name);
    after.split_once(')').unwrap().0.parse().unwrap()
}

#[test]
fn the_pod_has_the_time_that_the_worker_may_take() {
    let after_the_grace_period: u64 = [
        ("worker/src/start.rs", "TEARDOWN_LIMIT"),
        ("core/src/worker/shutdown.rs", "REPORT_LIMIT"),
        ("core/src/worker/shutdown.rs", "CLOSE_LIMIT"),
        ("worker/src/start.rs", "FLUSH_LIMIT"),
        ("worker/src/start.rs", "LOG_LIMIT"),
    ]
    .into_iter()
    .map(|(source, name)| seconds(source, name))
    .sum();
    for (worker, drain_and_cancel, own) in [
        (json!({}), 10, 0),
        (json!({"backend": "direct"}), 10, 0),
        (json!({"drainTimeoutSeconds": 1800}), 1810, 0),
        (json!({"drainTimeoutSeconds": 60, "cancelGracePeriodSeconds": 0}), 60, 0),
        (json!({"cancelGracePeriodSeconds": 100}), 100, 0),
        (json!({"terminationGracePeriodSeconds": 600}), 10, 600),
    ] {
        let rendering = rendered!({"worker": worker});
        let given = rendering.pod()["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
        // A little more than the worker counts with: the kernel takes its time to end what was killed.
        let taken = drain_and_cancel + after_the_grace_period;
        assert!(given >= (taken + 2).max(own) && given <= (taken + 10).max(own), "{worker}: {given} s, not {taken} s");
    }
}
