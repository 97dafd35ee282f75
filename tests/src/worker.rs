//! The worker under test: the real binary, started with flags, file and environment that a test chose.
// Looking into one's own JSON by name is no look outside.
#![allow(clippy::indexing_slicing)]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{
    BOUND,
    agent::Agent,
    binary::worker_binary,
    log::Log,
    metrics::Scrape,
    process::{self, Watch},
    server::Server,
};

/// The API key that every worker under test is given unless a test says otherwise.
pub const API_KEY: &str = "wk-test-key";

/// How to start a worker. Can be started more than once, also while an earlier one runs or after it was killed.
#[derive(Clone)]
pub struct Launch {
    dir: Arc<TempDir>,
    through: Vec<String>,
    worker_id: Option<String>,
    args: Vec<String>,
    env: BTreeMap<String, OsString>,
    file: Map<String, Value>,
}

impl Launch {
    /// A worker without any flag or file; its environment is `PATH`, `HOME` and no telemetry.
    pub fn bare() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let launch = Self {
            dir: Arc::new(dir),
            through: Vec::new(),
            worker_id: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            file: Map::new(),
        };
        fs::create_dir(launch.home()).expect("a new directory");
        fs::create_dir(launch.workspaces()).expect("a new directory");
        let home = launch.home().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        launch.env("PATH", &path).env("HOME", &home).env("OTEL_METRICS_EXPORTER", "none")
    }

    /// A worker with an API key that dials this URL. Its id is its own: a worker cleans up after a crashed one that had
    /// the same id, and tests crash workers beside each other.
    pub fn dialling(url: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let worker_id = format!("w-{}-{count}", std::process::id());
        Self::bare().env("WARP_API_KEY", API_KEY).worker_id(&worker_id).flags(["--web-socket-url", url])
    }

    /// A worker with the direct backend and this agent.
    pub fn direct(server: &Server, agent: &Agent) -> Self {
        Self::direct_to(&server.url(), agent)
    }

    /// A worker with the direct backend and this agent, that dials this URL.
    pub fn direct_to(url: &str, agent: &Agent) -> Self {
        let launch = Self::dialling(url);
        let (root, oz) = (launch.workspaces(), agent.program());
        launch.backend("direct", &json!({"workspace_root": root, "oz_path": oz}))
    }

    /// A worker with the command backend, whose dispatch command is this program.
    pub fn command(server: &Server, dispatch: &Agent) -> Self {
        Self::dialling(&server.url()).backend("command", &json!({"dispatch_command": dispatch.program()}))
    }

    /// The worker's id, empty when it is left out.
    pub fn id(&self) -> &str {
        self.worker_id.as_deref().unwrap_or_default()
    }

    /// Sets `--worker-id`, which may be given once only.
    #[must_use]
    pub fn worker_id(self, worker_id: &str) -> Self {
        Self { worker_id: Some(worker_id.to_owned()), ..self }
    }

    /// Leaves `--worker-id` out.
    #[must_use]
    pub fn without_worker_id(self) -> Self {
        Self { worker_id: None, ..self }
    }

    #[must_use]
    pub fn flag(self, flag: &str) -> Self {
        self.flags([flag])
    }

    /// Has a program started with these arguments, which the worker's program and its own follow. It must become the worker
    /// (`exec`), unless only what the worker does elsewhere is looked at.
    #[must_use]
    pub fn through<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.through = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// Adds flags, or a flag and its value.
    #[must_use]
    pub fn flags<'a>(mut self, flags: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(flags.into_iter().map(str::to_owned));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &(impl AsRef<OsStr> + ?Sized)) -> Self {
        self.env.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Leaves an environment variable out.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Sets a top-level key of the configuration file.
    #[must_use]
    pub fn top(mut self, key: &str, value: Value) -> Self {
        self.file.insert(key.to_owned(), value);
        self
    }

    #[must_use]
    pub fn backend(self, name: &str, keys: &Value) -> Self {
        self.top("backend", json!({name: keys}))
    }

    /// Sets a key of the chosen backend.
    #[must_use]
    pub fn config(mut self, key: &str, value: impl Into<Value>) -> Self {
        let backend = self.file.get_mut("backend").and_then(Value::as_object_mut).expect("a backend was chosen");
        if let Some(keys) = backend.values_mut().next() {
            keys[key] = value.into();
        }
        self
    }

    /// Leaves a key of the chosen backend out.
    #[must_use]
    pub fn without_config(mut self, key: &str) -> Self {
        let backend = self.file.get_mut("backend").and_then(Value::as_object_mut).expect("a backend was chosen");
        for keys in backend.values_mut().filter_map(Value::as_object_mut) {
            keys.shift_remove(key);
        }
        self
    }

    /// Serves `/metrics` on an ephemeral port.
    #[must_use]
    pub fn with_metrics(self) -> Self {
        self.env("OTEL_METRICS_EXPORTER", "prometheus")
            .env("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1")
            .env("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    }

    /// The launch's own directory, above all the others.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir().join("home")
    }

    /// The direct backend's workspace root.
    pub fn workspaces(&self) -> PathBuf {
        self.dir().join("ws")
    }

    /// Names of what is in the workspace root, sorted.
    pub fn left_in_workspaces(&self) -> Vec<String> {
        names_in(&self.workspaces())
    }

    /// Where [`Launch::start`] writes the configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("config.yaml")
    }

    pub fn start(&self) -> Worker {
        let program = worker_binary().unwrap_or_else(|error| panic!("no worker to test: {error}"));
        let mut command = match self.through.split_first() {
            None => Command::new(&program),
            Some((first, words)) => {
                let mut command = Command::new(first);
                command.args(words).arg(&program);
                command
            }
        };
        if !self.file.is_empty() {
            // JSON is YAML.
            let text = serde_json::to_string_pretty(&self.file).expect("a value prints");
            fs::write(self.config_file(), text).expect("one's own directory");
            command.arg("--config-file").arg(self.config_file());
        }
        if let Some(worker_id) = &self.worker_id {
            command.args(["--worker-id", worker_id]);
        }
        command.args(&self.args).env_clear().envs(&self.env).current_dir(self.dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let pid = i32::try_from(child.id()).expect("process ids are small");
        let (out, err) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let (stdout, stderr) = (Arc::<Log>::default(), Arc::<Log>::default());
        Worker {
            readers: vec![Log::fill(&stdout, out), Log::fill(&stderr, err)],
            watch: Watch::new(pid),
            child,
            stdout,
            stderr,
            launch: self.clone(),
        }
    }

    /// Starts the worker, which must end by itself.
    pub fn run(&self) -> Ended {
        self.start().ended()
    }
}

