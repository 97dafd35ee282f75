//! The command line: help, version, bad input, `--check`, and exit codes.

use oz_worker_tests::{
    agent::Agent,
    binary::{Build, named_binary},
    server::Server,
    worker::{Ended, Launch},
};
use serde_json::json;

/// Everything that a good start needs, so that the one bad thing of a test is the only one.
fn good(server: &Server, agent: &Agent) -> Launch {
    Launch::direct(server, agent)
}

/// One line on standard error that holds these words, exit code 2, and nobody was dialled.
fn refused(launch: &Launch, words: &[&str]) -> Ended {
    let ended = launch.run();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "not one line: {}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "no {word:?} in: {}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");
    ended
}

#[test]
fn help_fits_one_screen_and_keeps_the_quiet_flags_out() {
    for flag in ["--help", "-h"] {
        let ended = Launch::bare().flag(flag).run();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.lines().count() <= 50, "{} lines", ended.stdout.lines().count());
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 100), "{}", ended.stdout);
        for shown in [
            "--config-file",
            "--backend",
            "--api-key",
            "WARP_API_KEY",
            "--worker-id",
            "--volumes",
            "--env",
            "--check",
            "10s",
        ] {
            assert!(ended.stdout.contains(shown), "no {shown}");
        }
        for hidden in ["--web-socket-url", "--session-sharing-server-url"] {
            assert!(!ended.stdout.contains(hidden), "{hidden}");
        }
    }
}

#[test]
fn version_names_program_and_runtime() {
    let ended = Launch::bare().flag("--version").run();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.starts_with("oz-agent-worker "), "{}", ended.stdout);
    if named_binary().is_none() {
        let runtime = format!("runtime {})", Build::chosen().runtime);
        assert!(ended.stdout.trim_end().ends_with(&runtime), "{}", ended.stdout);
    }
    assert_eq!(ended.stdout.lines().count(), 1);
}

#[test]
fn bad_flags_are_one_line_and_exit_2() {
    let (server, agent) = (Server::start(), Agent::new());
    refused(&good(&server, &agent).flag("--worker-ids"), &["--worker-ids", "--worker-id"]);
    refused(&good(&server, &agent).flag("stray"), &["not a flag"]);
    refused(&good(&server, &agent).flag("--log-level"), &["--log-level"]);
    refused(&good(&server, &agent).flags(["--log-level", "loud"]), &["--log-level", "loud", "debug"]);
    refused(&good(&server, &agent).flags(["--log-format", "xml"]), &["--log-format", "xml", "json"]);
    refused(&good(&server, &agent).flags(["--max-concurrent-tasks", "many"]), &["--max-concurrent-tasks", "many"]);
    refused(&good(&server, &agent).flags(["--max-concurrent-tasks", "-1"]), &["--max-concurrent-tasks"]);
    refused(&good(&server, &agent).flags(["--drain-timeout", "soon"]), &["--drain-timeout", "soon"]);
    refused(&good(&server, &agent).worker_id("warp-1"), &["warp-1", "reserved"]);
    refused(&good(&server, &agent).flags(["--backend", "podman"]), &["podman", "docker"]);
    refused(&good(&server, &agent).flags(["--web-socket-url", "http://x"]), &["--web-socket-url"]);
    refused(&good(&server, &agent).flags(["-e", "=x"]), &["-e"]);
    assert!(server.accept_tcp(std::time::Duration::ZERO).is_err(), "a worker with bad flags dialled");
}

#[test]
fn what_is_required_is_named() {
    let (server, agent) = (Server::start(), Agent::new());
    refused(&good(&server, &agent).without_env("WARP_API_KEY"), &["--api-key", "WARP_API_KEY"]);
    let no_id = Launch::bare().env("WARP_API_KEY", "k").backend("direct", &json!({}));
    refused(&no_id, &["--worker-id"]);
}

#[test]
fn both_ways_to_write_a_flag_are_one() {
    let (server, agent) = (Server::start(), Agent::new());
    let _worker =
        good(&server, &agent).without_worker_id().flags(["--worker-id=with=equals", "--log-level=debug"]).start();
    assert_eq!(server.request().query(), [("worker_id", "with%3Dequals")]);
}

#[test]
fn flag_wins_over_environment_and_file() {
    let (server, agent) = (Server::start(), Agent::new());
    let worker = good(&server, &agent)
        .top("worker_id", json!("from-file"))
        .top("max_concurrent_tasks", json!(3))
        .env("WARP_API_KEY", "from-environment")
        .flags(["--api-key", "from-flag"])
        .with_metrics()
        .start();
    let request = server.request();
    assert_eq!(request.query(), [("worker_id", worker.launch.id())]);
    assert_eq!(request.header("authorization"), Some("Bearer from-flag"));
    request.upgrade();
    worker.wait_for_metric("oz_worker_tasks_max_concurrent", &[], 3.0);
}

