//! What goes wrong around a task: the worker is killed, the engine hangs, somebody cleans up.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use oz_worker_tests::{peers::docker::Engine, server::Server, worker::Launch};
use serde_json::json;

use super::scene::{ENGINE_BOUND, Scene, TASK, put, task};

/// How long an engine stands still: longer than a call takes, and shorter than a person waits.
const STANDSTILL: Duration = Duration::from_secs(5);

/// How long somebody who prunes in a loop waits between two: less than anybody does.
const PRUNED_EVERY: Duration = Duration::from_secs(1);

/// Until somebody lets it go on.
pub const WAITS: &str = "while ! test -e /tmp/go; do sleep 0.1; done";

pub fn let_go(engine: &Engine, container: &str) {
    engine.docker(["exec", container, "/bin/sh", "-c", "echo > /tmp/go"]);
}

pub fn adoption(engine: &Engine) {
    let mut scene = Scene::new(engine);
    // Half of our labels, on somebody else's container.
    let label = format!("oz-agent-worker.worker-id={}", scene.launch.id());
    let foreign = ["run", "--detach", "--network", "none", "--label", &label, TASK, "/bin/sleep", "600"];
    let foreign = engine.docker(foreign);
    scene.claim(&task("T1", &format!("{WAITS}; exit 5")));
    scene.claim(&task("T2", "sleep 600"));
    let first = scene.running("T1");
    scene.running("T2");
    scene.worker.kill();
    scene.start_again();
    // They hold slots, can be cancelled, and their end is told.
    for _ in 0..2 {
        scene.session.expect("task_claimed");
    }
    scene.cancel("T2");
    let_go(engine, &first);
    let (_, data) = scene.end();
    assert_eq!((&data["task_id"], &data["exit_code"]), (&json!("T1"), &json!(5)), "{data}");
    scene.gone("T1");
    scene.gone("T2");
    // A live worker's containers are its own, whoever else has its id.
    scene.claim(&task("T3", "sleep 600"));
    scene.running("T3");
    let other = scene.launch.start();
    let mut second = scene.server.accept();
    second.send(task("T4", ""));
    assert_eq!(second.expect("task_claimed")["task_id"], "T4");
    assert_eq!(second.recv_within(ENGINE_BOUND).unwrap()["data"]["task_id"], "T4");
    second.answer();
    scene.gone("T4");
    drop(other);
    scene.cancel("T3");
    assert_eq!(engine.docker(["inspect", "--format", "{{.State.Running}}", &foreign]), "true");
    engine.docker(["rm", "--force", &foreign]);
    scene.leave();
}

pub fn ended_meanwhile(engine: &Engine) {
    let mut scene = Scene::new(engine);
    scene.claim(&task("T1", &format!("{WAITS}; exit 6")));
    let id = scene.running("T1");
    scene.worker.kill();
    let_go(engine, &id);
    engine.docker(["wait", &id]);
    scene.start_again();
    scene.session.expect("task_claimed");
    let (_, data) = scene.end();
    assert_eq!((&data["failure_reason"], &data["exit_code"]), (&json!("container_exit"), &json!(6)), "{data}");
    scene.gone("T1");
    scene.leave();
}

pub fn unheard(engine: &Engine) {
    let mut scene = Scene::new(engine);
    scene.claim(&task("T1", &format!("{WAITS}; exit 5")));
    let id = scene.running("T1");
    let address = scene.hide_server();
    let_go(engine, &id);
    scene.worker.wait_for_line("the container exited with code 5");
    scene.worker.kill();
    scene.server = Server::listen(&address.to_string()).unwrap();
    scene.start_again();
    scene.session.expect("task_claimed");
    let (_, data) = scene.end();
    assert_eq!((&data["failure_reason"], &data["exit_code"]), (&json!("container_exit"), &json!(5)), "{data}");
    scene.gone("T1");
    // What was heard is not told again: the first that the next worker says is of another task.
    scene.worker.kill();
    scene.start_again();
    scene.fails(&task("T2", "exit 6"), "container_exit");
    scene.leave();
}

pub fn hung(engine: &Engine) {
    let mut scene = Scene::new(engine);
    scene.claim(&task("T1", "sleep 8; exit 7"));
    scene.running("T1");
    engine.hung(|| {
        scene.claim(&task("T2", "exit 8"));
        assert_eq!(scene.session.recv_within(STANDSTILL), None, "nothing is told while nothing is known");
    });
    let mut codes = [scene.end(), scene.end()].map(|(_, data)| data["exit_code"].as_i64());
    codes.sort_unstable();
    assert_eq!(codes, [Some(7), Some(8)]);
    scene.leave();
}

pub fn pruned(engine: &Engine) {
    let mut scene = Scene::new(engine);
    let prune = || {
        // Images are left alone: there is no registry to fetch them from again.
        let prune = |what: &str| drop(engine.command().args([what, "prune", "--force"]).output());
        prune("container");
        prune("volume");
    };
    beside(prune, || {
        for number in 0..5 {
            scene.claim(&task(&format!("T{number}"), "test -e /agent/entrypoint.sh"));
        }
        let ends: Vec<_> = (0..5).map(|_| scene.end()).collect();
        assert!(ends.iter().all(|(kind, _)| kind == "task_completed"), "{ends:?}");
    });
    scene.leave();
}

/// Somebody prunes in a loop beside this.
pub fn beside(prune: impl Fn() + Sync, work: impl FnOnce()) {
    /// Stops it, come what may.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    // What there is when it begins must be made anew.
    prune();
    thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                prune();
                // No volume is filled, and no pull comes to its end, between prunes that follow at once.
                thread::park_timeout(PRUNED_EVERY);
            }
        });
        work();
    });
}

pub fn over_ssh(engine: &Engine) {
    let host = engine.host();
    let mut scene = Scene::with(engine, |launch| {
        let programs = launch.dir().join("programs");
        // What `ssh` starts at the other end, here.
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *'-T -l me -p 22 -- engine.example docker system dial-stdio') ;; *) exit 9 ;; esac\n\
             DOCKER_HOST={host} exec docker system dial-stdio\n"
        );
        put(&programs, "ssh", &script, 0o755);
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        launch.env("PATH", &path).env("DOCKER_HOST", "ssh://me@engine.example:22")
    });
    scene.succeeds(&task("T1", "test -e /agent/entrypoint.sh"));
    scene.gone("T1");
    scene.leave();
}

pub fn not_reached(engine: &Engine) {
    for (name, value, says) in [
        ("DOCKER_HOST", "unix:///nowhere/docker.sock", "cannot connect to /nowhere/docker.sock"),
        ("DOCKER_HOST", "nonsense", "write unix:///PATH, tcp://HOST:PORT"),
        ("DOCKER_CONTEXT", "missing", "there is no docker context \"missing\""),
        ("DOCKER_HOST", "tcp://127.0.0.1:1", "cannot connect to 127.0.0.1"),
    ] {
        let launch = Launch::dialling("ws://127.0.0.1:1").backend("docker", &json!({})).env(name, value);
        let ended = launch.run();
        let last = ended.stderr.lines().next_back().unwrap_or_default();
        assert_eq!(ended.code, Some(1), "{value}: {last}");
        assert!(last.contains("backend docker: ") && last.contains(says), "{value}: {last}");
    }
    let _ = engine;
}
