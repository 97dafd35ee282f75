//! The direct backend: workspace, setup, agent, teardown, and every way in which they fail.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Command,
};

use oz_worker_tests::{BOUND, agent, message::Assignment, peers::skip_this, process::Watch, worker::names_in};
use serde_json::json;

use crate::scene::Scene;

#[test]
fn workspace_is_private_and_removed() {
    let mut scene = Scene::new();
    scene.run(
        &Assignment::new("T1").run("record; say mode \"$(stat -c %a .)\"; echo x > file; mkdir -p a/b; chmod 500 a"),
    );
    assert_eq!(scene.agent.hear("T1", "mode"), "700");
    assert_eq!(scene.agent.record("T1").directory, scene.worker.launch.workspaces().canonicalize().unwrap().join("T1"));
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
}

#[test]
fn workspace_full_of_links_is_removed_without_following_them() {
    let mut scene = Scene::new();
    let outside = scene.worker.launch.home().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "stays").unwrap();
    let script = format!("ln -s '{0}' link; mkdir d; ln -s '{0}' d/link; ln -s / root; mkfifo pipe", outside.display());
    scene.run(&Assignment::new("T1").run(&script));
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "stays");
}

#[test]
fn no_cleanup_keeps_the_workspace() {
    let mut scene = Scene::with(|launch| launch.flag("--no-cleanup"));
    scene.run(&Assignment::new("T1").run("echo kept > file"));
    let file = scene.worker.launch.workspaces().join("T1/file");
    assert_eq!(fs::read_to_string(file).unwrap(), "kept\n");
}

#[test]
fn target_dir_is_shared_and_never_removed() {
    let holder = tempfile::tempdir().unwrap();
    let target = holder.path().to_owned();
    let mut scene = Scene::with(|launch| launch.flags(["--target-dir", target.to_str().unwrap()]));
    for task_id in ["T1", "T2"] {
        scene.run(
            &Assignment::new(task_id)
                .run("record; echo $TASK_ID > $TASK_ID; git config --global user.name me; say done"),
        );
    }
    assert_eq!(names_in(&target), ["T1", "T2"]);
    let records = [scene.agent.record("T1"), scene.agent.record("T2")];
    for record in &records {
        assert_eq!(record.directory, target.canonicalize().unwrap());
        let private = std::path::Path::new(&record.environment["GIT_CONFIG_GLOBAL"]).to_owned();
        assert!(!private.starts_with(&target), "{}", private.display());
        assert!(!private.parent().unwrap().exists(), "{} is left", private.display());
    }
    assert_ne!(records[0].environment["GIT_CONFIG_GLOBAL"], records[1].environment["GIT_CONFIG_GLOBAL"]);
    assert_eq!(names_in(&scene.worker.launch.home()), [""; 0], "a task reached the operator's own files");
}

#[test]
fn setup_and_teardown_run_in_the_workspace_around_the_agent() {
    let holder = tempfile::tempdir().unwrap();
    let trace = holder.path().join("trace");
    let line = |word: &str| format!("echo {word} \"$(pwd)\" $OZ_WORKER_BACKEND $OZ_RUN_ID >> '{}'", trace.display());
    let mut scene = Scene::with(|launch| {
        launch
            .config(
                "setup_command",
                format!("{}; echo FROM_SETUP=yes > $OZ_ENVIRONMENT_FILE; echo > made", line("setup")),
            )
            .config("teardown_command", line("teardown"))
    });
    scene.run(&Assignment::new("T1").run(&format!("{}; test -e made && test $FROM_SETUP = yes", line("agent"))));
    let workspace = scene.worker.launch.workspaces().canonicalize().unwrap().join("T1");
    let expected: Vec<String> = [("setup", "direct T1"), ("agent", ""), ("teardown", "direct T1")]
        .map(|(word, rest)| format!("{word} {} {rest}", workspace.display()).trim_end().to_owned())
        .into();
    let got = fs::read_to_string(&trace).unwrap();
    let got: Vec<&str> = got.lines().map(str::trim_end).collect();
    // The agent's environment is compared case by case in the vectors; here its order counts.
    assert_eq!(got[0], expected[0]);
    assert!(got[1].starts_with(&expected[1]), "{got:?}");
    assert_eq!(got[2], expected[2]);
    assert_eq!(got.len(), 3);
}

