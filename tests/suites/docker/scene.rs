//! A worker with backend `docker`, connected, and what there is on its engine.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    BOUND,
    connection::Connection,
    message::{Assignment, Cancellation},
    peers::{Peer, docker::Engine},
    server::Server,
    worker::{Launch, Worker},
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub type Chapter = fn(&Engine);

/// The image of a task, and of the agent's sidecar.
pub const TASK: &str = "oz-test/task:1";
pub const AGENT: &str = "oz-test/agent:1";

/// How long a container may take to come up and to be gone on a busy machine.
pub const ENGINE_BOUND: Duration = Duration::from_secs(60);

/// What runs in a task's container.
const ENTRYPOINT: &str = "#!/bin/sh\neval \"${SCRIPT-}\"\n";

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
        let filter = format!("label=oz-agent-worker.task-id={task_id}");
        wait_for("a running container", || {
            let ids =
                self.engine.docker(["ps", "--quiet", "--no-trunc", "--filter", &filter, "--filter", "status=running"]);
            (!ids.is_empty()).then_some(ids)
        })
    }

    /// Waits until the engine has no container of this task.
    pub fn gone(&self, task_id: &str) {
        let filter = format!("label=oz-agent-worker.task-id={task_id}");
        wait_for("the container's removal", || {
            self.engine.docker(["ps", "--all", "--quiet", "--filter", &filter]).is_empty().then_some(())
        });
    }

    pub fn cancel(&mut self, task_id: &str) {
        self.session.send(Cancellation::of(task_id));
        let (kind, data) = self.end();
        assert_eq!((kind.as_str(), &data["task_state"]), ("task_completed", &json!("CANCELLED")), "{data}");
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

/// The images that the chapters use; nothing is fetched for them.
pub fn make_images(engine: &Engine) {
    let root = shell_root();
    engine.import(TASK, root.path(), &["ENV PATH=/bin"]);
    let agent = tempfile::tempdir().unwrap();
    put(agent.path(), "entrypoint.sh", ENTRYPOINT, 0o755);
    engine.import(AGENT, agent.path(), &[]);
}

/// The files of an image with a shell.
pub fn shell_root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in ["bin", "etc", "tmp", "full"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let archive = &Peer::Debian.programs().expect("CI has it, and elsewhere these are skipped")[0];
    let taken = Command::new("tar").arg("-xOf").arg(archive).arg("./usr/bin/busybox").output().unwrap();
    assert!(taken.status.success());
    let busybox = root.path().join("bin/busybox");
    fs::write(&busybox, taken.stdout).unwrap();
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).unwrap();
    for applet in
        ["sh", "cat", "dd", "echo", "find", "grep", "id", "ls", "mount", "sleep", "sort", "stat", "test", "true", "wc"]
    {
        std::os::unix::fs::symlink("busybox", root.path().join("bin").join(applet)).unwrap();
    }
    fs::write(root.path().join("full/of-the-image"), "").unwrap();
    root
}

pub fn put(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}
