//! An engine that is restarted, replaced, far away, or behind something that cuts connections.

use std::time::Duration;

use oz_worker_tests::{
    between::Between,
    peers::docker::{Engine, Release},
    server::Server,
    worker::Launch,
};
use rustix::process::Signal;
use serde_json::json;

use super::faults::{WAITS, let_go};
use super::scene::{self, ENGINE_BOUND, Scene, put, task};

/// How long whatever stands between lets a connection be silent: less than the task takes.
const IDLE: Duration = Duration::from_millis(700);
/// The most calls that a task takes that has everything it needs.
const MOST_CALLS: usize = 8;

pub fn restarted(engine: &Engine) {
    let mut scene = Scene::new(engine);
    engine.keep_containers(true);
    for (task_id, signal) in [("T1", Signal::TERM), ("T2", Signal::KILL)] {
        scene.claim(&task(task_id, &format!("{WAITS}; exit 5")));
        let id = scene.running(task_id);
        engine.restart(signal);
        let_go(engine, &id);
        let (_, data) = scene.end();
        assert_eq!((&data["task_id"], &data["exit_code"]), (&json!(task_id), &json!(5)), "{data}");
        scene.gone(task_id);
    }
    engine.keep_containers(false);
    // The engine ends it, and says how it ended.
    scene.claim(&task("T3", "trap 'exit 9' TERM; echo > /tmp/ready; sleep 600 & wait"));
    let id = scene.running("T3");
    scene::wait_for("its trap", || {
        engine.command().args(["exec", &id, "/bin/test", "-e", "/tmp/ready"]).status().unwrap().success().then_some(())
    });
    engine.restart(Signal::TERM);
    let (_, data) = scene.end();
    assert_eq!((&data["failure_reason"], &data["exit_code"]), (&json!("container_exit"), &json!(9)), "{data}");
    scene.gone("T3");
    // One that did not see the end of it has a code for that.
    scene.claim(&task("T4", "sleep 600"));
    scene.running("T4");
    engine.restart(Signal::KILL);
    let (_, data) = scene.end();
    assert_eq!((&data["task_id"], &data["failure_reason"]), (&json!("T4"), &json!("container_exit")), "{data}");
    scene.gone("T4");
    scene.succeeds(&task("T5", ""));
    scene.leave();
}

pub fn cut_when_idle(engine: &Engine) {
    let between = Between::to(&engine.host(), Some(IDLE));
    let mut scene = Scene::with(engine, |launch| launch.env("DOCKER_HOST", &between.host()));
    scene.claim(&task("T1", "sleep 3; exit 7"));
    let (_, data) = scene.end();
    assert_eq!((&data["failure_reason"], &data["exit_code"]), (&json!("container_exit"), &json!(7)), "{data}");
    scene.gone("T1");
    scene.leave();
}

pub fn few_calls(engine: &Engine) {
    let between = Between::to(&engine.host(), None);
    let mut scene = Scene::with(engine, |launch| launch.env("DOCKER_HOST", &between.host()));
    scene.succeeds(&task("T1", ""));
    scene.gone("T1");
    let before = between.calls();
    scene.succeeds(&task("T2", ""));
    scene.gone("T2");
    let calls = between.calls() - before;
    println!("{calls} calls for a task, at most {MOST_CALLS}");
    assert!(calls <= MOST_CALLS, "{calls} calls");
    scene.leave();
}

