//! A real Kubernetes of one node, on this machine.
// Looking into Kubernetes' own JSON by name is no look outside.
#![allow(clippy::indexing_slicing)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Peer, service::Service};
use crate::{
    chart::repository,
    log::Log,
    process::{self, with_input},
};

/// This machine, as Pods see it.
pub const HOST: &str = "198.18.0.1";

/// The API server, as this machine sees it.
pub const API: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 6443);

/// The only image that there is in every cluster.
pub const IMAGE: &str = "busybox:1.36";

/// What runs in the container of a task whose worker has the [`template`].
const ENTRYPOINT: &str = "#!/bin/sh\neval \"${SCRIPT-}\"\n";

/// How long a cluster may take to come up, another one before it to go, and an object to become what it should. (A Pod that
/// becomes ready passes several of the kubelet's periods of seconds.)
const BOUND: Duration = Duration::from_secs(120);

/// A running cluster. When it is dropped, and also when this process is killed, nothing is left of it.
pub struct Cluster {
    child: Child,
    // Its end is the cluster's.
    stdin: Option<ChildStdin>,
    log: Arc<Log>,
    /// Every component in one; `kubectl` through a link of that name.
    pub program: &'static Path,
    /// For programs that talk to it.
    pub kubeconfig: PathBuf,
    /// An archive of the images that every cluster has.
    pub images: &'static Path,
}

impl Cluster {
    /// Starts one with the images of these docker-save archives and `busybox:1.36`, and with the kinds of the Prometheus
    /// Operator. `None` when there is none to be had.
    pub fn up(archives: &[PathBuf]) -> Option<Self> {
        let [program, node, images, kinds] = Peer::Kubernetes.programs()? else {
            panic!("four lines of kubernetes.sh")
        };
        let mut command = Command::new("sh");
        command
            .arg(repository().join("tests/peers/kubernetes/cluster.sh"))
            .args([program, node, images])
            .args(archives);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A Ctrl-C is for the tests alone: what ends with them must still clean up.
        command.process_group(0);
        let mut child = command.spawn().expect("a shell");
        let (stdout, log) = (Arc::<Log>::default(), Arc::<Log>::default());
        Log::fill(&stdout, child.stdout.take().expect("a pipe"));
        Log::fill(&log, child.stderr.take().expect("a pipe"));
        let stdin = child.stdin.take();
        // From here on dropped, come what may.
        let mut cluster = Self { child, stdin, log, program, kubeconfig: PathBuf::new(), images };
        assert!(stdout.wait_for("ready", BOUND).is_some(), "the cluster does not come up");
        cluster.kubeconfig = stdout.lines().first().expect("what comes before the last line").into();
        cluster.kubectl(&format!("create --filename {}", kinds.display()));
        Some(cluster)
    }

