//! What the chapters are made of: the cluster, the server, the documented commands, and how to look at it all.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use oz_worker_tests::{
    agent::write_program,
    chart::{self, text},
    connection::Connection,
    page::blocks_of,
    peers::{
        Peer,
        docker::Engine,
        kubernetes::{Cluster, HOST, said},
    },
    process::with_input,
    server::{Request, Server},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a Pod may take until its worker dials.
pub const POD_BOUND: Duration = Duration::from_secs(120);

/// The worker's image, as the documentation has it.
const WORKER: &str = "warpdotdev/oz-agent-worker:VERSION";

/// The same with what the direct backend needs; also what a Job's task runs in.
pub const WITH_AN_AGENT: &str = "with-an-agent:1";

/// The image of `tests/Dockerfile`.
const TRIES: &str = "oz-agent-worker-test:1";

/// Of the documentation: where the release is, and what it is called.
pub const NAMESPACE: &str = "warp-oz";
pub const RELEASE: &str = "oz-agent-worker";

/// Namespaces, each with a Pod `client`: one that may scrape, one that may not.
pub const CLIENTS: [&str; 2] = ["monitoring", "elsewhere"];

/// A cluster, a server beside it, and what is in between.
pub struct Story {
    pub cluster: Cluster,
    pub server: Server,
    folder: TempDir,
    pub values: Value,
    /// Everything that there was before the release.
    pub before: Vec<String>,
    pub sessions: Vec<Connection>,
}

/// A worker's dial, answered.
pub struct Dial {
    pub worker_id: String,
    pub key: String,
    pub session: Connection,
}

impl Dial {
    fn answer(request: Request) -> Self {
        let (_, worker_id) = request.query()[0];
        let (worker_id, key) = (worker_id.to_owned(), request.header("authorization").unwrap().to_owned());
        let mut session = request.upgrade();
        session.ping(b"established");
        session.expect_pong(b"established");
        Self { worker_id, key: key.trim_start_matches("Bearer ").to_owned(), session }
    }
}

impl Story {
    /// A cluster before the release. `None` when something of it cannot be had.
    pub fn begins() -> Option<Self> {
        let helm = Peer::Helm.programs()?.first()?;
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::up(&[images(folder.path())?])?;
        // What the documented commands take for granted: programs on the path, and the chart where one stands.
        fs::create_dir(folder.path().join("bin")).unwrap();
        symlink(cluster.program, folder.path().join("bin/kubectl")).unwrap();
        symlink(helm, folder.path().join("bin/helm")).unwrap();
        symlink(chart::repository().join("charts"), folder.path().join("charts")).unwrap();
        // Where the value files want to be.
        cluster.kubectl(&format!("create namespace {}", chart::RELEASE.1));
        cluster.wait(&format!("--for=create serviceaccount/default -n {}", chart::RELEASE.1));
        cluster.kubectl("create namespace jobs");
        for namespace in CLIENTS {
            cluster.kubectl(&format!("create namespace {namespace}"));
            cluster.wait(&format!("--for=create serviceaccount/default -n {namespace}"));
            let pod = "run client --image=busybox:1.36 --restart=Never --command -- httpd -f -p 8080";
            cluster.kubectl(&format!("-n {namespace} {pod}"));
        }
        let server = Server::listen(&format!("{HOST}:0")).unwrap();
        let mut values = documented_values(0);
        let ours = json!({
            "warp": {"webSocketURL": server.url()},
            "worker": {"logFormat": "json"},
            "kubernetesBackend": {
                "defaultImage": WITH_AN_AGENT,
                "unschedulableTimeout": "5s",
                "podTemplate": {"terminationGracePeriodSeconds": 5},
            },
            "test": {"taskImage": TRIES},
        });
        chart::merge(&mut values, &ours);
        Some(Self { cluster, server, folder, values, before: Vec::new(), sessions: Vec::new() })
    }

    /// The next dial of any worker.
    pub fn dial(&self) -> Dial {
        Dial::answer(self.server.try_request(POD_BOUND).unwrap_or_else(|error| panic!("no worker dialled: {error}")))
    }

    /// Lays this over the values.
    pub fn change(&mut self, more: &Value) {
        chart::merge(&mut self.values, more);
    }

    /// A shell that stands where the documented commands are meant to be given.
    pub fn shell(&self, command: &str) -> Command {
        fs::write(self.folder.path().join("values.yaml"), self.values.to_string()).unwrap();
        let mut shell = self.cluster.command(Path::new("sh"));
        let path = format!("{}:{}", self.folder.path().join("bin").display(), std::env::var("PATH").unwrap());
        shell.args(["-ec", command]).current_dir(&self.folder).env("PATH", path).env("HOME", self.folder.path());
        shell
    }

    /// Starts the command of docs/install-helm.md that begins like this.
    pub fn start(&self, beginning: &str) -> Child {
        self.shell(&documented_command(beginning)).spawn().unwrap()
    }