pub fn over_tls(engine: &Engine) {
    let certificates = tempfile::tempdir().unwrap();
    engine.write_certificates(certificates.path());
    let told = |launch: Launch, name: &str, certificates: &std::path::Path| {
        let launch = launch.env("DOCKER_HOST", &engine.tls_host(name)).env("DOCKER_TLS_VERIFY", "1");
        launch.env("DOCKER_CERT_PATH", certificates)
    };
    let mut scene = Scene::with(engine, |launch| told(launch, "localhost", certificates.path()));
    scene.succeeds(&task("T1", "test -e /agent/entrypoint.sh"));
    scene.gone("T1");
    scene.leave();

    let stranger = tempfile::tempdir().unwrap();
    std::fs::copy(certificates.path().join("ca.pem"), stranger.path().join("ca.pem")).unwrap();
    let untrusting = tempfile::tempdir().unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(certificates.path().join(name), untrusting.path().join(name)).unwrap();
    }
    for (name, folder, says) in [
        ("127.0.0.1", &certificates, "its certificate is for another name"),
        ("localhost", &stranger, "put cert.pem and key.pem beside ca.pem"),
        ("localhost", &untrusting, "certificate"),
    ] {
        let launch = Launch::dialling("ws://127.0.0.1:1").backend("docker", &json!({}));
        let ended = told(launch, name, folder.path()).run();
        let last = ended.stderr.lines().next_back().unwrap_or_default();
        println!("{name}: {last}");
        assert_eq!(ended.code, Some(1), "{name}: {last}");
        assert!(last.contains("backend docker: ") && last.contains(says), "{name}: {last}");
    }
}

/// Two engines of different versions that listen at one place one after the other, under one worker.
pub fn replaced() {
    let Some(mut engine) = Engine::start_of(Release::Debian) else { return };
    let server = Server::start();
    let launch = Launch::dialling(&server.url()).backend("docker", &json!({"pull_policy": "if-not-present"}));
    scene::make_images(&engine);
    let mut worker = launch.env("DOCKER_HOST", &engine.host()).start();
    let mut session = server.accept();
    for (task_id, next) in [("T1", Some(Release::Current)), ("T2", Some(Release::Debian)), ("T3", None)] {
        session.send(task(task_id, "test -e /agent/entrypoint.sh; exit 3"));
        assert_eq!(session.expect("task_claimed")["task_id"], task_id);
        let end = session.recv_within(ENGINE_BOUND).expect("a task ends");
        assert_eq!((&end["data"]["task_id"], &end["data"]["exit_code"]), (&json!(task_id), &json!(3)), "{end}");
        session.answer();
        scene::gone(&engine, task_id);
        if let Some(next) = next {
            engine = engine.replace(next).expect("it was there before");
            scene::make_images(&engine);
        }
    }
    worker.signal(Signal::TERM);
    session.expect_end_within(ENGINE_BOUND);
    assert!(worker.exit_within(ENGINE_BOUND).success());
}

/// How long an engine stands still that a person would have restarted.
const MINUTE: Duration = Duration::from_secs(60);

pub fn hung_for_a_minute(engine: &Engine) {
    let mut scene = Scene::with(engine, |launch| {
        let path = format!("{}:{}", launch.dir().join("helpers").display(), std::env::var("PATH").unwrap());
        launch.env("PATH", &path).config("pull_policy", "always").with_metrics()
    });
    // A helper that says nothing is given up meanwhile.
    put(&scene.launch.home().join(".docker"), "config.json", &json!({"credsStore": "hangs"}).to_string(), 0o600);
    scene.claim(&task("T1", "sleep 20; exit 7"));
    scene.running("T1");
    put(&scene.launch.dir().join("helpers"), "docker-credential-hangs", "#!/bin/sh\nexec sleep 600\n", 0o755);
    engine.hung(|| {
        scene.claim(&task("T2", "").with("docker_image", "127.0.0.1:1/none:1".into()));
        assert_eq!(scene.session.recv_within(MINUTE), None, "nothing is told while nothing is known");
        scene.worker.wait_for_metric("oz_worker_tasks_active", &[], 2.0);
    });
    let mut reasons = [scene.end(), scene.end()].map(|(_, data)| data["failure_reason"].as_str().unwrap().to_owned());
    reasons.sort_unstable();
    assert_eq!(reasons, ["container_exit", "image_pull"]);
    // One pull asks once, however often it is tried.
    assert_eq!(scene.worker.lines_with("it took longer than 30 s").len(), 1);
    assert_eq!(scene.worker.lines_with("exited with code 7").len(), 1);
    scene.leave();
}