#[test]
fn bad_file_is_named_with_line_column_and_key() {
    let (server, agent) = (Server::start(), Agent::new());
    let file = |text: &str| {
        let launch = Launch::dialling(&server.url());
        std::fs::write(launch.config_file(), text).unwrap();
        let path = launch.config_file();
        launch.flags(["--config-file", path.to_str().unwrap()])
    };
    let root = agent.path("").display().to_string();
    refused(&file("worker_idd: x\n"), &["config.yaml:1:1", "worker_idd", "worker_id"]);
    refused(&file("cleanup: perhaps\n"), &["config.yaml:1:10", "cleanup"]);
    refused(&file("backend:\n  direct: {}\n  docker: {}\n"), &["config.yaml:", "backend"]);
    refused(&file("backend:\n  command: {}\n"), &["config.yaml:", "dispatch_command"]);
    refused(
        &file(&format!("backend:\n  direct:\n    workspace_root: {root}\n    oz_pth: x\n")),
        &["config.yaml:4:5", "oz_pth", "oz_path"],
    );
    refused(&file("backend:\n  direct:\n    environment: [{name: ' '}]\n"), &["config.yaml:3:", "name"]);
    refused(
        &file("backend:\n  command: {dispatch_command: x, dispatch_timeout: 1 fortnight}\n"),
        &["config.yaml:2:", "dispatch_timeout"],
    );
    refused(&file("worker_id: [unclosed\n"), &["config.yaml:"]);
    refused(&file("idle_on_complete: 10x\n"), &["config.yaml:1:", "idle_on_complete"]);
    refused(&Launch::dialling(&server.url()).flags(["--config-file", "/no/such/file"]), &["/no/such/file"]);
    assert!(server.accept_tcp(std::time::Duration::ZERO).is_err(), "a worker with a bad file dialled");
}

#[test]
fn check_says_what_would_run_and_connects_to_nothing() {
    let (server, agent) = (Server::start(), Agent::new());
    let launch = good(&server, &agent).flag("--check");
    let ended = launch.run();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("direct") && ended.stdout.contains(launch.id()), "{}", ended.stdout);
    assert!(ended.stdout.contains(&agent.program().display().to_string()), "{}", ended.stdout);
    assert!(server.accept_tcp(std::time::Duration::ZERO).is_err());
    assert_eq!(launch.left_in_workspaces(), [""; 0]);
    refused(&good(&server, &agent).flags(["--check", "--log-level", "loud"]), &["loud"]);
}

/// Variables and their values.
type Variables<'a> = &'a [(&'a str, &'a str)];