#[test]
fn setup_that_fails_fails_the_task_and_teardown_still_runs() {
    let holder = tempfile::tempdir().unwrap();
    let torn_down = holder.path().join("torn-down");
    let mut scene = Scene::with(|launch| {
        launch
            .config("setup_command", "echo to-be-seen; exit 9")
            .config("teardown_command", format!("touch '{}'", torn_down.display()))
    });
    let failed = scene.fail(&Assignment::new("T1").run("say started"));
    assert_eq!(failed["failure_reason"], "setup_command");
    assert_eq!(failed.get("exit_code"), None);
    scene.worker.wait_for_line("to-be-seen");
    assert_eq!(scene.agent.said(), [""; 0]);
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
    assert!(torn_down.exists());
}

#[test]
fn teardown_runs_after_failure_and_after_cancellation() {
    let holder = tempfile::tempdir().unwrap();
    let log = holder.path().join("log");
    let mut scene =
        Scene::with(|launch| launch.config("teardown_command", format!("echo $OZ_RUN_ID >> '{}'", log.display())));
    scene.fail(&Assignment::new("failed").run("exit 1"));
    scene.claim(&Assignment::new("cancelled").run("say started; gate"));
    scene.agent.wait_for("cancelled", "started");
    scene.cancel("cancelled");
    assert_eq!(fs::read_to_string(&log).unwrap(), "failed\ncancelled\n");
}

#[test]
fn teardown_that_fails_is_a_warning_and_a_metric_only() {
    let mut scene = Scene::with(|launch| launch.with_metrics().config("teardown_command", "exit 5"));
    scene.still_works("T1");
    let failure = [("phase", "cleanup"), ("reason", "teardown_command")];
    let scrape = scene.worker.wait_for_metric("oz_worker_task_failures_total", &failure, 1.0);
    assert_eq!(scrape.value("oz_worker_tasks_completed_total", &[("result", "succeeded")]), 1.0);
    assert_eq!(scene.warnings_before("T1").len(), 1);
}

#[test]
fn exit_codes_and_signals_are_reported() {
    let mut scene = Scene::new();
    for (script, code) in [
        ("exit 1", 1),
        ("exit 42", 42),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
        ("kill -INT $$", 130),
    ] {
        let failed = scene.fail(&Assignment::new("T1").execution(script).run(script));
        assert_eq!(
            (&failed["failure_reason"], &failed["exit_code"]),
            (&json!("agent_invocation"), &json!(code)),
            "{script}"
        );
    }
}

#[test]
fn task_ids_that_are_no_plain_path_component_fail() {
    let mut scene = Scene::new();
    for task_id in ["", ".", "..", "a/b", "/", "/etc", "../x", "a\0b", "a/", "./a"] {
        let failed = scene.fail(&Assignment::new(task_id).run("say started"));
        assert_eq!(failed["failure_reason"], "workspace_setup", "{task_id:?}");
    }
    assert_eq!(scene.agent.said(), [""; 0]);
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
    assert_eq!(names_in(scene.worker.launch.dir()), ["config.yaml", "home", "ws"]);
}

#[test]
fn odd_task_ids_that_are_path_components_run() {
    let mut scene = Scene::new();
    let long = "x".repeat(255);
    let odd = [
        "...",
        " ",
        "-rf",
        "a b",
        "ä-日本-🦀",
        "a\nb",
        "a\\b",
        "~",
        "$HOME",
        "'; echo x",
        "*",
        "\u{1b}[2J",
        long.as_str(),
    ];
    for task_id in odd {
        let end = scene.run(&Assignment::new(task_id).run("test \"$(basename \"$PWD/\")\" != / && pwd && exit 0"));
        assert_eq!(end["type"], "task_completed", "{task_id:?}: {end}");
    }
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
    assert!(!scene.worker.log().iter().any(|line| line.contains('\u{1b}')), "a task id reached the terminal");
    // Longer than the file system takes.
    let failed = scene.fail(&Assignment::new(&"x".repeat(256)));
    assert_eq!(failed["failure_reason"], "workspace_setup");
}

#[test]
fn directory_that_is_there_already_is_used_and_not_removed() {
    let mut scene = Scene::new();
    let foreign = scene.worker.launch.workspaces().join("T1");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("file"), "stays").unwrap();
    let end = scene.run(&Assignment::new("T1").run("test -e file"));
    assert_eq!(end["type"], "task_completed");
    assert_eq!(fs::read_to_string(foreign.join("file")).unwrap(), "stays");
    let warnings = scene.warnings_before("T1");
    assert!(warnings.len() == 1 && warnings[0].contains(foreign.to_str().unwrap()), "{warnings:#?}");
}

