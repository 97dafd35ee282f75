//! No descendant survives its task, however it tries.

use std::{fs, thread, time::Duration};

use oz_worker_tests::{
    BOUND,
    message::Assignment,
    peers::skip_this,
    process::{self, Watch},
    worker::names_in,
};

use crate::scene::Scene;

/// A background child that says its process id. `started` by its parent means: it has said so.
const CHILD: &str = "sh -c 'echo \"$0 child $$\" > \"$1\"; exec sleep 600' \"$TASK_ID\" \"$dir/events\"";

/// Starts a descendant by `start` (in which CHILD stands for it) and gives its watch. The task's agent waits at the gate.
fn with_descendant(scene: &mut Scene, task_id: &str, start: &str) -> Watch {
    let script = format!("{}\nsay started; gate", start.replace("CHILD", CHILD));
    scene.claim(&Assignment::new(task_id).run(&script));
    let child = Watch::new(scene.agent.hear_pid(task_id, "child"));
    scene.agent.wait_for(task_id, "started");
    assert!(child.is_alive());
    child
}

/// Ways to become hard to find.
const WAYS: [(&str, &str); 5] = [
    ("background", "CHILD &"),
    ("no-hup", "trap '' HUP TERM; CHILD &"),
    ("own-session", "setsid CHILD &"),
    ("double-fork", "(setsid CHILD </dev/null >/dev/null 2>&1 &)"),
    ("closed-output", "(setsid CHILD <&- >&- 2>&- &)"),
];

#[test]
fn descendants_are_gone_when_the_end_is_reported() {
    let mut scene = Scene::with(|launch| launch.flags(["--cancel-grace-period", "1s"]));
    for (way, start) in WAYS {
        let child = with_descendant(&mut scene, way, start);
        scene.agent.open_gate();
        assert_eq!(scene.end_of(way)["type"], "task_completed", "{way}");
        assert!(!child.is_alive(), "{way} survived its task");
    }
    scene.still_works("after");
}

#[test]
fn descendants_are_gone_after_a_cancellation() {
    let mut scene = Scene::with(|launch| launch.flags(["--cancel-grace-period", "1s"]));
    for (way, start) in WAYS {
        let child = with_descendant(&mut scene, way, start);
        scene.cancel(way);
        assert!(!child.is_alive(), "{way} survived its task");
    }
}

#[test]
fn daemon_of_the_setup_command_lives_as_long_as_the_task() {
    let agent = oz_worker_tests::agent::Agent::new();
    let pid_file = agent.path("setup-pid");
    let setup = format!(
        "(setsid sh -c 'echo $$ > \"{0}.new\"; mv \"{0}.new\" \"{0}\"; exec sleep 600' >/dev/null 2>&1 &)",
        pid_file.display()
    );
    let wait = format!("while ! test -e '{}'; do :; done", pid_file.display());
    let mut scene = Scene::with(|launch| launch.config("setup_command", format!("{setup}; {wait}")));
    scene.claim(&Assignment::new("T1").run("say started; gate"));
    scene.agent.wait_for("T1", "started");
    let daemon = Watch::new(fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap());
    assert!(daemon.is_alive());
    scene.agent.open_gate();
    scene.end_of("T1");
    assert!(!daemon.is_alive());
}

#[test]
fn daemon_that_cleared_its_environment_is_found() {
    let mut scene = Scene::new();
    let child = with_descendant(&mut scene, "T1", "(env -i setsid CHILD </dev/null >/dev/null 2>&1 &)");
    scene.agent.open_gate();
    scene.end_of("T1");
    assert!(!child.is_alive(), "a daemon without environment survived its task");
}

#[test]
fn daemon_that_left_its_cgroup_is_found() {
    let mut scene = Scene::new();
    let cgroup = process::cgroup_of(scene.worker.pid());
    let Some(cgroup) = cgroup.filter(|cgroup| names_in(cgroup).iter().any(|name| name.starts_with("oz-agent-worker.")))
    else {
        skip_this("the worker can make no cgroup here");
        return;
    };
    let leave = format!("echo 0 > '{}/cgroup.procs'", cgroup.display());
    let child =
        with_descendant(&mut scene, "T1", &format!("({leave} && env -i setsid CHILD </dev/null >/dev/null 2>&1 &)"));
    scene.agent.open_gate();
    scene.end_of("T1");
    assert!(!child.is_alive(), "a daemon that left its cgroup survived its task");
}

#[test]
fn other_tasks_and_strangers_are_left_alone() {
    let mut scene = Scene::new();
    let other = with_descendant(&mut scene, "other", "(setsid CHILD </dev/null >/dev/null 2>&1 &)");
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let child = with_descendant(&mut scene, "T1", "(setsid CHILD </dev/null >/dev/null 2>&1 &)");
    scene.cancel("T1");
    assert!(!child.is_alive());
    assert!(other.is_alive(), "another task's process was killed");
    assert!(matches!(stranger.try_wait(), Ok(None)), "a stranger was killed");
    scene.cancel("other");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn fork_storm_is_ended() {
    let mut scene = Scene::with(|launch| launch.flags(["--cancel-grace-period", "1s"]));
    // Generation follows generation, each in a session of its own and deaf to SIGTERM: no single look at the process
    // table sees the end of it. It ends by itself after some 10 s, should the worker not end it.
    let script = r#"export N=500 BREED='trap "" TERM; sleep 0.02; N=$((N-1)); [ $N -gt 0 ] && (setsid sh -c "eval \"\$BREED\"" >/dev/null 2>&1 &)'
        for i in 1 2 3; do (setsid sh -c 'eval "$BREED"' >/dev/null 2>&1 &); done
        say started; gate"#;
    scene.claim(&Assignment::new("T1").run(script));
    scene.agent.wait_for("T1", "started");
    scene.cancel("T1");
    assert_eq!(process::with_environment("BREED=trap"), [0; 0]);
}

#[test]
fn zombies_do_not_pile_up() {
    let mut scene = Scene::new();
    // Orphans end up with the worker, which is their subreaper: it must wait for them.
    scene.claim(&Assignment::new("T1").run("for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 0' &); done; say started; gate"));
    scene.agent.wait_for("T1", "started");
    scene.agent.open_gate();
    scene.end_of("T1");
    scene.still_works("T2");
    let left = thread::spawn({
        let pid = scene.worker.pid();
        move || {
            let watches: Vec<_> = process::descendants(pid).into_iter().map(Watch::new).collect();
            watches.iter().filter(|watch| !watch.ends_within(BOUND)).count()
        }
    });
    assert_eq!(left.join().unwrap(), 0);
    let zombies = || {
        let is_zombie =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        process::descendants(scene.worker.pid()).into_iter().filter(is_zombie).count()
    };
    // Reaping is asynchronous; a later task's end is the event that shows it is done.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while zombies() > 0 {
        assert!(std::time::Instant::now() < deadline, "{} zombies", zombies());
    }
}
