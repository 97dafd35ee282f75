//! Tasks as they run every day: their ends, their stops, their limits.

use std::process::Command;

use oz_worker_tests::{binary::worker_binary, peers::docker::Engine};
use rustix::process::Signal;
use serde_json::json;

use super::scene::{Scene, TASK, task};

pub fn plain(engine: &Engine) {
    let mut scene = Scene::new(engine);
    let script =
        "test \"$PWD\" = /workspace && test \"$TASK_ID\" = T1 && test \"$VALUE\" = 'a b' && test -z \"$DOCKER_HOST\"";
    scene.succeeds(&task("T1", script).env("VALUE", "a b"));
    scene.gone("T1");
    scene.leave();
}

pub fn fails(engine: &Engine) {
    let mut scene = Scene::with(engine, |launch| launch.flags(["-e", "OPERATORS=operators-canary"]));
    let script = "echo to-the-log $SECRET; echo \"$OPERATORS\" >&2; exit 3";
    let (code, message) = scene.fails(&task("T1", script).env("SECRET", "secret-canary"), "container_exit");
    assert_eq!((code, message.as_str()), (Some(3), "the container exited with code 3"));
    scene.worker.wait_for_line("to-the-log ***");
    assert_eq!(scene.worker.lines_with("canary"), [""; 0]);
    // What succeeds is not worth its output.
    scene.succeeds(&task("T2", "echo not-to-the-log"));
    scene.gone("T2");
    assert_eq!(scene.worker.lines_with("not-to-the-log"), [""; 0]);
    let (_, message) = scene.fails(&task("T3", "").without("sidecar_image"), "container_start");
    assert!(message.starts_with("cannot start the container: "), "{message}");
    scene.leave();
}

pub fn cancelled(engine: &Engine) {
    let mut scene = Scene::new(engine);
    for (task_id, script) in
        [("T1", "trap 'exit 0' TERM; sleep 600 & wait"), ("T2", "trap '' TERM; sleep 600 & wait; wait")]
    {
        scene.claim(&task(task_id, script));
        scene.running(task_id);
        scene.cancel(task_id);
        scene.gone(task_id);
    }
    scene.leave();
}

pub fn leaves(engine: &Engine) {
    let mut scene = Scene::new(engine);
    scene.claim(&task("T1", "trap 'exit 0' TERM; sleep 600 & wait"));
    scene.running("T1");
    scene.worker.signal(Signal::TERM);
    let (_, data) = scene.end();
    assert_eq!(data["failure_reason"], "graceful_shutdown");
    scene.session.expect_end_within(super::scene::ENGINE_BOUND);
    assert!(scene.worker.exit_within(super::scene::ENGINE_BOUND).success());
    scene.gone("T1");
}

pub fn shape(engine: &Engine) {
    let mut scene = Scene::new(engine);
    let with_shape =
        |task_id: &str, script: &str| task(task_id, script).with("instance_shape", json!({"vcpus": 1, "memory_gb": 1}));
    scene.claim(&with_shape("T1", "sleep 600"));
    let id = scene.running("T1");
    let limits = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}";
    assert_eq!(engine.docker(["inspect", "--format", limits, &id]), "1000000000 1073741824 1073741824");
    // 137 alone has other reasons.
    engine.docker(["kill", &id]);
    let (_, data) = scene.end();
    assert_eq!((&data["failure_reason"], &data["exit_code"]), (&json!("container_exit"), &json!(137)));
    let script = "exec dd if=/dev/zero of=/dev/null bs=1500M count=1";
    let (code, _) = scene.fails(&with_shape("T2", script), "container_oom");
    assert_eq!(code, Some(137));
    // A container that somebody removes has its end all the same.
    scene.claim(&task("T3", "sleep 600"));
    engine.docker(["rm", "--force", &scene.running("T3")]);
    let (_, data) = scene.end();
    assert_eq!((&data["failure_reason"], &data["exit_code"]), (&json!("container_exit"), &json!(137)));
    scene.leave();
}

pub fn options(engine: &Engine) {
    let folder = tempfile::tempdir().unwrap();
    let volume = format!("{}:/mnt/out", folder.path().display());
    let mut scene = Scene::with(engine, |launch| {
        launch
            .config("container_options", json!({"Init": true, "ShmSize": 1_048_576, "Memory": 5, "AutoRemove": true}))
            .config("extra_labels", json!({"team": "x"}))
            .flags(["-v", &volume])
    });
    scene.worker.wait_for_line("Memory of container_options has no effect");
    scene.claim(&task("T1", "echo here > /mnt/out/file; sleep 600"));
    let id = scene.running("T1");
    let seen = "{{.HostConfig.Init}} {{.HostConfig.ShmSize}} {{.HostConfig.Memory}} {{.HostConfig.AutoRemove}} {{.Config.Labels.team}}";
    assert_eq!(engine.docker(["inspect", "--format", seen, &id]), "true 1048576 0 false x");
    super::scene::wait_for("the file", || folder.path().join("file").exists().then_some(()));
    scene.leave();
}

