//! A worker that is connected: the release binary with the direct backend and the Prometheus exporter.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use oz_worker_tests::{
    BOUND,
    binary::worker_binary,
    process::{Watch, descendants, signal},
    server::Server,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::wire::Peer;

/// How to start a worker.
pub struct Launch {
    dir: TempDir,
    worker: PathBuf,
    /// Its key of the file.
    backend: Value,
    max_concurrent_tasks: u32,
    env: Vec<(String, String)>,
}

impl Launch {
    /// A worker whose agent is this program.
    pub fn new(oz: &Path, max_concurrent_tasks: u32) -> Self {
        let mut launch = Self::with(&Value::Null, max_concurrent_tasks);
        let root = launch.dir.path().join("ws");
        fs::create_dir(&root).unwrap();
        launch.backend = json!({"direct": {"workspace_root": root, "oz_path": oz}});
        launch
    }

    /// A worker with this backend.
    pub fn with(backend: &Value, max_concurrent_tasks: u32) -> Self {
        let (dir, backend) = (tempfile::tempdir().unwrap(), backend.clone());
        Self { dir, worker: worker_binary().unwrap(), backend, max_concurrent_tasks, env: Vec::new() }
    }

    /// Takes this build of the worker.
    pub fn of(mut self, worker: &Path) -> Self {
        worker.clone_into(&mut self.worker);
        self
    }

    /// Sets one more environment variable, or another value of one.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it; its log goes to a file, as a service's does.
    pub fn start(self) -> Scene {
        let log = File::create(self.dir.path().join("log")).unwrap();
        self.start_logging_to(log.into())
    }

    /// Starts it with this standard error.
    pub fn start_logging_to(self, log: Stdio) -> Scene {
        let server = Server::start();
        let metrics = free_address();
        let dir = self.dir.path();
        let file = json!({"backend": self.backend});
        fs::write(dir.join("config.yaml"), file.to_string()).unwrap();
        let (host, port) = metrics.split_once(':').unwrap();
        let mut command = Command::new(&self.worker);
        command
            .args(["--worker-id", "bench", "--web-socket-url", &server.url(), "--config-file"])
            .arg(dir.join("config.yaml"))
            .args(["--max-concurrent-tasks", &self.max_concurrent_tasks.to_string()])
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("HOME", "/"), ("WARP_API_KEY", "wk-bench")])
            .envs([("OTEL_METRICS_EXPORTER", "prometheus"), ("OTEL_EXPORTER_PROMETHEUS_HOST", host)])
            .env("OTEL_EXPORTER_PROMETHEUS_PORT", port)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let (peer, request_seen) = Peer::accept(&server);
        Scene { peer, child, metrics, to_request: request_seen - started, _launch: self }
    }
}

pub struct Scene {
    pub peer: Peer,
    pub metrics: String,
    /// From the start of the process to its upgrade request.
    pub to_request: Duration,
    child: Child,
    _launch: Launch,
}

impl Scene {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits until it has, its tasks included; calls `at_text` at each text it sends meanwhile. Gives
    /// how long that took.
    pub fn stop(mut self, at_text: impl FnMut()) -> Duration {
        let pid = self.child.id().cast_signed();
        let watch = Watch::new(pid);
        let start = Instant::now();
        signal(pid, Signal::TERM);
        self.peer.until_close(at_text);
        self.peer.hang_up();
        assert!(watch.ends_within(BOUND), "the worker does not stop");
        let took = start.elapsed();
        self.child.wait().unwrap();
        took
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Only when a measurement broke off: nothing of it may stay behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = self.child.id().cast_signed();
            let left = descendants(pid);
            signal(pid, Signal::KILL);
            for pid in left {
                signal(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Programs to run as `oz`.
pub struct Agents {
    dir: TempDir,
}

impl Agents {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// The system's own program that exits at once.
    pub fn exits_at_once(&self) -> PathBuf {
        let path = self.dir.path().join("true");
        let _ = symlink("/bin/true", &path);
        path
    }

    /// The least that a process can be: one static program that exits at once. None without a C compiler.
    pub fn least(&self) -> io::Result<PathBuf> {
        let (source, path) = (self.dir.path().join("least.c"), self.dir.path().join("least"));
        fs::write(&source, "int main(void) { return 0; }\n")?;
        let built = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&path).arg(&source).status()?;
        if built.success() { Ok(path) } else { Err(io::Error::other("cc cannot link statically")) }
    }

    pub fn script(&self, name: &str, script: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        oz_worker_tests::agent::write_program(&path, &format!("#!/bin/sh\n{script}\n"));
        path
    }
}

/// An address that nobody listens on right now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
