//! The programs of this crate: the playground tells its story, the local control plane does what it is asked.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use oz_worker_tests::{
    agent::Agent,
    binary::worker_binary,
    process::{self, Watch},
    worker::{Launch, http_get},
};
use rustix::process::Signal;

#[test]
fn playground_tells_its_story_and_leaves_nothing_behind() {
    let worker = worker_binary().unwrap();
    let holder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_playground"))
        .arg("--once")
        .env("OZ_WORKER_BIN", worker)
        .env("TMPDIR", holder.path())
        .output()
        .unwrap();
    let story = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{story}\n{}", String::from_utf8_lossy(&output.stderr));
    for told in [
        "claims greeting",
        "greeting: Task completed successfully",
        "broken-build failed (agent_invocation, exit code 3)",
        "rejects one-too-many: worker at maximum concurrency",
        "refactoring: Task cancelled by user request.",
        "is disconnected",
        "migration: Task completed successfully",
        "oz_worker_tasks_claimed_total 4",
        "/metrics",
    ] {
        assert!(story.contains(told), "the story lacks {told:?}:\n{story}");
    }
    assert!(!story.contains('\u{1b}'), "colours without a terminal");
    assert_eq!(oz_worker_tests::worker::names_in(holder.path()), [""; 0]);
}

#[test]
fn playground_without_a_worker_ends_with_one_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_playground"))
        .arg("--once")
        .env("OZ_WORKER_BIN", "/no/such/worker")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.contains("/no/such/worker"), "{complaint}");
}

#[test]
fn playground_without_an_engine_ends_with_one_line() {
    let holder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_playground"))
        .args(["--once", "--backend", "docker"])
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .env("TMPDIR", holder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.starts_with("playground: --backend docker needs "), "{complaint}");
    assert_eq!(oz_worker_tests::worker::names_in(holder.path()), [""; 0]);
}

#[test]
fn playground_stays_up_until_it_is_interrupted() {
    let holder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_playground"))
        .env("OZ_WORKER_BIN", worker_binary().unwrap())
        .env("TMPDIR", holder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watch = Watch::new(i32::try_from(child.id()).unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Ctrl-C")), "the story ended early");
    let started: Vec<Watch> = process::descendants(watch.pid).into_iter().map(Watch::new).collect();
    assert!(!started.is_empty());
    process::signal(watch.pid, Signal::INT);
    assert!(watch.ends_within(oz_worker_tests::BOUND));
    assert!(child.wait().unwrap().success());
    assert!(!started.iter().any(Watch::is_alive), "something that the playground started is left");
    assert_eq!(oz_worker_tests::worker::names_in(holder.path()), [""; 0]);
}

/// A running `oz-local-control-plane`.
struct Plane {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    url: String,
    control: String,
}

impl Plane {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_oz-local-control-plane"))
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut find = |text: &str| lines.by_ref().map_while(Result::ok).find(|line| line.contains(text)).unwrap();
        let url = find("ws://").split(' ').find(|word| word.starts_with("ws://")).unwrap().to_owned();
        let control = find("/assign").split("http://").nth(1).unwrap().trim_end_matches("/assign").to_owned();
        Self { child, lines, url, control }
    }

    /// Waits for a printed line; the test's own bound is that of the worker behind it.
    fn prints(&mut self, text: &str) -> String {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("no {text:?}"))
    }

    fn post(&self, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = body.len();
        write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn control_plane_assigns_cancels_and_tells() {
    let mut plane = Plane::start();
    let (status, body) = plane.post("/assign", r#"{"task_id": "T0"}"#);
    assert_eq!(status, 409);
    assert!(body.contains("no worker is connected") && body.contains(&plane.url), "{body}");
    assert_eq!(body.lines().count(), 1);

    let agent = Agent::new();
    let _worker = Launch::direct_to(&plane.url, &agent).worker_id("w1").start();
    plane.prints("worker w1 connected");
    let task =
        r#"{"task_id": "T1", "task": {"id": "T1"}, "env_vars": {"SCRIPT": "say started; gate", "TOKEN": "canary"}}"#;
    assert_eq!(plane.post("/assign", task), (200, "assigned T1\n".to_owned()));
    let line = plane.prints("-> task_assignment");
    assert!(line.contains(r#""task_id":"T1""#) && !line.contains("canary"), "{line}");
    plane.prints("<- task_claimed");
    agent.wait_for("T1", "started");
    assert_eq!(plane.post("/cancel/T1", "").0, 200);
    plane.prints("-> task_cancellation");
    plane.prints("CANCELLED");
    let (status, tasks) = http_get(&plane.control, "/tasks");
    assert_eq!(status, 200);
    let tasks: serde_json::Value = serde_json::from_str(&tasks).unwrap();
    assert_eq!(tasks[0]["state"], "cancelled");
    // The whole message is as good as its data.
    let message =
        r#"{"type": "task_assignment", "data": {"task_id": "a b", "task": {}, "env_vars": {"SCRIPT": "exit 3"}}}"#;
    assert_eq!(plane.post("/assign", message), (200, "assigned a b\n".to_owned()));
    plane.prints("task_failed");
}

#[test]
fn control_plane_tries_a_worker_and_exits_as_its_task_ends() {
    let agent = Agent::new();
    for (script, ends, code) in [("exit 0", "task_completed", 0), ("exit 3", "task_failed", 1)] {
        let mut plane = Plane::start_with(&["--try", "an-image"]);
        let variable = format!("SCRIPT={script}");
        let _worker = Launch::direct_to(&plane.url, &agent).flags(["-e", &variable]).start();
        plane.prints("<- task_claimed");
        plane.prints(ends);
        assert_eq!(plane.child.wait().unwrap().code(), Some(code), "{script}");
    }
}

#[test]
fn control_plane_explains_what_it_cannot_do() {
    let plane = Plane::start();
    for (path, body, status, word) in [
        ("/assign", "{", 400, "not JSON"),
        ("/assign", "{}", 400, "task_id"),
        ("/assign", r#"{"task_id": 7}"#, 400, "task_id"),
        ("/cancel/T1", "", 409, "no worker"),
        ("/drop", "", 409, "no worker"),
        ("/nowhere", "", 404, "/assign"),
    ] {
        let (got, text) = plane.post(path, body);
        assert_eq!(got, status, "{path} {body}: {text}");
        assert!(text.contains(word), "{path} {body}: {text}");
    }
    assert_eq!(http_get(&plane.control, "/").0, 200);
    let address = plane.url.strip_prefix("ws://").unwrap().split('/').next().unwrap();
    assert_eq!(http_get(address, "/").0, 400, "a browser on the workers' port");
}