/// How a worker ended, and all it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    pub stderr: String,
}

/// A running worker. Dropping it kills it and all it started, and shows its log when the test is failing.
pub struct Worker {
    pub launch: Launch,
    child: Child,
    watch: Watch,
    stdout: Arc<Log>,
    stderr: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

impl Worker {
    pub fn pid(&self) -> i32 {
        self.watch.pid
    }

    /// Waits for a line on standard error that holds `text`, and gives it.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.wait_for_line_within(text, BOUND)
    }

    /// Waits for a line on standard error that holds `text`, for as long as it may take.
    pub fn wait_for_line_within(&self, text: &str, bound: Duration) -> String {
        self.stderr.wait_for(text, bound).unwrap_or_else(|| panic!("no log line with {text:?}"))
    }

    /// Everything on standard error so far, a line each.
    pub fn log(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// Lines on standard error so far that hold `text`.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.log().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// Calls `hear` with every line on standard error, from the first on, until the worker has ended.
    pub fn on_line(&self, hear: impl Fn(&str) + Send + 'static) {
        let log = Arc::clone(&self.stderr);
        thread::spawn(move || {
            let mut heard = 0;
            while let Some(line) = log.line(heard) {
                hear(&line);
                heard += 1;
            }
        });
    }

    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Kills it with SIGKILL and nothing else: what it started goes on.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exit_within(BOUND);
    }