#[test]
fn check_reads_every_variable_that_the_worker_reads_and_says_the_same_words() {
    let (server, agent) = (Server::start(), Agent::new());
    let otlp = [("OTEL_METRICS_EXPORTER", "otlp")];
    let https = [otlp[0], ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.invalid")];
    let elsewhere = "wss://192.0.2.1/".to_owned();
    let secure = server.url().replace("ws://", "wss://");
    let cases: [(Option<&String>, Variables<'_>, (&str, &str)); 9] = [
        (None, &[], ("OTEL_METRICS_EXPORTER", "prometeus")),
        (None, &[], ("OTEL_TRACES_EXPORTER", "jaeger")),
        (None, &otlp, ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:port")),
        (None, &otlp, ("OTEL_METRIC_EXPORT_INTERVAL", "10s")),
        (None, &https, ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file")),
        (None, &otlp, ("OTEL_RESOURCE_ATTRIBUTES", "no-equals-sign")),
        (Some(&elsewhere), &[], ("HTTPS_PROXY", "socks5://proxy:1")),
        (Some(&secure), &[], ("SSL_CERT_FILE", "/no/such/file")),
        (Some(&secure), &[], ("SSL_CERT_DIR", "/no/such/directory")),
    ];
    for (url, others, (variable, value)) in cases {
        let mut launch = good(&server, &agent).env(variable, value);
        for (name, value) in others {
            launch = launch.env(name, value);
        }
        if let Some(url) = url {
            launch = launch.flags(["--web-socket-url", url]);
        }
        let checked = refused(&launch.clone().flag("--check"), &[variable]);
        let words = checked.stderr.trim_end().strip_prefix("oz-agent-worker: ").unwrap();
        launch.start().wait_for_line(words);
    }
}

#[test]
fn variable_that_is_not_utf_8_is_an_error_that_names_it() {
    use std::os::unix::ffi::OsStrExt;

    let (server, agent) = (Server::start(), Agent::new());
    let value = std::ffi::OsStr::from_bytes(b"none\xa0");
    let names =
        ["OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "WARP_API_KEY", "HTTP_PROXY", "PASSED_ON"];
    for name in names {
        let launch = good(&server, &agent).env("OTEL_METRICS_EXPORTER", "otlp").env(name, value);
        let launch = launch.flags(["-e", "PASSED_ON"]);
        for launch in [launch.clone(), launch.flag("--check")] {
            refused(&launch, &[name, "UTF-8"]);
        }
    }
    assert!(server.accept_tcp(std::time::Duration::ZERO).is_err(), "a worker with a bad environment dialled");
}

#[test]
fn tilde_behind_an_equals_sign_is_the_home_directory() {
    let (server, agent) = (Server::start(), Agent::new());
    let launch = good(&server, &agent).without_env("WARP_API_KEY").flags(["--api-key-file=~/key", "--check"]);
    refused(&launch, &[&launch.home().join("key").display().to_string()]);
    std::fs::write(launch.home().join("key"), "wk-in-a-file").unwrap();
    let ended = launch.run();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let config = Launch::dialling(&server.url()).flags(["--config-file=~/w.yaml", "--check"]);
    std::fs::write(config.home().join("w.yaml"), "backend: {command: {dispatch_command: /bin/true}}\n").unwrap();
    let ended = config.run();
    assert!(ended.stdout.contains("command"), "{} {}", ended.stdout, ended.stderr);
}

#[test]
fn key_that_crosses_the_network_in_the_clear_is_one_warning_at_the_start() {
    let agent = Agent::new();
    let is_warning =
        |line: &&str| line.contains("warning") && line.contains("not encrypted") && line.contains("wss://");
    for (url, warnings) in [("ws://192.0.2.1/", 1), ("ws://127.0.0.1:9/", 0), ("wss://192.0.2.1/", 0)] {
        let checked = Launch::direct_to(url, &agent).flag("--check").run();
        assert_eq!(checked.stdout.lines().filter(is_warning).count(), warnings, "{url}: {checked:?}");
    }
    let worker = Launch::direct_to("ws://192.0.2.1/", &agent).start();
    worker.wait_for_line("not encrypted");
    assert_eq!(worker.lines_with("WARN").len(), 1);
}

#[test]
fn missing_oz_is_an_error_at_the_start() {
    let (server, agent) = (Server::start(), Agent::new());
    let launch = good(&server, &agent).config("oz_path", "/no/such/oz");
    for launch in [launch.clone(), launch.flag("--check")] {
        let ended = launch.run();
        assert!(matches!(ended.code, Some(1 | 2)), "{:?} {}", ended.code, ended.stderr);
        assert!(ended.stderr.contains("/no/such/oz"), "{}", ended.stderr);
    }
    let ended = good(&server, &agent).config("oz_path", "").env("PATH", "/var/empty").run();
    assert!(matches!(ended.code, Some(1 | 2)), "{:?} {}", ended.code, ended.stderr);
    assert!(ended.stderr.contains("oz") && ended.stderr.contains("PATH"), "{}", ended.stderr);
    assert!(server.accept_tcp(std::time::Duration::ZERO).is_err());
}

#[test]
fn missing_target_dir_is_an_error_at_the_start() {
    let (server, agent) = (Server::start(), Agent::new());
    let ended = good(&server, &agent).flags(["--target-dir", "/no/such/dir"]).run();
    assert!(matches!(ended.code, Some(1 | 2)), "{:?} {}", ended.code, ended.stderr);
    assert!(ended.stderr.contains("/no/such/dir"), "{}", ended.stderr);
}

#[test]
fn oz_is_found_on_the_path() {
    let (server, agent) = (Server::start(), Agent::new());
    let path = format!("{}:{}", agent.path("").display(), std::env::var("PATH").unwrap());
    let launch = Launch::dialling(&server.url()).env("PATH", &path);
    let root = launch.workspaces();
    let _worker = launch.backend("direct", &json!({"workspace_root": root})).start();
    let mut session = server.accept();
    session.send(oz_worker_tests::message::Assignment::new("T1").run("say here"));
    agent.wait_for("T1", "here");
}

#[test]
fn json_log_is_one_object_per_line() {
    let mut scene = crate::scene::Scene::with(|launch| launch.flags(["--log-format", "json", "--log-level", "debug"]));
    scene.run(&oz_worker_tests::message::Assignment::new("T1").run("echo 'quoted \"text\"'; exit 3"));
    scene.session.binary(b"x");
    scene.worker.wait_for_line("quoted");
    for line in scene.worker.log() {
        let object: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object.is_object(), "{line}");
    }
}

#[test]
fn text_log_has_no_colour_without_a_terminal_and_levels_filter() {
    let mut scene = crate::scene::Scene::with(|launch| launch.flags(["--log-level", "error"]));
    scene.session.binary(b"x");
    scene.still_works("T1");
    assert!(scene.worker.lines_with("WARN").is_empty() && scene.worker.lines_with("INFO").is_empty());
    let mut scene = crate::scene::Scene::new();
    scene.still_works("T1");
    scene.warnings_before("T1");
    assert!(!scene.worker.log().iter().any(|line| line.contains('\u{1b}')));
}
