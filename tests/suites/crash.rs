//! kill -9 of the worker, and what the next one makes of it.

use std::fs;

use oz_worker_tests::{
    BOUND,
    message::Assignment,
    process::{self, Watch},
    worker::{Launch, Worker, names_in},
};

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
fn two_workers_on_one_root_leave_each_other_alone() {
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

#[test]
fn target_dir_survives_a_crash_and_its_private_directory_does_not() {
    let holder = tempfile::tempdir().unwrap();
    let target = holder.path().to_str().unwrap().to_owned();
    let mut scene = Scene::with(|launch| launch.flags(["--target-dir", &target]));
    let launch = scene.worker.launch.clone();
    fs::write(holder.path().join("file"), "stays").unwrap();
    scene.claim(&Assignment::new("T1").run("record; say pid $$; sleep 600"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    restart(&mut scene, &launch);
    assert!(agent.ends_within(BOUND));
    scene.still_works("T2");
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