#[test]
fn agent_that_cannot_be_executed_fails_the_task() {
    let mut scene = Scene::new();
    let program = scene.agent.program();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    let failed = scene.fail(&Assignment::new("T1"));
    assert_eq!(failed["failure_reason"], "agent_invocation");
    assert_eq!(failed.get("exit_code"), None);
    fs::remove_file(&program).unwrap();
    let failed = scene.fail(&Assignment::new("T2"));
    assert_eq!(failed["failure_reason"], "agent_invocation");
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
    // Back again: no restart is needed.
    agent::write_program(&program, "#!/bin/sh\nexit 0\n");
    scene.still_works("T3");
}

#[test]
fn agent_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let mut scene = Scene::with(|launch| launch.flags(["--cancel-grace-period", "1s"]));
    scene.claim(&Assignment::new("T1").run("trap '' TERM INT HUP; say pid $$; while :; do sleep 600; done"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    scene.cancel("T1");
    assert!(!agent.is_alive());
}

#[test]
fn agent_gets_the_grace_period_to_clean_up() {
    let mut scene = Scene::new();
    scene.claim(
        &Assignment::new("T1").run("trap 'say cleaned; exit 0' TERM; say started; while :; do sleep 600 & wait; done"),
    );
    scene.agent.wait_for("T1", "started");
    scene.cancel("T1");
    assert_eq!(scene.agent.said(), ["T1 started", "T1 cleaned"]);
}

#[test]
fn workspace_root_that_cannot_be_written_fails_each_task_until_it_can() {
    if !rustix::process::getuid().is_root() {
        // Without the right to mount, a mode is enough; root would not be kept out by it.
        let mut scene = Scene::new();
        let root = scene.worker.launch.workspaces();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!(scene.fail(&Assignment::new("T1"))["failure_reason"], "workspace_setup");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        scene.still_works("T2");
        return;
    }
    let mut scene = Scene::new();
    let root = scene.worker.launch.workspaces();
    let Some(mount) = Mount::tmpfs(&root, "ro") else { return };
    assert_eq!(scene.fail(&Assignment::new("T1"))["failure_reason"], "workspace_setup");
    drop(mount);
    scene.still_works("T2");
}

#[test]
fn full_disk_fails_the_task_and_only_it() {
    let mut scene = Scene::new();
    let root = scene.worker.launch.workspaces();
    let Some(mount) = Mount::tmpfs(&root, "size=64k,nr_inodes=8") else { return };
    // A task that fills the disk fails by itself, and what it wrote is removed.
    let failed = scene.fail(&Assignment::new("T1").run("head -c 1000000 /dev/zero > big"));
    assert_eq!(failed["failure_reason"], "agent_invocation");
    assert_eq!(names_in(&root), [""; 0]);
    // No inode left for a workspace.
    for count in 0..16 {
        let _ = fs::write(root.join(format!("filler-{count}")), "");
    }
    assert_eq!(scene.fail(&Assignment::new("T2"))["failure_reason"], "workspace_setup");
    for name in names_in(&root) {
        fs::remove_file(root.join(name)).unwrap();
    }
    scene.still_works("T3");
    drop(mount);
}

/// A file system that a test mounted.
struct Mount<'a>(&'a std::path::Path);

