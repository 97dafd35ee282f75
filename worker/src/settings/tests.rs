//! Flags, environment, file and defaults put together: who wins, what is missing, and that no secret is shown.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use oz_worker_backends::BackendSettings as Backend;
use oz_worker_backends::command::CommandSettings as Command;
use oz_worker_backends::direct::DirectSettings as Direct;
use oz_worker_host::HostFiles;

const VERSION: Version = Version { version: "1.2.3", commit: Some("abc1234"), runtime: "smol" };
const KEY: [(&str, &str); 1] = [("WARP_API_KEY", "wk-canary")];

/// A directory that goes when the test does.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("oz-worker-settings-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, content: &str) -> String {
        let path = self.0.join("config.yaml");
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn invoke(arguments: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Refusal> {
    let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    from_args(arguments.iter().map(OsString::from).collect(), &env, &|path| std::fs::read(path), &VERSION)
}

fn run(arguments: &[&str], env: &[(&str, &str)]) -> Settings {
    match invoke(arguments, env) {
        Ok(Invocation::Run(settings)) => *settings,
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => panic!("{refusal}"),
    }
}

fn refused(arguments: &[&str], env: &[(&str, &str)]) -> String {
    match invoke(arguments, env) {
        Err(refusal) => {
            assert_eq!(refusal.exit_code, 2);
            refusal.to_string()
        }
        Ok(_) => panic!("accepted {arguments:?}"),
    }
}

fn direct(settings: &Settings) -> &Direct {
    match &settings.backend {
        Backend::Direct(direct) => direct,
        other => panic!("{other:?}"),
    }
}

#[test]
fn help_and_version_are_printed_without_looking_at_anything_else() {
    let Ok(Invocation::Print(text)) = invoke(&["--version", "--log-level", "loud"], &[]) else { panic!("not printed") };
    assert_eq!(text, "oz-agent-worker 1.2.3 (commit abc1234, runtime smol)\n");
    let Ok(Invocation::Print(text)) = invoke(&["--help"], &[]) else { panic!("not printed") };
    assert!(text.starts_with("oz-agent-worker runs Oz tasks"));
}

#[test]
fn without_flags_the_defaults_hold() {
    let settings = run(&["--worker-id", "w"], &KEY);
    assert_eq!(settings.api_key.read().unwrap().expose(), "wk-canary");
    assert_eq!(settings.worker_id, "w");
    assert_eq!(settings.web_socket_url, "wss://oz.warp.dev/api/v1/selfhosted/worker/ws");
    assert_eq!(settings.dial_url(), "wss://oz.warp.dev/api/v1/selfhosted/worker/ws?worker_id=w");
    assert_eq!(settings.server_root_url, "https://app.warp.dev");
    assert_eq!(settings.session_sharing_server_url, None);
    assert_eq!((settings.log_level, settings.log_format), (LogLevel::Info, LogFormat::Text));
    assert!(settings.status_page && settings.health_address.is_none());
    assert!(settings.cleanup);
    assert_eq!((settings.max_concurrent_tasks, settings.idle_on_complete.as_deref()), (0, None));
    assert_eq!((settings.drain_timeout, settings.cancel_grace_period), (Duration::ZERO, Duration::from_secs(10)));
    assert!(settings.environment.is_empty() && settings.warnings.is_empty());
    assert_eq!(settings.backend.name(), "docker");
}

#[test]
fn a_flag_wins_over_the_environment_and_both_over_the_file() {
    let directory = Directory::new();
    let file = directory.file(
        "worker_id: from-file\ncleanup: true\nmax_concurrent_tasks: 4\nidle_on_complete: 10m\n\
         backend: {direct: {target_dir: /from/file}}\n",
    );
    let settings = run(&["--config-file", &file], &KEY);
    assert_eq!((settings.worker_id.as_str(), settings.max_concurrent_tasks), ("from-file", 4));
    assert_eq!(settings.idle_on_complete.as_deref(), Some("10m"));
    assert_eq!(direct(&settings).target_dir.as_deref(), Some(Path::new("/from/file")));
    assert!(settings.cleanup);

    let arguments = [
        "--config-file",
        &file,
        "--worker-id=flag",
        "--max-concurrent-tasks=0",
        "--idle-on-complete=1.5h",
        "--target-dir=/flag",
        "--no-cleanup",
        "--api-key=wk-flag",
        "--drain-timeout=5m",
        "--cancel-grace-period=0",
        "--log-level=DEBUG",
        "--log-format=json",
        "--status-page=off",
        "--health-address=[::]:8080",
        "--web-socket-url=ws://localhost:9000/ws?a=1",
        "--server-root-url=http://localhost:9001",
        "--session-sharing-server-url=wss://localhost:9002",
    ];
    let settings = run(&arguments, &KEY);
    assert_eq!((settings.worker_id.as_str(), settings.max_concurrent_tasks), ("flag", 0));
    assert_eq!(settings.idle_on_complete.as_deref(), Some("1.5h"));
    assert_eq!(direct(&settings).target_dir.as_deref(), Some(Path::new("/flag")));
    assert!(!settings.cleanup);
    assert_eq!(settings.api_key.read().unwrap().expose(), "wk-flag");
    assert_eq!((settings.drain_timeout, settings.cancel_grace_period), (Duration::from_secs(300), Duration::ZERO));
    assert_eq!((settings.log_level, settings.log_format), (LogLevel::Debug, LogFormat::Json));
    assert!(!settings.status_page);
    assert_eq!(settings.health_address, Some(("[::]".to_owned(), 8080)));
    assert_eq!(settings.dial_url(), "ws://localhost:9000/ws?a=1&worker_id=flag");
    assert_eq!(settings.server_root_url, "http://localhost:9001");
    assert_eq!(settings.session_sharing_server_url.as_deref(), Some("wss://localhost:9002"));
}

#[test]
fn a_blank_flag_is_no_flag() {
    let settings = run(&["--worker-id=w", "--api-key=", "--config-file=", "--target-dir", " ", "--log-level="], &KEY);
    assert_eq!((settings.api_key.read().unwrap().expose(), settings.log_level), ("wk-canary", LogLevel::Info));
}

#[test]
fn variables_of_the_flag_win_and_the_host_fills_in_what_has_no_value() {
    let directory = Directory::new();
    let file = directory.file(
        "backend: {direct: {environment: [{name: A, value: file}, {name: B, value: file}, {name: HOST}, {name: GONE}]}}",
    );
    let env = [KEY[0], ("HOST", "from host"), ("B", "from host")];
    let settings =
        run(&["--worker-id=w", "--config-file", &file, "-e", "A=flag", "-e", "B", "-e", "C=1", "-e", "C=2=3"], &env);
    let expected = [("A", "flag"), ("B", "from host"), ("HOST", "from host"), ("GONE", ""), ("C", "2=3")];
    assert_eq!(settings.environment, expected.into_iter().collect());
}

#[test]
fn volumes_of_the_flag_are_added_to_the_files() {
    let directory = Directory::new();
    let file = directory.file("worker_id: w\nbackend: {docker: {volumes: [/a:/b]}}");
    let settings = run(&["--config-file", &file, "-v", "/c:/d:ro"], &KEY);
    let Backend::Docker(docker) = &settings.backend else { panic!("{:?}", settings.backend) };
    assert_eq!(docker.volumes, ["/a:/b", "/c:/d:ro"]);
    let settings = run(&["--worker-id=w", "--backend=direct", "-v", "/c:/d"], &KEY);
    assert_eq!(settings.warnings, ["-v has no effect: only backend docker mounts volumes, and this is direct"]);
}

#[test]
fn another_backend_than_the_files_runs_with_its_defaults() {
    let directory = Directory::new();
    let file = directory.file("worker_id: w\nbackend: {docker: {environment: [{name: A, value: b}]}}");
    let settings = run(&["--config-file", &file, "--backend", "direct"], &KEY);
    assert_eq!(settings.backend, Backend::Direct(Direct::default()));
    assert!(settings.environment.is_empty());
    assert_eq!(
        settings.warnings,
        [
            "the file configures backend docker, but --backend direct was given: direct runs with its defaults and nothing \
          of docker's block is used"
        ]
    );
    let line = "--backend: command needs a dispatch_command, which only the file can give: \
                backend: {command: {dispatch_command: …}}";
    assert_eq!(refused(&["--config-file", &file, "--backend", "command"], &KEY), line);
    assert_eq!(refused(&["--worker-id=w", "--backend", "command"], &KEY), line);
}

#[test]
fn relative_paths_do_not_depend_on_where_a_task_runs() {
    let directory = Directory::new();
    let file = directory.file("worker_id: w\nbackend: {direct: {workspace_root: work}}");
    let settings = run(&["--config-file", &file, "--target-dir", "here"], &KEY);
    let here = std::env::current_dir().unwrap();
    assert_eq!(direct(&settings).workspace_root, here.join("work"));
    assert_eq!(direct(&settings).target_dir.as_deref(), Some(here.join("here").as_path()));
}

#[test]
fn every_bad_flag_is_one_line_that_says_what_to_do() {
    for (argument, line) in [
        ("--backend=podman", "--backend: \"podman\": known here: docker, direct, kubernetes, command"),
        ("--backend=dokcer", "--backend: \"dokcer\": did you mean docker?"),
        ("--log-level=inf", "--log-level: \"inf\": did you mean info?"),
        ("--status-page=no", "--status-page: \"no\": known here: on, off"),
        ("--health-address=8080", "--health-address: \"8080\": write HOST:PORT, for example 0.0.0.0:8080"),
        ("--health-address=:8080", "--health-address: \":8080\": write HOST:PORT, for example 0.0.0.0:8080"),
        ("--health-address=a:99999", "--health-address: \"a:99999\": write HOST:PORT, for example 0.0.0.0:8080"),
        ("--log-format=yaml", "--log-format: \"yaml\": known here: text, json"),
        ("--max-concurrent-tasks=-1", "--max-concurrent-tasks: \"-1\": must be a whole number from 0 to 4294967295"),
        ("--drain-timeout=5", "--drain-timeout: \"5\": a duration needs a unit, for example 1h30m, 45s or 0s"),
        ("--cancel-grace-period=-5s", "--cancel-grace-period: \"-5s\": a duration cannot be negative"),
        ("--idle-on-complete=x", "--idle-on-complete: \"x\": not a duration; write for example 1h30m, 45s or 0s"),
        (
            "--target-dir=/x",
            "--target-dir: only backend direct has a target directory, and this is backend docker; add --backend direct, or \
             leave it out",
        ),
        (
            "-v=/x",
            "-v: \"/x\": not a volume; write HOST:CONTAINER or HOST:CONTAINER:MODE, CONTAINER being an absolute path",
        ),
        ("-e= =canary", "-e: the variable's name is empty; write KEY=VALUE, or KEY for the host's value"),
        ("--web-socket-url=https://x", "--web-socket-url: must begin with ws:// or wss://"),
        (
            "--web-socket-url=wss://u:canary@x",
            "--web-socket-url: must not hold a user name or password; the API key is what the worker signs in with",
        ),
        ("--server-root-url=app.warp.dev", "--server-root-url: must begin with http:// or https://"),
        ("--session-sharing-server-url=wss://", "--session-sharing-server-url: names no host"),
        ("--worker-id=warp-1", "--worker-id: \"warp-1\": ids that begin with \"warp\" are reserved; choose another"),
        ("--config-file=/no/such", "/no/such: cannot be read: No such file or directory (os error 2)"),
        (
            "--api-key=wk-\ncanary",
            "--api-key: the API key has a line break, control character or non-ASCII character inside; it must be one \
             plain line",
        ),
        ("--api-key-file=/no/such", "--api-key-file: cannot read /no/such: No such file or directory (os error 2)"),
        ("--wroker-id=x", "unknown flag --wroker-id; did you mean --worker-id?"),
    ] {
        assert_eq!(refused(&["--worker-id=w", argument], &KEY), line);
    }
}

#[test]
fn what_is_missing_is_asked_for_all_at_once() {
    assert_eq!(
        refused(&[], &[]),
        "no API key: set WARP_API_KEY, or give --api-key-file PATH or --api-key KEY\n\
         no worker id: give --worker-id ID, or worker_id in the file"
    );
    assert_eq!(
        refused(&["--worker-id=w"], &[("WARP_API_KEY", " ")]),
        "no API key: set WARP_API_KEY, or give --api-key-file PATH or --api-key KEY"
    );
}

#[test]
fn a_bad_file_does_not_hide_bad_flags_and_nothing_is_called_missing_because_of_it() {
    let directory = Directory::new();
    let file = directory.file("worker_id: [\n");
    let text = refused(&["--config-file", &file, "--log-level=x"], &KEY);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(text.contains("config.yaml:1:12: not valid YAML") && !text.contains("no worker id"), "{text}");
}

#[test]
fn a_key_file_is_used_before_the_environment_and_after_the_flag() {
    let directory = Directory::new();
    let path = directory.0.join("key");
    std::fs::write(&path, "wk-file\n").unwrap();
    let flag = format!("--api-key-file={}", path.display());
    let settings = run(&["--worker-id=w", &flag], &KEY);
    assert_eq!(settings.api_key.read().unwrap().expose(), "wk-file");
    assert_eq!(settings.api_key, ApiKey::File(path.clone()));
    let settings = run(&["--worker-id=w", &flag, "--api-key=wk-flag"], &KEY);
    assert_eq!(settings.api_key.read().unwrap().expose(), "wk-flag");
    std::fs::write(&path, "wk\ncanary").unwrap();
    assert!(!refused(&["--worker-id=w", &flag], &KEY).contains("canary"));
}

/// A host with an `oz` on its `PATH`, and a file with everything in it that must never be shown.
fn host() -> (Directory, String, OsString) {
    let directory = Directory::new();
    let oz = directory.0.join("oz");
    std::fs::write(&oz, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&oz, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.file(&format!(
        "worker_id: my worker\nmax_concurrent_tasks: 4\nbackend:\n  direct:\n    workspace_root: {}/work\n    \
         setup_command: export T=canary\n    environment: [{{name: SECRET, value: canary}}, {{name: PASSED}}]\n",
        directory.0.display()
    ));
    let path = directory.0.clone().into_os_string();
    (directory, file, path)
}

fn checked(arguments: &[&str], path: &OsStr) -> Result<String, Refusal> {
    let env = [KEY[0], ("PASSED", "canary")];
    match invoke(arguments, &env) {
        Ok(Invocation::Check(settings)) => {
            assert!(!format!("{settings:?}").replace("export T=canary", "").contains("canary"), "{settings:?}");
            check::report(&settings, &HostFiles, Some(path), "prometheus on 127.0.0.1:9464")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn check_says_what_would_run_and_shows_no_secret() {
    let (directory, file, path) = host();
    let report = checked(&["--check", "--config-file", &file, "-e", "TOKEN=canary"], &path).unwrap();
    let root = directory.0.display();
    assert_eq!(
        report,
        format!(
            "Flags and file are good. This would run:\n  \
             worker id            my worker\n  \
             connects to          wss://oz.warp.dev/api/v1/selfhosted/worker/ws?worker_id=my%20worker\n  \
             API key              given, not shown\n  \
             agent's server       https://app.warp.dev\n  \
             backend              direct\n    \
               agent              {root}/oz\n    \
               workspaces in      {root}/work\n    \
               setup command      configured, not shown\n  \
             tasks at once        4\n  \
             environment          SECRET, PASSED, TOKEN (values not shown)\n  \
             idle on complete     the agent's own default\n  \
             drain timeout        0s\n  \
             cancel grace         10s\n  \
             cleanup              yes\n  \
             metrics              prometheus on 127.0.0.1:9464\n  \
             log                  info, text\n"
        )
    );
    assert!(!directory.0.join("work").exists(), "check makes nothing");
}

#[test]
fn check_says_what_this_host_lacks() {
    let (directory, file, path) = host();
    let refusal = checked(&["--check", "--config-file", &file, "--target-dir=/no/such"], &path).unwrap_err();
    assert_eq!(
        (refusal.to_string().as_str(), refusal.exit_code),
        ("backend direct: target_dir /no/such is not a directory; it must exist before the worker starts", 1)
    );
    std::fs::remove_file(directory.0.join("oz")).unwrap();
    let refusal = checked(&["--check", "--config-file", &file], &path).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!(
            "backend direct has no agent to run: no executable file oz on PATH; looked in {}; put oz on PATH, or set \
             oz_path in the file",
            directory.0.display()
        )
    );
}

#[test]
fn a_workspace_root_below_something_that_is_no_directory_is_refused() {
    let (directory, _, path) = host();
    let root = directory.0.join("oz/work");
    let error =
        Direct { workspace_root: root.clone(), ..Direct::default() }.agent(&HostFiles, Some(&path)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "backend direct: workspace_root {} cannot be written in: {} is not a writable directory",
            root.display(),
            directory.0.join("oz").display()
        )
    );
}

#[test]
fn check_reports_every_backend() {
    let directory = Directory::new();
    let path = OsString::new();
    for (block, expected) in [
        (
            "command: {dispatch_command: canary, cancel_command: canary}",
            &["dispatch timeout   1m", "dispatch command   configured"][..],
        ),
        (
            "docker: {volumes: [/a:/b], pull_policy: never, container_options: {Memory: 1}, extra_labels: {a: canary}}",
            &[
                "engine             ",
                "volume             /a:/b",
                "pull policy        never",
                "container options  configured",
                "but                Memory of container_options has no effect",
            ],
        ),
        (
            "kubernetes: {pod_template: {containers: [{name: x, env: [{name: A, value: canary}]}]}}",
            &["namespace          default", "pod template       configured"],
        ),
    ] {
        let file = directory.file(&format!("worker_id: w\nbackend: {{{block}}}"));
        let Ok(Invocation::Check(settings)) = invoke(&["--check", "--config-file", &file], &KEY) else {
            panic!("{block}")
        };
        let report = check::report(&settings, &HostFiles, Some(&path), "none").unwrap();
        for part in expected {
            assert!(report.contains(part), "{part}\n{report}");
        }
        assert!(!report.contains("canary"), "{report}");
    }
}

#[test]
fn debug_shows_neither_the_key_nor_a_variable_nor_a_pod_template() {
    let directory = Directory::new();
    let file = directory.file("backend: {kubernetes: {pod_template: {spec: {x: canary}}}}");
    let settings = run(&["--worker-id=w", "--config-file", &file, "-e", "A=canary"], &KEY);
    assert!(!format!("{settings:?} {settings:#?}").contains("canary"));
    let command =
        Command { dispatch_command: "x".into(), cancel_command: None, dispatch_timeout: Command::DISPATCH_TIMEOUT };
    assert_eq!(Backend::Command(command).name(), "command");
}