pub fn kept(engine: &Engine) {
    let mut scene = Scene::with(engine, |launch| launch.flag("--no-cleanup"));
    scene.fails(&task("T1", "exit 3"), "container_exit");
    scene.claim(&task("T2", "sleep 600"));
    let id = scene.running("T2");
    scene.cancel("T2");
    super::scene::wait_for("the stop", || {
        (engine.docker(["inspect", "--format", "{{.State.Running}}", &id]) == "false").then_some(())
    });
    scene.stop();
    // What such a worker told and could not stop any more, since it was killed.
    let label = format!("oz-agent-worker.worker-id={}", scene.launch.id());
    let told = ["--name", "oz-agent-worker.told.0123456789ab", "--label", &label, "--network", "none"];
    let told = engine.docker(["run", "--detach"].into_iter().chain(told).chain([TASK, "/bin/sleep", "600"]));
    // The next worker of this id does not tell their ends again: the first that it says is of another task.
    scene.start_again();
    scene.fails(&task("T3", "exit 1"), "container_exit");
    assert_eq!(engine.docker(["wait", &told]), "137");
    engine.docker(["rm", &told]);
    scene.leave();
    let label = "label=oz-agent-worker.task-id";
    let all = engine.docker(["ps", "--all", "--quiet", "--filter", label]);
    assert_eq!(all.lines().count(), 3);
    engine.docker(["rm", "--force"].into_iter().chain(all.lines()));
}

pub fn anonymous_volumes(engine: &Engine) {
    let root = super::scene::shell_root();
    engine.import("oz-test/volumes:1", root.path(), &["ENV PATH=/bin", "VOLUME /data", "VOLUME /more"]);
    let volumes = || engine.docker(["volume", "ls", "--quiet"]);
    let mut scene = Scene::new(engine);
    scene.succeeds(&task("T0", ""));
    scene.gone("T0");
    let before = volumes();
    let with_volumes =
        |task_id: &str, script: &str| task(task_id, script).with("docker_image", "oz-test/volumes:1".into());
    scene.succeeds(&with_volumes("T1", "test -d /data"));
    scene.gone("T1");
    scene.fails(&with_volumes("T2", "exit 1"), "container_exit");
    scene.gone("T2");
    scene.fails(&with_volumes("T3", "").without("sidecar_image"), "container_start");
    scene.gone("T3");
    scene.claim(&with_volumes("T4", "sleep 600"));
    scene.running("T4");
    scene.cancel("T4");
    scene.gone("T4");
    assert_eq!(volumes(), before);
    scene.claim(&with_volumes("T5", "sleep 600"));
    scene.running("T5");
    scene.leave();
    assert_eq!(volumes(), before);
}

pub fn no_log(engine: &Engine) {
    let mut scene =
        Scene::with(engine, |launch| launch.config("container_options", json!({"LogConfig": {"Type": "none"}})));
    let (code, _) = scene.fails(&task("T1", "echo lost; exit 4"), "container_exit");
    assert_eq!(code, Some(4));
    scene.worker.wait_for_line("cannot show what the container wrote");
    scene.leave();
}

pub fn playground(engine: &Engine) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_playground"));
    let output = command
        .args(["--once", "--backend", "docker"])
        .env("OZ_WORKER_BIN", worker_binary().unwrap())
        .env("DOCKER_HOST", engine.host())
        .output()
        .unwrap();
    let story = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{story}\n{}", String::from_utf8_lossy(&output.stderr));
    for told in [
        "docker backend, 2 tasks at once in containers",
        "greeting: Task completed successfully",
        "broken-build failed (container_exit, exit code 3)",
        "rejects one-too-many: worker at maximum concurrency",
        "refactoring: Task cancelled by user request.",
        "migration: Task completed successfully",
        "oz_worker_tasks_claimed_total 4",
    ] {
        assert!(story.contains(told), "the story lacks {told:?}:\n{story}");
    }
    assert_eq!(engine.docker(["images", "--quiet", "--filter", "reference=oz-playground-*/*"]), "");
}

/// More than any buffer between a task and the log, in MiB.
const MUCH: u32 = 200;
/// What the worker may take for it, in KiB: the end that it keeps, as it comes and as it goes to the log.
const MOST_MEMORY: u64 = 16 << 10;

pub fn much_output(engine: &Engine) {
    let mut scene = Scene::new(engine);
    scene.fails(&task("T1", "echo a line; exit 3"), "container_exit");
    let before = scene.worker.peak_memory();
    let script =
        format!("dd if=/dev/zero bs=1M count={MUCH} | /bin/busybox tr '\\0' x; echo; echo the-last-line; exit 4");
    let (code, _) = scene.fails(&task("T2", &script), "container_exit");
    assert_eq!(code, Some(4));
    scene.worker.wait_for_line("the-last-line");
    // The kernel counts about: a peak may be read lower than before.
    let taken = scene.worker.peak_memory().saturating_sub(before);
    println!("{MUCH} MiB of output took {taken} KiB of the worker's memory, at most {MOST_MEMORY}");
    assert!(taken <= MOST_MEMORY);
    scene.leave();
}