    /// Makes a namespace with the agent in it: a file of a `ConfigMap`, which needs no image.
    pub fn namespace(&self, name: &str) {
        self.kubectl(&format!("create namespace {name}"));
        let agent = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agent"},
            "data": {"entrypoint.sh": ENTRYPOINT}});
        let applied = self.try_kubectl_reading(&format!("-n {name} apply -f -"), &agent.to_string());
        applied.unwrap_or_else(|error| panic!("{error}"));
        self.wait(&format!("--for=create serviceaccount/default configmap/kube-root-ca.crt -n {name}"));
    }

    /// Its certificates, and what it is configured with.
    pub fn folder(&self) -> &Path {
        self.kubeconfig.parent().expect("a folder of its own")
    }

    /// The API server's own log of who asked it for what, but for Kubernetes' own accounts: a line of JSON for each call.
    pub fn audit_log(&self) -> String {
        let file = self.folder().join("log/audit");
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// A program that talks to this cluster.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Nobody's own settings, and no time-out that is not ours.
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A program that sees the network of the cluster's node: its interfaces, its rules.
    pub fn in_its_network(&self, program: &str) -> Command {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        let within = *process::descendants(pid).first().expect("a running cluster");
        let mut command = self.command(Path::new("nsenter"));
        command.args(["--target", &within.to_string(), "--net", program]);
        command
    }

    /// What `kubectl` answers to these words.
    ///
    /// # Errors
    /// What it says is wrong.
    pub fn try_kubectl(&self, words: &str) -> Result<String, String> {
        said(self.kubectl_command(words).output().expect("kubectl runs"))
    }

    /// What `kubectl` answers to these words.
    pub fn kubectl(&self, words: &str) -> String {
        self.try_kubectl(words).unwrap_or_else(|error| panic!("kubectl {words}: {error}"))
    }

    /// The same with this on standard input.
    ///
    /// # Errors
    /// What it says is wrong.
    pub fn try_kubectl_reading(&self, words: &str, input: &str) -> Result<String, String> {
        said(with_input(&mut self.kubectl_command(words), input))
    }

    /// An object, or a list of them, as JSON.
    pub fn get(&self, words: &str) -> Value {
        let text = self.kubectl(&format!("get {words} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("kubectl get {words}: {error}: {text}"))
    }

    /// Waits until `kubectl wait` sees what these words say.
    pub fn wait(&self, words: &str) {
        self.kubectl(&format!("wait --timeout={}s {words}", BOUND.as_secs()));
    }

    /// The first line of a Pod's log that holds this text, waited for. (There is no log yet while the Pod is made.)
    pub fn log_line(&self, pod: &str, wanted: &str) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            let mut child = self.kubectl_command(&format!("logs --follow {pod}")).spawn().expect("kubectl runs");
            let log = Arc::<Log>::default();
            Log::fill(&log, child.stdout.take().expect("a pipe"));
            let line = log.wait_for(wanted, deadline.saturating_duration_since(Instant::now()));
            // Whether it has ended already does not matter.
            let _ = child.kill();
            let _ = child.wait();
            match line {
                Some(line) => return line,
                None => assert!(Instant::now() < deadline, "{pod} does not say {wanted:?}: {:#?}", log.lines()),
            }
        }
    }

    /// Runs a shell command in a Pod.
    ///
    /// # Errors
    /// What it wrote when it failed.
    pub fn try_exec(&self, pod: &str, script: &str) -> Result<String, String> {
        let mut command = self.kubectl_command(&format!("exec {pod} -- sh -c"));
        said(command.arg(script).output().expect("kubectl runs"))
    }

    /// Sends a signal to the component of this name. One that ends of it is started again.
    pub fn signal(&self, component: &str, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        let is_it = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).next() == Some(component.as_bytes())
        };
        let found = process::descendants(pid).into_iter().find(is_it);
        process::signal(found.unwrap_or_else(|| panic!("no {component} runs")), signal);
    }

    /// The API by plain HTTP: what comes between can read it.
    pub fn plain(&self) -> Plain {
        let service = Service::start("kubectl proxy", &mut self.kubectl_command("proxy --port=0"));
        let line = service.wait_for_line("Starting to serve on ");
        let (_, address) = line.split_once("Starting to serve on ").expect("it was waited for");
        Plain { address: address.trim().parse().expect("an address"), _service: service }
    }

    /// Waits until the API server answers, after it did not.
    pub fn is_back(&self) {
        let deadline = Instant::now() + BOUND;
        while let Err(error) = self.try_kubectl("get --raw /readyz") {
            assert!(Instant::now() < deadline, "the API server does not come back: {error}");
        }
    }

    fn kubectl_command(&self, words: &str) -> Command {
        let mut command = self.command(self.program);
        command.arg("kubectl").args(words.split_whitespace());
        command
    }
}

/// The API by plain HTTP, as the cluster's administrator, until it is dropped.
pub struct Plain {
    _service: Service,
    pub address: SocketAddr,
}

/// The template of a worker whose tasks run what their assignments say ([`Assignment::run`](crate::message::Assignment::run)).
pub fn template() -> Value {
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "agent", "configMap": {"name": "agent", "defaultMode": 0o755}}],
        "containers": [{"name": "task", "volumeMounts": [{"name": "agent", "mountPath": "/agent"}]}],
    })
}

/// What a program wrote to standard output.
///
/// # Errors
/// What it wrote to standard error, when it failed.
pub fn said(ended: Output) -> Result<String, String> {
    let text = if ended.status.success() { ended.stdout } else { ended.stderr };
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    if ended.status.success() { Ok(text) } else { Err(text) }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.log.show("the cluster");
            if let Ok(events) = self.try_kubectl("get events,pods --all-namespaces -o wide") {
                eprintln!("--- events and Pods of the cluster ---\n{events}");
            }
        }
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