impl<'a> Mount<'a> {
    /// `None`, with a line, where mounting is not allowed.
    fn tmpfs(at: &'a std::path::Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        skip_this("no tmpfs can be mounted here");
        None
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // Lazily: a worker that looks into it must not keep it.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn what_setup_writes_is_never_filled_in_from_the_workers_environment() {
    let setup = r#"test -f "$OZ_ENVIRONMENT_FILE" && ! test -s "$OZ_ENVIRONMENT_FILE" && test "$WARP_API_KEY" || exit 1
        printf '%s\n' 'TITLE="Fix ${WARP_API_KEY}$HOSTVAR."' 'KEY=$WARP_API_KEY' 'OWN="${FROM_TASK}/x"' 'PATH=/opt/x/bin:$PATH' \
            'not a variable' 'LAST=it counts' > "$OZ_ENVIRONMENT_FILE""#;
    let mut scene = Scene::with(|launch| launch.env("HOSTVAR", "from-host").config("setup_command", setup));
    scene.run(&Assignment::new("T1").env("FROM_TASK", "task").run("record"));
    let environment = scene.agent.record("T1").environment;
    let has = |name: &str| environment.get(name).map(String::as_str);
    assert_eq!(
        (has("TITLE"), has("KEY"), has("OWN"), has("LAST")),
        (Some("Fix ."), Some(""), Some("task/x"), Some("it counts"))
    );
    assert!(has("PATH").unwrap().starts_with("/opt/x/bin:/"), "{environment:?}");
    let warnings = scene.warnings_before("T1");
    assert!(
        warnings.len() == 1 && warnings[0].contains("line 5 ") && !warnings[0].contains("not a variable"),
        "{warnings:?}"
    );
}

#[test]
fn a_link_in_place_of_the_file_of_variables_is_not_followed() {
    let holder = tempfile::tempdir().unwrap();
    let precious = holder.path().join("precious");
    fs::write(&precious, "kept").unwrap();
    let mut scene = Scene::with(|launch| launch.flag("--no-cleanup").config("setup_command", "true"));
    // The first run leaves a link, the second finds it.
    scene.run(&Assignment::new("T1").run(&format!("rm -f .oz-env; ln -s '{}' .oz-env", precious.display())));
    assert_eq!(scene.run(&Assignment::new("T1").execution("2"))["type"], "task_completed");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
}

#[test]
fn agent_that_was_stopped_hears_that_it_is_to_end() {
    let mut scene = Scene::new();
    let script = "trap 'say cleaned; exit 0' TERM; say pid $$; while :; do sleep 600 & wait; done";
    scene.claim(&Assignment::new("T1").run(script));
    let pid = scene.agent.hear_pid("T1", "pid");
    oz_worker_tests::process::signal(pid, rustix::process::Signal::STOP);
    scene.cancel("T1");
    assert_eq!(scene.agent.said(), [format!("T1 pid {pid}"), "T1 cleaned".to_owned()]);
}

#[test]
fn target_dir_that_cannot_be_entered_is_an_error_at_start() {
    let holder = tempfile::tempdir().unwrap();
    fs::set_permissions(holder.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let scene = Scene::new();
    let mut launch = scene.worker.launch.clone().flags(["--target-dir", holder.path().to_str().unwrap()]);
    if rustix::process::getuid().is_root() {
        // Root enters anything, unless it gives up the right to.
        launch = launch.through(["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]);
    }
    let ended = launch.run();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot be entered"), "{}", ended.stderr);
}

#[test]
fn host_variables_and_credentials_stay_out_of_the_agent() {
    let mut scene =
        Scene::with(|launch| launch.env("AWS_SECRET_ACCESS_KEY", "x").env("TMPDIR", "/tmp").env("LANG", "C"));
    scene.run(&Assignment::new("T1").run("record"));
    let environment = scene.agent.record("T1").environment;
    for absent in ["AWS_SECRET_ACCESS_KEY", "WARP_API_KEY", "LANG", "OTEL_METRICS_EXPORTER", "SSL_CERT_FILE"] {
        assert!(!environment.contains_key(absent), "{absent} reached the agent");
    }
    assert_eq!(environment["TMPDIR"], "/tmp");
    assert!(environment.contains_key("PATH") && environment.contains_key("HOME"));
}

#[test]
fn agent_has_no_terminal_and_no_descriptor_of_the_worker() {
    // Whoever starts the worker may leave descriptors open: these are not for the agent either.
    let left_open: Vec<fs::File> = (0..10)
        .map(|_| {
            let file = tempfile::tempfile().unwrap();
            rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
            file
        })
        .collect();
    let mut scene = Scene::new();
    let inherited = fs::read_dir(format!("/proc/{}/fd", scene.worker.pid())).unwrap().count();
    assert!(inherited > left_open.len());
    scene
        .run(&Assignment::new("T1").run("say stdin \"$(readlink /proc/$$/fd/0)\"; say open $(ls /proc/$$/fd | wc -w)"));
    assert_eq!(scene.agent.hear("T1", "stdin"), "/dev/null");
    // Standard input, output, error, the script that the shell reads, and up to both ends of the pipe from `ls`.
    let open: usize = scene.agent.hear("T1", "open").trim().parse().unwrap();
    assert!(open <= 6, "{open} descriptors are open in the agent");
}

#[test]
fn agent_leads_a_process_group_of_its_own() {
    let mut scene = Scene::new();
    scene.claim(&Assignment::new("T1").run("say pid $$; gate"));
    let pid = scene.agent.hear_pid("T1", "pid");
    let group = rustix::process::getpgid(rustix::process::Pid::from_raw(pid)).unwrap();
    assert_ne!(Some(group), rustix::process::Pid::from_raw(scene.worker.pid()));
    let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_eq!(owner, rustix::process::getuid().as_raw());
    scene.agent.open_gate();
    scene.end_of("T1");
    assert!(Watch::new(pid).ends_within(BOUND));
}
