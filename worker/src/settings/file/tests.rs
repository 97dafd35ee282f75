//! What a file may say, and what is said about one that is wrong.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use oz_worker_backends::BackendSettings as Backend;
use oz_worker_backends::command::CommandSettings as Command;
use oz_worker_backends::direct::DirectSettings as Direct;
use oz_worker_backends::docker::DockerSettings as Docker;
use oz_worker_backends::kubernetes::{KubernetesSettings as Kubernetes, PullPolicy, Untyped};

use super::*;

fn good(source: &str) -> File {
    parse(Path::new("c.yaml"), source).unwrap_or_else(|lines| panic!("{source}\n{}", lines.join("\n")))
}

fn bad(source: &str) -> String {
    parse(Path::new("c.yaml"), source).map(|_| panic!("accepted: {source}")).unwrap_err().join("\n")
}

fn kubernetes_of(source: &str) -> Kubernetes {
    match good(source).backend {
        Some(Backend::Kubernetes(kubernetes)) => *kubernetes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_with_nothing_in_it_is_fine() {
    for source in ["", "# nothing\n", "---\n", "{}", "backend:\n", "worker_id:\nbackend: {}\n"] {
        let file = good(source);
        assert!(file.worker_id.is_none() && file.backend.is_none(), "{source:?}");
    }
}

#[test]
fn reads_every_key_of_the_top_level() {
    let file = good("worker_id: my-worker\ncleanup: off\nmax_concurrent_tasks: 4\nidle_on_complete: 10m\n");
    assert_eq!(file.worker_id.as_deref(), Some("my-worker"));
    assert_eq!((file.cleanup, file.max_concurrent_tasks), (Some(false), Some(4)));
    assert_eq!(file.idle_on_complete.as_deref(), Some("10m"));
}

#[test]
fn what_looks_like_a_number_too_large_for_one_is_read_as_written() {
    let file = good(
        "worker_id: 12e4567\nbackend: {direct: {environment: [{name: A, value: 61e9540}, {name: B, value: .inf}, \
         {name: C, value: 340282366920938463463374607431768211456}]}}",
    );
    assert_eq!(file.worker_id.as_deref(), Some("12e4567"));
    let values: Vec<_> = file.environment.into_iter().filter_map(|variable| variable.value).collect();
    assert_eq!(values, ["61e9540", ".inf", "340282366920938463463374607431768211456"]);
    assert!(bad("max_concurrent_tasks: 1e999").contains("max_concurrent_tasks: a whole number"));
}

#[test]
fn reads_every_key_of_direct() {
    let file = good(
        "backend:\n  direct:\n    workspace_root: /w\n    target_dir: /t\n    oz_path: /oz\n    setup_command: |\n      a\n      b\n    \
         teardown_command: c\n    environment: [{name: A, value: 1.10}, {name: B}, {name: C, value: ''}, {name: D, value: ~}]\n",
    );
    let direct = Direct {
        workspace_root: "/w".into(),
        target_dir: Some("/t".into()),
        oz_path: Some("/oz".into()),
        setup_command: Some("a\nb\n".into()),
        teardown_command: Some("c".into()),
    };
    assert_eq!(file.backend, Some(Backend::Direct(direct)));
    let environment: Vec<_> = file.environment.into_iter().map(|v| (v.name, v.value)).collect();
    let text = |text: &str| Some(text.to_owned());
    let expected = [("A", text("1.10")), ("B", None), ("C", text("")), ("D", None)];
    assert_eq!(environment, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn blank_values_count_as_unset() {
    let direct = "backend: {direct: {workspace_root: ' ', target_dir: '', oz_path: '', setup_command: '', teardown_command: \"\\n\", environment: []}}";
    assert_eq!(good(direct).backend, Some(Backend::Direct(Direct::default())));
    assert_eq!(good("backend: {direct: }").backend, Some(Backend::Direct(Direct::default())));
    let kubernetes = "backend: {kubernetes: {namespace: '', kubeconfig: '', default_image: '', image_pull_policy: '', \
        use_image_volumes: , preflight_image: '', preflight_resources: {}, sidecar_image: '', coding_cli_sidecars: {claude: ''}, \
        setup_command: '', teardown_command: '', extra_labels: {}, extra_annotations: {}, active_deadline_seconds: , \
        ttl_seconds_after_finished: , workspace_size_limit: '', unschedulable_timeout: '', pod_template: {}}}";
    assert_eq!(kubernetes_of(kubernetes), Kubernetes::default());
    assert_eq!(kubernetes_of("backend: {kubernetes: {active_deadline_seconds: 0}}"), Kubernetes::default());
    assert!(good("worker_id: ''\nidle_on_complete: ''\n").idle_on_complete.is_none());
}

#[test]
fn reads_command_and_docker() {
    let file = good("backend: {command: {dispatch_command: run, cancel_command: stop, dispatch_timeout: 1.5m}}");
    let command = Command {
        dispatch_command: "run".into(),
        cancel_command: Some("stop".into()),
        dispatch_timeout: Duration::from_secs(90),
    };
    assert_eq!(file.backend, Some(Backend::Command(command)));
    let file = good("backend: {docker: {volumes: [/a:/b, '/c:/d:ro'], environment: [{name: A, value: b}]}}");
    let volumes = vec!["/a:/b".to_owned(), "/c:/d:ro".to_owned()];
    assert_eq!(file.backend, Some(Backend::Docker(Docker { volumes, ..Docker::default() })));
    assert_eq!(file.environment.len(), 1);
}

#[test]
fn reads_every_key_of_kubernetes() {
    let kubernetes = kubernetes_of(
        "backend:\n  kubernetes:\n    namespace: oz\n    kubeconfig: /k\n    default_image: a:1\n    image_pull_policy: Never\n    \
         use_image_volumes: true\n    preflight_image: b:2\n    preflight_resources: {limits: {cpu: 0.5, memory: 64Mi}}\n    \
         sidecar_image: c:3\n    coding_cli_sidecars: {claude: d:4}\n    setup_command: s\n    teardown_command: t\n    \
         extra_labels: {version: 1.10}\n    extra_annotations: {on: ~}\n    active_deadline_seconds: 60\n    \
         ttl_seconds_after_finished: 1e+06\n    workspace_size_limit: 10Gi\n    unschedulable_timeout: 0\n    \
         pod_template: {spec: {big: 9007199254740993, mode: 0400}}\n    context: c\n    image_pull_grace: 2m\n    \
         pod_start_timeout: 1h\n    protect_from_eviction: true\n    allowed_images: [' a/* ']\n",
    );
    let text = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let expected = Kubernetes {
        namespace: "oz".into(),
        kubeconfig: Some("/k".into()),
        default_image: Some("a:1".into()),
        image_pull_policy: PullPolicy::Never,
        use_image_volumes: true,
        preflight_image: "b:2".into(),
        preflight_resources: Some(Untyped(serde_json::json!({"limits": {"cpu": 0.5, "memory": "64Mi"}}))),
        sidecar_image: Some("c:3".into()),
        coding_cli_sidecars: text("claude", "d:4"),
        setup_command: Some("s".into()),
        teardown_command: Some("t".into()),
        extra_labels: text("version", "1.10"),
        extra_annotations: text("on", ""),
        active_deadline_seconds: Some(60),
        ttl_seconds_after_finished: 1_000_000,
        workspace_size_limit: Some("10Gi".into()),
        unschedulable_timeout: Duration::ZERO,
        pod_template: Some(Untyped(serde_json::json!({"spec": {"big": 9_007_199_254_740_993_u64, "mode": 256}}))),
        context: Some("c".into()),
        image_pull_grace: Duration::from_secs(120),
        pod_start_timeout: Duration::from_secs(3600),
        protect_from_eviction: true,
        allowed_images: vec!["a/*".into()],
    };
    assert_eq!(kubernetes, expected);
}

#[test]
fn the_words_of_yaml_1_1_are_switches_and_quoted_ones_are_not() {
    for (source, value) in [("yes", true), ("On", true), ("NO", false), ("n", false), ("true", true)] {
        assert_eq!(good(&format!("cleanup: {source}")).cleanup, Some(value));
    }
    assert_eq!(bad("cleanup: 'yes'"), "c.yaml:1:10: cleanup: true or false is wanted here, not text");
}

#[test]
fn a_key_that_is_cut_stays_one_line_however_long_it_is() {
    for length in 70..100 {
        let line = bad(&format!("a\tb{}: 1", "x".repeat(length)));
        assert!(line.contains("unknown key") && !line.contains(char::is_control), "{line:?}");
    }
}

/// The file, and all that must be said about it.
#[test]
#[allow(clippy::too_many_lines)]
fn every_mistake_is_one_line_with_place_key_and_advice() {
    for (source, line) in [
        ("workerid: x", "c.yaml:1:1: workerid: unknown key; did you mean worker_id?"),
        (
            "colour: red",
            "c.yaml:1:1: colour: unknown key; known here: worker_id, cleanup, max_concurrent_tasks, idle_on_complete, backend",
        ),
        ("volumes: []", "c.yaml:1:1: volumes: unknown key; it belongs under backend.docker"),
        (
            "setup_command: x",
            "c.yaml:1:1: setup_command: unknown key; it belongs under backend.direct or backend.kubernetes",
        ),
        ("direct: {}", "c.yaml:1:1: direct: unknown key; it belongs under backend"),
        (
            "\"a\\nb\": 1",
            "c.yaml:1:1: \"a\\nb\": unknown key; known here: worker_id, cleanup, max_concurrent_tasks, idle_on_complete, backend",
        ),
        ("backend:\n  dokcer: {}\n", "c.yaml:2:3: backend.dokcer: unknown key; did you mean docker?"),
        (
            "backend:\n  direct:\n    workspace_rot: /x\n",
            "c.yaml:3:5: backend.direct.workspace_rot: unknown key; did you mean workspace_root?",
        ),
        (
            "backend:\n  docker:\n    environment:\n    - {nam: A, name: A}\n",
            "c.yaml:4:8: backend.docker.environment[0].nam: unknown key; did you mean name?",
        ),
        ("worker_id: a\nworker_id: b\n", "c.yaml:2:1: worker_id: this key is there twice; keep one"),
        (
            "backend: {kubernetes: {pod_template: {spec: [{a: 1, a: 2}]}}}",
            "c.yaml:1:53: backend.kubernetes.pod_template.spec[0].a: this key is there twice; keep one",
        ),
        ("worker_id: [x]", "c.yaml:1:12: worker_id: text is wanted here, not a list"),
        (
            "worker_id: warp-1",
            "c.yaml:1:12: worker_id: \"warp-1\": ids that begin with \"warp\" are reserved; choose another",
        ),
        ("cleanup: maybe", "c.yaml:1:10: cleanup: true or false is wanted here, not text"),
        (
            "max_concurrent_tasks: -1",
            "c.yaml:1:23: max_concurrent_tasks: \"-1\": must be a whole number from 0 to 4294967295",
        ),
        (
            "max_concurrent_tasks: 1.5",
            "c.yaml:1:23: max_concurrent_tasks: \"1.5\": must be a whole number from 0 to 4294967295",
        ),
        (
            "max_concurrent_tasks: 4294967296",
            "c.yaml:1:23: max_concurrent_tasks: \"4294967296\": must be a whole number from 0 to 4294967295",
        ),
        (
            "max_concurrent_tasks: '4'",
            "c.yaml:1:23: max_concurrent_tasks: a whole number from 0 to 4294967295 is wanted here, not text",
        ),
        (
            "idle_on_complete: 10",
            "c.yaml:1:19: idle_on_complete: \"10\": a duration needs a unit, for example 1h30m, 45s or 0s",
        ),
        (
            "idle_on_complete: soon",
            "c.yaml:1:19: idle_on_complete: \"soon\": not a duration; write for example 1h30m, 45s or 0s",
        ),
        ("idle_on_complete: -5m", "c.yaml:1:19: idle_on_complete: \"-5m\": a duration cannot be negative"),
        ("backend: direct", "c.yaml:1:10: backend: a mapping is wanted here, not text"),
        ("[a]", "c.yaml:1:1: a mapping is wanted here, not a list"),
        (
            "backend:\n  docker: {}\n  direct: {}\n",
            "c.yaml:3:3: backend.direct: docker is configured already; keep one backend",
        ),
        (
            "backend:\n  command:\n    cancel_command: x\n",
            "c.yaml:2:3: backend.command: dispatch_command is missing: the command that hands a task to your runtime",
        ),
        (
            "backend: {command: {dispatch_command: ' '}}",
            "c.yaml:1:11: backend.command: dispatch_command is missing: the command that hands a task to your runtime",
        ),
        (
            "backend: {command: }",
            "c.yaml:1:11: backend.command: dispatch_command is missing: the command that hands a task to your runtime",
        ),
        (
            "backend: {command: {dispatch_command: [x]}}",
            "c.yaml:1:39: backend.command.dispatch_command: text is wanted here, not a list",
        ),
        (
            "backend: {command: {dispatch_command: x, dispatch_timeout: 1 parsec}}",
            "c.yaml:1:60: backend.command.dispatch_timeout: \"1 parsec\": not a duration; write for example 1h30m, 45s or 0s",
        ),
        (
            "backend: {command: {dispatch_command: x, dispatch_timeout: 0s}}",
            "c.yaml:1:60: backend.command.dispatch_timeout: \"0s\": must be longer than 0, or no task could be dispatched",
        ),
        (
            "backend: {direct: {environment: [{name: '', value: canary}]}}",
            "c.yaml:1:41: backend.direct.environment[0].name: the variable's name is empty",
        ),
        (
            "backend: {direct: {environment: [{name: ' '}]}}",
            "c.yaml:1:41: backend.direct.environment[0].name: the variable's name is empty",
        ),
        (
            "backend: {direct: {environment: [{value: canary}]}}",
            "c.yaml:1:34: backend.direct.environment[0].name: is missing: the name of the variable",
        ),
        (
            "backend: {direct: {environment: [{name: 'A=B', value: canary}]}}",
            "c.yaml:1:41: backend.direct.environment[0].name: the variable's name holds a =; name and value are written apart",
        ),
        (
            "backend: {direct: {environment: [{name: \"A\\0\"}]}}",
            "c.yaml:1:41: backend.direct.environment[0].name: an environment variable cannot hold a NUL character",
        ),
        (
            "backend: {direct: {environment: [A=canary]}}",
            "c.yaml:1:34: backend.direct.environment[0]: write {name: …, value: …} here, not text",
        ),
        (
            "backend: {direct: {environment: [{name: A, value: [canary]}]}}",
            "c.yaml:1:51: backend.direct.environment[0].value: text is wanted here, not a list",
        ),
        (
            "backend: {direct: {environment: {A: canary}}}",
            "c.yaml:1:33: backend.direct.environment: a list is wanted here, not a mapping",
        ),
        (
            "backend: {docker: {volumes: [/a]}}",
            "c.yaml:1:30: backend.docker.volumes[0]: \"/a\": not a volume; write HOST:CONTAINER or HOST:CONTAINER:MODE, \
             CONTAINER being an absolute path",
        ),
        (
            "backend: {kubernetes: {default_image: 'ubuntu 22.04'}}",
            "c.yaml:1:39: backend.kubernetes.default_image: \"ubuntu 22.04\": an image's name cannot hold white space",
        ),
        (
            "backend: {kubernetes: {sidecar_image: \"a\\tb\"}}",
            "c.yaml:1:39: backend.kubernetes.sidecar_image: \"a\\tb\": an image's name cannot hold white space",
        ),
        (
            "backend: {kubernetes: {coding_cli_sidecars: {claude: 'a b'}}}",
            "c.yaml:1:54: backend.kubernetes.coding_cli_sidecars.claude: \"a b\": an image's name cannot hold white space",
        ),
        (
            "backend: {kubernetes: {image_pull_policy: always}}",
            "c.yaml:1:43: backend.kubernetes.image_pull_policy: \"always\": no such pull policy; there are Always, \
             IfNotPresent and Never",
        ),
        (
            "backend: {kubernetes: {workspace_size_limit: 10GB}}",
            "c.yaml:1:46: backend.kubernetes.workspace_size_limit: \"10GB\": not a quantity; write for example 10Gi, \
             512Mi, 500m or 2",
        ),
        (
            "backend: {kubernetes: {preflight_resources: {requests: {cpu: lots}}}}",
            "c.yaml:1:62: backend.kubernetes.preflight_resources.requests.cpu: \"lots\": not a quantity; write for \
             example 10Gi, 512Mi, 500m or 2",
        ),
        (
            "backend: {kubernetes: {preflight_resources: {limits: {cpu: -1}}}}",
            "c.yaml:1:60: backend.kubernetes.preflight_resources.limits.cpu: \"-1\": a quantity cannot be negative",
        ),
        (
            "backend: {kubernetes: {preflight_resources: {request: {}}}}",
            "c.yaml:1:46: backend.kubernetes.preflight_resources.request: unknown key; did you mean requests?",
        ),
        (
            "backend: {kubernetes: {active_deadline_seconds: -1}}",
            "c.yaml:1:49: backend.kubernetes.active_deadline_seconds: \"-1\": must be a whole number from 0 to 2147483647",
        ),
        (
            "backend: {kubernetes: {ttl_seconds_after_finished: 1h}}",
            "c.yaml:1:52: backend.kubernetes.ttl_seconds_after_finished: a whole number from 0 to 2147483647 is wanted here, not text",
        ),
        (
            "backend: {kubernetes: {unschedulable_timeout: 30}}",
            "c.yaml:1:47: backend.kubernetes.unschedulable_timeout: \"30\": a duration needs a unit, for example \
             1h30m, 45s or 0s",
        ),
        (
            "backend: {kubernetes: {use_image_volumes: 1}}",
            "c.yaml:1:43: backend.kubernetes.use_image_volumes: true or false is wanted here, not a number",
        ),
        (
            "backend: {kubernetes: {pod_template: text}}",
            "c.yaml:1:38: backend.kubernetes.pod_template: a mapping is wanted here, not text",
        ),
        (
            "backend: {kubernetes: {extra_labels: [a]}}",
            "c.yaml:1:38: backend.kubernetes.extra_labels: a mapping is wanted here, not a list",
        ),
        (
            "backend: {kubernetes: {environment: []}}",
            "c.yaml:1:24: backend.kubernetes.environment: unknown key; it belongs under backend.docker or \
             backend.direct or backend.command",
        ),
        ("a: 1\n---\nb: 2\n", "c.yaml:3:1: a second YAML document begins here; the file must hold one"),
    ] {
        assert_eq!(bad(source), line, "{source}");
    }
}

#[test]
fn independent_mistakes_are_all_told_in_the_order_of_the_file() {
    let source = "cleanup: 7\nbackend:\n  direct:\n    oz_paht: x\n    target_dir: {}\nidle_on_complete: x\n";
    assert_eq!(
        bad(source),
        "c.yaml:1:10: cleanup: true or false is wanted here, not a number\n\
         c.yaml:4:5: backend.direct.oz_paht: unknown key; did you mean oz_path?\n\
         c.yaml:5:17: backend.direct.target_dir: text is wanted here, not a mapping\n\
         c.yaml:6:19: idle_on_complete: \"x\": not a duration; write for example 1h30m, 45s or 0s"
    );
}

#[test]
fn a_repeated_key_is_told_once() {
    let source = "backend: {kubernetes: {preflight_resources: {limits: {}, limits: {}}}}";
    let line = "c.yaml:1:58: backend.kubernetes.preflight_resources.limits: this key is there twice; keep one";
    assert_eq!(bad(source), line);
}

#[test]
fn no_mistake_repeats_a_variable() {
    for entry in ["{name: '', value: canary}", "{name: A, value: [canary]}", "'A=canary'", "{name: 'A=canary'}"] {
        let lines = bad(&format!("backend: {{direct: {{environment: [{entry}]}}}}"));
        assert!(!lines.contains("canary"), "{lines}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_which_and_why() {
    let lines = read(Path::new("/no/such.yaml"), &|path| std::fs::read(path)).map(|_| ()).unwrap_err();
    assert_eq!(lines, ["/no/such.yaml: cannot be read: No such file or directory (os error 2)"]);
    let lines = read(Path::new("/"), &|path| std::fs::read(path)).map(|_| ()).unwrap_err();
    assert_eq!(lines, ["/: cannot be read: Is a directory (os error 21)"]);
}