    /// Waits until it has ended by itself.
    pub fn exit(&mut self) -> ExitStatus {
        self.exit_within(BOUND)
    }

    /// Waits until it has ended by itself, for as long as it may take.
    pub fn exit_within(&mut self, bound: Duration) -> ExitStatus {
        assert!(self.has_ended_within(bound), "the worker still runs after {bound:?}");
        self.child.wait().expect("an own child")
    }

    /// Waits until it has ended by itself; false when it still runs after `bound`.
    pub fn has_ended_within(&self, bound: Duration) -> bool {
        self.watch.ends_within(bound)
    }

    /// Waits until it has ended by itself and gives all it wrote.
    pub fn ended(mut self) -> Ended {
        let status = self.exit();
        for reader in self.readers.drain(..) {
            // Waits for the last line. A process that survived the worker would hold the pipe: that is a failure too.
            let _ = reader.join();
        }
        Ended { code: status.code(), stdout: self.stdout.lines().join("\n"), stderr: self.stderr.lines().join("\n") }
    }

    /// Host and port of `/metrics`, from the line that names it.
    pub fn metrics_address(&self) -> String {
        let line = self.wait_for_line("metrics endpoint listening");
        address_in(&line).unwrap_or_else(|| panic!("no host:port in {line:?}"))
    }

    /// The text that `/metrics` answers.
    pub fn scrape_text(&self) -> String {
        http_get(&self.metrics_address(), "/metrics").1
    }

    /// What `/metrics` answers.
    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.scrape_text())
    }

    /// Scrapes until a series has this value. Gives the scrape after that: one is taken series by series, so that the first
    /// may have seen only the half of what happened together.
    pub fn wait_for_metric(&self, sample: &str, labels: &[(&str, &str)], value: f64) -> Scrape {
        let deadline = Instant::now() + BOUND;
        loop {
            let scrape = self.scrape();
            let now = scrape.value(sample, labels);
            if (now - value).abs() < f64::EPSILON {
                return self.scrape();
            }
            assert!(Instant::now() < deadline, "{sample} {labels:?} is {now}, not {value}");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Stopped, it starts nothing more while its descendants are looked up.
            self.signal(Signal::STOP);
            let descendants = process::descendants(self.pid());
            self.signal(Signal::KILL);
            let descendants: Vec<Watch> = descendants.into_iter().map(Watch::new).collect();
            for descendant in &descendants {
                process::signal(descendant.pid, Signal::KILL);
            }
            let _ = self.child.wait();
            // One that is stuck is no reason to be stuck as well.
            descendants.iter().all(|descendant| descendant.ends_within(BOUND));
        }
        process::remove_cgroups_of(self.pid());
        if thread::panicking() {
            self.stderr.show("the worker");
        }
    }
}

/// Names of a directory's entries, sorted; none when it does not exist.
pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// GETs a path; gives status and body.
pub fn http_get(address: &str, path: &str) -> (u16, String) {
    try_http_get(address, path).unwrap_or_else(|error| panic!("no whole answer from {address}{path}: {error}"))
}

/// GETs a path once; gives status and body.
///
/// # Errors
/// The connection fails or ends before the answer does.
pub fn try_http_get(address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let cut = || io::Error::other(format!("no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    Ok((status, body.to_owned()))
}

/// The first `host:port` after the message of a log line.
fn address_in(line: &str) -> Option<String> {
    let (_, after) = line.split_once("listening")?;
    after.split(|char: char| char.is_whitespace() || "\"=/,".contains(char)).find_map(|word| {
        let (host, port) = word.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        (!host.is_empty()).then(|| format!("{host}:{port}"))
    })
}
