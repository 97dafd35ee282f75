//! A worker with backend `docker`, connected, and what there is on its engine.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use oz_worker_tests::peers::images::{AGENT, TASK, make as make_images, put, shell_root};
use oz_worker_tests::{
    BOUND,
    connection::Connection,
    message::{Assignment, Cancellation},
    peers::docker::Engine,
    server::Server,
    worker::{Launch, Worker},
};
use serde_json::{Value, json};

pub type Chapter = fn(&Engine);

/// How long a container may take to come up and to be gone on a busy machine.
pub const ENGINE_BOUND: Duration = Duration::from_secs(60);

/// A connected worker.
pub struct Scene<'engine> {
    pub engine: &'engine Engine,
    pub worker: Worker,
    pub session: Connection,
    pub server: Server,
    pub launch: Launch,
}

impl<'engine> Scene<'engine> {
    /// A worker that pulls nothing that is there.
    pub fn new(engine: &'engine Engine) -> Self {
        Self::with(engine, |launch| launch)
    }

    pub fn with(engine: &'engine Engine, change: impl FnOnce(Launch) -> Launch) -> Self {
        let server = Server::start();
        let launch = Launch::dialling(&server.url())
            .backend("docker", &json!({"pull_policy": "if-not-present"}))
            .env("DOCKER_HOST", &engine.host())
            .flags(["--cancel-grace-period", "1s"]);
        let launch = change(launch);
        let worker = launch.start();
        let session = server.accept();
        Self { engine, worker, session, server, launch }
    }

    /// Assigns a task and waits for the claim.
    pub fn claim(&mut self, assignment: &Assignment) {
        self.session.send(assignment);
        self.session.expect("task_claimed");
    }

    /// Waits for the end of a task: the type and data of its message.
    pub fn end(&mut self) -> (String, Value) {
        let message = self.session.recv_within(ENGINE_BOUND).expect("a task ends");
        // Its container stays until the worker knows that this was heard.
        self.session.answer();
        (message["type"].as_str().unwrap().to_owned(), message["data"].clone())
    }

    pub fn succeeds(&mut self, assignment: &Assignment) {
        self.claim(assignment);
        let (kind, data) = self.end();
        assert_eq!(kind, "task_completed", "{data}");
    }

    /// Runs a task that must fail for this reason; gives its exit code and message.
    pub fn fails(&mut self, assignment: &Assignment, reason: &str) -> (Option<i64>, String) {
        self.claim(assignment);
        let (_, data) = self.end();
        assert_eq!(data["failure_reason"], reason, "{data}");
        (data["exit_code"].as_i64(), data["message"].as_str().unwrap().to_owned())
    }

    /// Waits until the container of this task runs; gives its id.
    pub fn running(&self, task_id: &str) -> String {
        running(self.engine, task_id)
    }

    /// Waits until the engine has no container of this task.
    pub fn gone(&self, task_id: &str) {
        gone(self.engine, task_id);
    }

    pub fn cancel(&mut self, task_id: &str) {
        self.session.send(Cancellation::of(task_id));
        let (kind, data) = self.end();
        assert_eq!((kind.as_str(), &data["task_state"]), ("task_completed", &json!("CANCELLED")), "{data}");
    }

    /// From now on the worker cannot reach its server.
    pub fn hide_server(&mut self) -> SocketAddr {
        let address = self.server.address();
        self.server = Server::start();
        self.session.reset();
        self.worker.wait_for_line("dial failed");
        address
    }

    /// Starts a worker where this one was.
    pub fn start_again(&mut self) {
        self.worker = self.launch.start();
        self.session = self.server.accept();
    }

    /// Lets the worker leave.
    pub fn leave(mut self) {
        self.stop();
    }

    pub fn stop(&mut self) {
        self.worker.signal(rustix::process::Signal::TERM);
        // A worker waits for the answer to its Close.
        self.session.expect_end_within(ENGINE_BOUND);
        assert!(self.worker.exit_within(ENGINE_BOUND).success());
    }
}

/// Waits until the container of this task runs; gives its id.
pub fn running(engine: &Engine, task_id: &str) -> String {
    let filter = format!("label=oz-agent-worker.task-id={task_id}");
    wait_for("a running container", || {
        let ids = engine.docker(["ps", "--quiet", "--no-trunc", "--filter", &filter, "--filter", "status=running"]);
        (!ids.is_empty()).then_some(ids)
    })
}

/// Waits until the engine has no container of this task.
pub fn gone(engine: &Engine, task_id: &str) {
    let filter = format!("label=oz-agent-worker.task-id={task_id}");
    wait_for("the container's removal", || {
        engine.docker(["ps", "--all", "--quiet", "--filter", &filter]).is_empty().then_some(())
    });
}

/// A task in the usual image, which does this.
pub fn task(task_id: &str, script: &str) -> Assignment {
    Assignment::new(task_id).run(script).with("docker_image", TASK.into()).with("sidecar_image", AGENT.into())
}

/// Waits until something is so.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + ENGINE_BOUND;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every container and volume that is not for keeps: those that hold sidecars whole are.
pub fn left(engine: &Engine) -> Vec<String> {
    let look = || {
        let containers = engine.docker(["ps", "--all", "--format", "container {{.Names}} {{.Image}} {{.State}}"]);
        let volumes = engine.docker(["volume", "ls", "--format", "volume {{.Name}}"]);
        let lines = containers.lines().chain(volumes.lines()).map(str::to_owned);
        let is_sidecars =
            |line: &String| line.contains("oz-agent-worker.whole.") || line.starts_with("volume oz-test-");
        lines.filter(|line| !is_sidecars(line)).collect::<Vec<_>>()
    };
    // What is removed beside everything else is gone soon.
    let until = Instant::now() + BOUND;
    loop {
        let found = look();
        if found.is_empty() || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
