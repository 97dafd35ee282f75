//! The backend docker beside the bare API of the same engine: create, start, wait and remove the same container.

use std::{
    io,
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    between::Between,
    message::{Assignment, Cancellation},
    peers::{
        docker::Engine,
        images::{self, AGENT, TASK},
    },
};
use serde_json::{Value, json};

use crate::{
    Effort, http, proc,
    report::{self, Report, Row, Samples, mebibytes, micros, millis, per_second, times},
    scene::{Launch, Scene},
    wire::{is_claim, is_success, text_frame},
};

/// How many tasks run at the same time, once and at most.
const AT_ONCE: usize = 8;
const MANY: usize = 100;
/// How many images are pulled meanwhile, from a registry that says nothing.
const PULLS: usize = 50;
/// The most calls that a task may take that has everything it needs.
const MOST_CALLS: f64 = 8.0;
const KIBIBYTE: f64 = 1024.0;

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("docker: a container per task");
    let Some(engine) = Engine::start() else { return report::note("not measured: no Docker Engine") };
    images::make(&engine);
    let between = Between::to(&engine.host(), None);

    let mut scene = launch(&between.host()).start();
    // A worker gives back what its start took once it is over.
    scene.peer.idle(Duration::from_secs(20));
    let memory = proc::memory(scene.pid());
    Row::new("resident memory, idle", mebibytes(memory.rss))
        .at_most(memory.rss / f64::from(1 << 20), 6.5, " MiB")
        .print(report);
    run(&mut scene, "warms-up");
    let before = between.calls();
    run(&mut scene, "is-counted");
    // Its container is removed beside everything else.
    scene.peer.idle(Duration::from_secs(1));
    let calls = (between.calls() - before) as f64;
    Row::new("calls to the engine per task", calls.to_string()).at_most(calls, MOST_CALLS, "").print(report);
    scene.stop(|| ());

    let mut scene = launch(&engine.host()).start();
    let bare = Bare::like_a_task(&engine, &mut scene);
    alone(report, effort, &mut scene, &bare);
    at_once(report, effort, &mut scene, &bare);
    claims(report, effort, &mut scene);
    scene.stop(|| ());
    many(report, &engine);
}

fn launch(host: &str) -> Launch {
    let keys = json!({"pull_policy": "if-not-present", "allowed_images": ["oz-test/*", "127.0.0.1:*/*"]});
    Launch::with(&json!({"docker": keys}), 0).env("DOCKER_HOST", host)
}

fn frame(task: &Assignment) -> Vec<u8> {
    text_frame(&task.as_ref().to_string())
}

fn task(task_id: &str, script: &str) -> Assignment {
    Assignment::new(task_id).run(script).with("docker_image", TASK.into()).with("sidecar_image", AGENT.into())
}

/// Runs a task to its end.
fn run(scene: &mut Scene, task_id: &str) -> Duration {
    let frame = frame(&task(task_id, ""));
    let start = Instant::now();
    scene.peer.write(&frame);
    assert!(is_claim(scene.peer.text()), "no claim came");
    assert!(is_success(scene.peer.text()), "the task did not end well");
    start.elapsed()
}

fn alone(report: &mut Report, effort: Effort, scene: &mut Scene, bare: &Bare) {
    let (mut tasks, mut containers) = (Vec::new(), Vec::new());
    for number in 0..effort.pick(60, 15) {
        tasks.push(run(scene, &format!("alone-{number}")));
        // What the task left is removed, now that its end is known to be heard: the next has the engine for itself.
        scene.peer.idle(Duration::from_millis(300));
        containers.push(bare.run().unwrap());
    }
    let (tasks, containers) = (Samples::new(tasks), Samples::new(containers));
    let ratio = times(tasks.median(), containers.median());
    Row::new("one task, median", millis(tasks.median()))
        .beside("create, start, wait, remove", &millis(containers.median()), ratio)
        .at_most(ratio, 1.1, " ×")
        .print(report);
}

fn at_once(report: &mut Report, effort: Effort, scene: &mut Scene, bare: &Bare) {
    let count = effort.pick(80, 24);
    let start = Instant::now();
    let mut sent = 0;
    let mut assign_next = |scene: &mut Scene| {
        if sent < count {
            scene.peer.write(&frame(&task(&format!("at-once-{sent}"), "")));
            sent += 1;
        }
    };
    (0..AT_ONCE).for_each(|_| assign_next(scene));
    let mut ended = 0;
    while ended < count {
        let text = scene.peer.text();
        assert!(is_claim(text) || is_success(text), "{}", String::from_utf8_lossy(text));
        if is_success(text) {
            ended += 1;
            assign_next(scene);
        }
    }
    let tasks = count as f64 / start.elapsed().as_secs_f64();
    scene.peer.idle(Duration::from_secs(2));
    let (start, next) = (Instant::now(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    bare.run().unwrap();
                }
            });
        }
    });
    let containers = count as f64 / start.elapsed().as_secs_f64();
    Row::new(&format!("tasks, {AT_ONCE} at a time"), per_second(tasks))
        .beside("the same by the bare calls", &per_second(containers), tasks / containers)
        .at_least(tasks / containers, 0.9, " ×")
        .print(report);
}

