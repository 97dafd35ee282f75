//! kill -9 of the worker, and what the next one makes of it.

use std::{fs, path::PathBuf};

use oz_worker_tests::{
    BOUND,
    connection::Connection,
    message::Assignment,
    peers::skip_this,
    process::{self, Watch},
    worker::{Launch, Worker, names_in},
};
use rustix::process::Signal;

use crate::scene::Scene;

/// Kills the worker and starts another on the same directories; gives the killed one.
fn restart(scene: &mut Scene, launch: &Launch) -> Worker {
    scene.worker.kill();
    let killed = std::mem::replace(&mut scene.worker, launch.start());
    scene.accept_again();
    killed
}

#[test]
fn next_worker_ends_and_removes_what_a_killed_one_left() {
    let mut scene = Scene::with(|launch| launch.flags(["--cancel-grace-period", "1s"]));
    let launch = scene.worker.launch.clone();
    let script = "echo x > file; mkdir -p a/b; (setsid sh -c 'trap \"\" TERM HUP; echo \"$0 daemon $$\" > \"$1\"; while :; do sleep 600; done' \
        \"$TASK_ID\" \"$dir/events\" >/dev/null 2>&1 &); say pid $$; while :; do sleep 600; done";
    let mut left = Vec::new();
    for task_id in ["T1", "T2"] {
        scene.claim(&Assignment::new(task_id).run(script));
        left.push(Watch::new(scene.agent.hear_pid(task_id, "pid")));
        left.push(Watch::new(scene.agent.hear_pid(task_id, "daemon")));
    }
    restart(&mut scene, &launch);
    for process in &left {
        assert!(process.ends_within(BOUND), "process {} of a killed worker still runs", process.pid);
    }
    // The clean-up is done when the first task of the new worker has run.
    scene.still_works("T3");
    assert_eq!(launch.left_in_workspaces(), [""; 0]);
    // The same task may come again.
    scene.still_works("T1");
}