    /// Runs the command of docs/install-helm.md that begins like this.
    pub fn documented(&self, beginning: &str, input: &str) -> String {
        let ended = with_input(&mut self.shell(&documented_command(beginning)), input);
        said(ended).unwrap_or_else(|error| panic!("{beginning}: {error}"))
    }

    pub fn helm(&self, words: &str) -> Result<String, String> {
        said(self.shell(&format!("helm -n {NAMESPACE} {words}")).output().unwrap())
    }

    /// Waits until the Deployment is as it should be and the Pods of the one before are gone.
    pub fn settled(&self) {
        self.cluster.kubectl(&format!("rollout status deployment/{RELEASE} -n {NAMESPACE} --timeout=120s"));
        for pod in self.cluster.get(&format!("pods -n {NAMESPACE}"))["items"].as_array().unwrap() {
            if pod["metadata"]["deletionTimestamp"].is_string() {
                self.cluster.wait(&format!("--for=delete pod/{} -n {NAMESPACE}", name(pod)));
            }
        }
    }

    pub fn pods_of(&self, release: &str) -> Vec<Value> {
        let selector = format!("app.kubernetes.io/instance={release},app.kubernetes.io/name=oz-agent-worker");
        let mut pods = self.cluster.get(&format!("pods -n {NAMESPACE} -l {selector}"));
        pods["items"].as_array_mut().map(std::mem::take).unwrap()
    }

    /// The only worker of a release; waits until there is one.
    pub fn pod_of(&self, release: &str) -> Value {
        self.cluster.wait(&format!("--for=create pod -l app.kubernetes.io/instance={release} -n {NAMESPACE}"));
        let mut pods = self.pods_of(release);
        assert_eq!(pods.len(), 1, "{pods:#?}");
        pods.remove(0)
    }

    /// The only worker of [`RELEASE`].
    pub fn pod(&self) -> Value {
        self.pod_of(RELEASE)
    }

    pub fn pod_name(&self) -> String {
        name(&self.pod()).to_owned()
    }

    pub fn exec(&self, pod: &str, script: &str) -> String {
        self.try_exec(pod, script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    pub fn try_exec(&self, pod: &str, script: &str) -> Result<String, String> {
        self.cluster.try_exec(&format!("{pod} -n {NAMESPACE}"), script)
    }

    /// Everything in the cluster but what it writes down about itself.
    pub fn all_objects(&self) -> Vec<String> {
        let kinds = self.cluster.kubectl("api-resources --verbs=list,create --output=name");
        let kinds: Vec<&str> =
            kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.starts_with("leases")).collect();
        let columns = "custom-columns=NAMESPACE:.metadata.namespace,KIND:.kind,NAME:.metadata.name";
        let list = format!("get {} --all-namespaces --ignore-not-found --no-headers -o {columns}", kinds.join(","));
        let mut objects: Vec<String> = Vec::new();
        for line in self.cluster.kubectl(&list).lines() {
            let [namespace, kind, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
            objects.push(format!("{namespace} {kind}/{name}"));
        }
        objects.sort();
        objects
    }
}

/// An archive of the images in this folder. `None` when they cannot be had.
fn images(folder: &Path) -> Option<PathBuf> {
    let engine = Engine::start()?;
    let (worker, debian) = (engine.worker()?, engine.debian()?);
    let context = folder.join("image");
    fs::create_dir(&context).unwrap();
    write_program(&context.join("oz"), "#!/bin/sh\neval \"${SCRIPT-}\"\n");
    let dockerfile = format!(
        "FROM {debian} AS debian\n\
         FROM {worker}\n\
         COPY --from=debian /bin/busybox /bin/\n\
         COPY oz /usr/local/bin/\n\
         COPY oz /agent/entrypoint.sh\n\
         USER 0\n\
         RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
         USER 10001:10001\n"
    );
    engine.build(WITH_AN_AGENT, &dockerfile, &context);
    engine.docker(["tag", worker, WORKER]);
    // As the documentation builds it, but for where images come from.
    let flags = format!("{} --build-arg BASE_IMAGE={debian}", engine.build_flags()?);
    engine.shell(&format!("docker build {flags} -f tests/Dockerfile -t {TRIES} ."), chart::repository());
    let archive = folder.join("image.tar");
    engine.save(&[WORKER, WITH_AN_AGENT, TRIES], &archive);
    Some(archive)
}

/// The first command of docs/install-helm.md that begins like this.
pub fn documented_command(beginning: &str) -> String {
    let page = chart::read("docs/install-helm.md");
    let found = page.lines().map(str::trim).find(|line| line.starts_with(beginning));
    found.unwrap_or_else(|| panic!("docs/install-helm.md has no command {beginning:?}")).to_owned()
}

/// The values in this block of docs/install-helm.md.
fn documented_values(block: usize) -> Value {
    chart::yaml(&blocks_of("docs/install-helm.md", "yaml")[block])
}

/// What docs/install-helm.md says of `worker` where tasks run in its Pod.
pub fn in_its_own_pod() -> Value {
    documented_values(1)["worker"].take()
}

/// Waits for a command that was started.
pub fn finish(child: Child) -> Result<String, String> {
    said(child.wait_with_output().unwrap())
}

pub fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}