/// Claims of tasks that fail at once, so that no container is in the way of the next.
fn claims(report: &mut Report, effort: Effort, scene: &mut Scene) {
    let samples = |name: &str, scene: &mut Scene| {
        let one = |number: usize| {
            let task = Assignment::new(&format!("{name}-{number}")).with("docker_image", "forbidden:1".into());
            let frame = frame(&task);
            let start = Instant::now();
            scene.peer.write(&frame);
            assert!(is_claim(scene.peer.text()), "no claim came");
            let took = start.elapsed();
            assert!(!is_success(scene.peer.text()), "it must not run");
            scene.peer.settle();
            took
        };
        Samples::new((0..effort.pick(1000, 200)).map(one).collect())
    };
    samples("warms-up", scene);
    let idle = samples("idle", scene);
    let registry = registry_that_says_nothing();
    for number in 0..PULLS {
        let image = format!("{registry}/image-{number}:1");
        scene.peer.write(&frame(&task(&format!("pull-{number}"), "").with("docker_image", image.into())));
        assert!(is_claim(scene.peer.text()), "no claim came");
    }
    scene.peer.idle(Duration::from_secs(1));
    let pulling = samples("pulling", scene);
    let ratio = times(pulling.percentile(99), idle.percentile(99));
    Row::new(&format!("claim while {PULLS} images are pulled, p99"), micros(pulling.percentile(99)))
        .beside("of this worker when it is idle", &micros(idle.percentile(99)), ratio)
        .at_most(ratio, 2.0, " ×")
        .print(report);
    report::note(&format!("p50 {} and {}", micros(pulling.median()), micros(idle.median())));
    for number in 0..PULLS {
        scene.peer.write(&text_frame(&Cancellation::of(&format!("pull-{number}")).as_ref().to_string()));
        scene.peer.text();
    }
}

/// The address of a registry that takes every connection and answers none.
fn registry_that_says_nothing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let taken: Vec<_> = listener.incoming().collect();
        drop(taken);
    });
    address
}

fn many(report: &mut Report, engine: &Engine) {
    let mut scene = launch(&engine.host()).start();
    let containers = || engine.docker(["ps", "--quiet", "--filter", &format!("ancestor={TASK}")]).lines().count();
    let sleeps = |task_id: &str| frame(&task(task_id, "exec sleep 100000"));
    // A worker gives back what its start took once it is over.
    scene.peer.idle(Duration::from_secs(20));
    let pid = scene.pid();
    let idle = proc::memory(pid);
    // The first brings in the code that all need.
    scene.peer.write(&sleeps("first"));
    assert!(is_claim(scene.peer.text()), "no claim came");
    let start = |scene: &mut Scene, count: usize| {
        while containers() < count {
            scene.peer.idle(Duration::from_millis(500));
        }
        // And what a burst took, every ten seconds.
        scene.peer.idle(Duration::from_secs(12));
        proc::memory(pid)
    };
    let (one, threads) = (start(&mut scene, 1), proc::threads(pid));
    for number in 0..MANY {
        scene.peer.write(&sleeps(&format!("many-{number}")));
        assert!(is_claim(scene.peer.text()), "no claim came");
    }
    let all = start(&mut scene, MANY + 1);
    let more = proc::threads(pid).saturating_sub(threads);
    let stopping = scene.stop(|| ());
    let per_task = (all.rss - one.rss) / MANY as f64 / KIBIBYTE;
    let anonymous = (all.anonymous - one.anonymous) / MANY as f64 / KIBIBYTE;
    Row::new(&format!("resident memory per task, {MANY} at once"), format!("{per_task:.1} KiB"))
        .at_most(per_task, 16.0, " KiB")
        .print(report);
    Row::new(&format!("threads more than before, {MANY} at once"), more.to_string())
        .at_most(more as f64, MANY as f64 / 10.0, "")
        .print(report);
    report::note(&format!("not backed by a file: {anonymous:.1} KiB; all stopped after {stopping:.1?}"));
    let [idle, one, rss, peak] = [idle.rss, one.rss, all.rss, all.peak].map(mebibytes);
    report::note(&format!("in all {rss}, after {one} with one task and {idle} with none; {peak} at the height"));
}

/// A client of an engine that does nothing but what must be done.
struct Bare {
    socket: PathBuf,
    description: String,
}

impl Bare {
    /// One whose containers are what the worker makes of a task that does nothing.
    fn like_a_task(engine: &Engine, scene: &mut Scene) -> Self {
        scene.peer.write(&frame(&task("model", "exec sleep 2")));
        assert!(is_claim(scene.peer.text()), "no claim came");
        let filter = ["ps", "--quiet", "--filter", "label=oz-agent-worker.task-id=model"];
        let id = loop {
            let id = engine.docker(filter);
            if !id.is_empty() {
                break id;
            }
        };
        let inspected: Value = serde_json::from_str(&engine.docker(["inspect", &id])).unwrap();
        let mut description = inspected[0]["Config"].clone();
        description["HostConfig"] = inspected[0]["HostConfig"].clone();
        // It is nobody's, and ends at once.
        description["Labels"] = json!({});
        description["Hostname"] = "".into();
        for variable in description["Env"].as_array_mut().unwrap() {
            if variable.as_str().unwrap().starts_with("SCRIPT=") {
                *variable = "SCRIPT=".into();
            }
        }
        assert!(is_success(scene.peer.text()), "the task did not end well");
        let socket = Path::new(engine.host().trim_start_matches("unix://")).to_owned();
        Self { socket, description: description.to_string() }
    }

    fn run(&self) -> io::Result<Duration> {
        let start = Instant::now();
        let created: Value = serde_json::from_str(&self.call("POST", "/containers/create", &self.description)?)?;
        let id = created["Id"].as_str().unwrap_or_else(|| panic!("{created}"));
        self.call("POST", &format!("/containers/{id}/start"), "")?;
        self.call("POST", &format!("/containers/{id}/wait"), "")?;
        self.call("DELETE", &format!("/containers/{id}?force=1&v=1"), "")?;
        Ok(start.elapsed())
    }

    fn call(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        http::call(UnixStream::connect(&self.socket)?, method, path, body)
    }
}