#[test]
fn nothing_else_is_touched() {
    let mut scene = Scene::new();
    let launch = scene.worker.launch.clone();
    let root = launch.workspaces();
    // What an operator may have put there: a directory, a file, a link; some look like a workspace.
    for name in ["foreign", "T9", ".git"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), "stays").unwrap();
    }
    fs::set_permissions(root.join("T9"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(root.join("file"), "stays").unwrap();
    std::os::unix::fs::symlink("foreign", root.join("link")).unwrap();
    let mut stranger = std::process::Command::new("sleep").arg("600").env("TASK_ID", "T1").spawn().unwrap();

    scene.claim(&Assignment::new("T1").run("say pid $$; sleep 600"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    restart(&mut scene, &launch);
    assert!(agent.ends_within(BOUND));
    scene.still_works("T2");

    assert_eq!(names_in(&root), [".git", "T9", "file", "foreign", "link"]);
    for name in ["foreign", "T9", ".git"] {
        assert_eq!(fs::read_to_string(root.join(name).join("file")).unwrap(), "stays");
    }
    assert!(matches!(stranger.try_wait(), Ok(None)), "a stranger that merely has a TASK_ID was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn two_workers_with_ids_of_their_own_on_one_root_leave_each_other_alone() {
    let mut scene = Scene::new();
    let launch = scene.worker.launch.clone();
    scene.claim(&Assignment::new("T1").run("say pid $$; gate; test -e marker"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    fs::write(launch.workspaces().join("T1/marker"), "").unwrap();

    // Another worker, another id, the same root: the first one's task is none of its leftovers.
    let second = launch.clone().worker_id("w2").start();
    let mut session = scene.server.accept();
    session.send(Assignment::new("T2"));
    session.expect("task_claimed");
    session.expect("task_completed");
    assert!(agent.is_alive(), "the second worker killed the first one's task");
    drop(second);
    scene.agent.open_gate();
    assert_eq!(scene.end_of("T1")["type"], "task_completed");
}

/// A second worker with the id and the root of the first, whose tasks it can be assigned too.
fn second_of(scene: &Scene, launch: &Launch) -> (Worker, Connection) {
    let second = launch.start();
    (second, scene.server.accept())
}

#[test]
fn a_second_worker_with_the_same_id_touches_nothing_of_the_first_and_shares_no_directory() {
    let mut scene = Scene::new();
    let launch = scene.worker.launch.clone();
    scene.claim(&Assignment::new("T1").run("say pid $$; gate; test -e marker"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    fs::write(launch.workspaces().join("T1/marker"), "").unwrap();
    // Also as a container sees it: with numbers of processes, and a host name, of its own.
    let containers: &[&[&str]] = if rustix::process::getuid().is_root() {
        &[
            &[],
            &["unshare", "--pid", "--fork", "--mount-proc"],
            &["unshare", "--uts", "sh", "-c", "hostname another; exec \"$@\"", "sh"],
        ]
    } else {
        skip_this("only root may make namespaces");
        &[&[]]
    };
    for container in containers {
        let (second, mut session) = second_of(&scene, &launch.clone().through(container.iter().copied()));
        session.send(Assignment::new("T1").execution("another"));
        session.expect("task_claimed");
        let refused = session.expect("task_failed");
        assert_eq!(refused["failure_reason"], "workspace_setup", "{container:?}");
        assert!(refused["message"].as_str().unwrap().contains("in use by another worker"), "{refused}");
        session.send(Assignment::new("T2"));
        session.expect("task_claimed");
        session.expect("task_completed");
        drop(second);
        assert!(agent.is_alive(), "{container:?}: the second worker killed the first one's task");
        assert_eq!(launch.left_in_workspaces(), ["T1"], "{container:?}");
    }
    // Nor under another id: the task was assigned again.
    let (second, mut session) = second_of(&scene, &launch.clone().worker_id("w2"));
    session.send(Assignment::new("T1").execution("another"));
    session.expect("task_claimed");
    assert_eq!(session.expect("task_failed")["failure_reason"], "workspace_setup");
    drop(second);
    scene.agent.open_gate();
    assert_eq!(scene.end_of("T1")["type"], "task_completed");
    assert_eq!(launch.left_in_workspaces(), [""; 0]);
}

#[test]
fn what_a_dead_worker_left_is_removed_under_another_host_name() {
    if !rustix::process::getuid().is_root() {
        return skip_this("only root may change a host name");
    }
    let mut scene = Scene::new();
    let launch = scene.worker.launch.clone();
    scene.claim(&Assignment::new("T1").run("echo x > file; say started; sleep 600"));
    scene.agent.wait_for("T1", "started");
    restart(
        &mut scene,
        &launch.clone().through(["unshare", "--uts", "sh", "-c", "hostname another; exec \"$@\"", "sh"]),
    );
    scene.still_works("T2");
    assert_eq!(launch.left_in_workspaces(), [""; 0]);
}

#[test]
fn whatever_kills_the_worker_leaves_no_task_behind() {
    for signal in [Signal::KILL, Signal::ABORT, Signal::ILL] {
        let mut scene = Scene::new();
        let script = "(env -i setsid sh -c 'trap \"\" TERM HUP; echo \"$0 daemon $$\" > \"$1\"; while :; do sleep 600; done' \
            \"$TASK_ID\" \"$dir/events\" >/dev/null 2>&1 &); say pid $$; while :; do sleep 600; done";
        scene.claim(&Assignment::new("T1").run(script));
        let left = ["pid", "daemon"].map(|word| Watch::new(scene.agent.hear_pid("T1", word)));
        scene.worker.signal(signal);
        scene.worker.exit();
        for process in &left {
            assert!(process.ends_within(BOUND), "{signal:?}: process {} goes on without its worker", process.pid);
        }
    }
}

#[test]
fn target_dir_survives_a_crash_and_its_private_directory_does_not() {
    let holder = tempfile::tempdir().unwrap();
    let target = holder.path().to_str().unwrap().to_owned();
    let mut scene = Scene::with(|launch| launch.flags(["--target-dir", &target]));
    let launch = scene.worker.launch.clone();
    fs::write(holder.path().join("file"), "stays").unwrap();
    scene.claim(&Assignment::new("T1").run("record; say pid $$; sleep 600"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    let private =
        PathBuf::from(&scene.agent.record("T1").environment["GIT_CONFIG_GLOBAL"]).parent().unwrap().to_owned();
    assert!(private.exists() && !private.starts_with(holder.path()), "{}", private.display());
    restart(&mut scene, &launch);
    assert!(agent.ends_within(BOUND));
    scene.still_works("T2");
    assert!(!private.exists(), "{} is left", private.display());
    assert_eq!(fs::read_to_string(holder.path().join("file")).unwrap(), "stays");
}

#[test]
fn killed_worker_with_no_cleanup_keeps_the_workspace_but_no_process() {
    let mut scene = Scene::with(|launch| launch.flag("--no-cleanup"));
    let launch = scene.worker.launch.clone();
    scene.claim(&Assignment::new("T1").run("echo kept > file; say pid $$; sleep 600"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    restart(&mut scene, &launch);
    assert!(agent.ends_within(BOUND));
    scene.still_works("T2");
    assert_eq!(fs::read_to_string(launch.workspaces().join("T1/file")).unwrap(), "kept\n");
}

#[test]
fn a_killed_worker_leaves_no_process_once_the_next_one_runs() {
    let mut scene = Scene::new();
    let launch = scene.worker.launch.clone();
    scene
        .claim(&Assignment::new("T1").env("MARK", "left-by-a-killed-worker").run("sleep 601 & say started; sleep 602"));
    scene.agent.wait_for("T1", "started");
    let of_the_task: Vec<Watch> =
        process::with_environment("MARK=left-by-a-killed-worker").into_iter().map(Watch::new).collect();
    assert!(of_the_task.len() >= 2);
    restart(&mut scene, &launch);
    for process in &of_the_task {
        assert!(process.ends_within(BOUND));
    }
}
