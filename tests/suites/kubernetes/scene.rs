//! A worker with backend `kubernetes`, connected, in a namespace of its own.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    connection::Connection,
    message::{Assignment, Cancellation},
    peers::kubernetes::Cluster,
    server::Server,
    worker::{Launch, Worker},
};
use serde_json::{Value, json};

pub use oz_worker_tests::peers::kubernetes::{IMAGE, template};

pub type Chapter = fn(&Place<'_>);

/// How long a Pod may take to come up and to be gone on a busy machine.
pub const CLUSTER_BOUND: Duration = Duration::from_secs(120);

/// A task that ends when it is told to, with the code that it is told.
pub const WAITS: &str = "while ! test -e /workspace/go; do sleep 0.2; done; exit $(cat /workspace/go)";

/// A namespace, and what it is in.
pub struct Place<'cluster> {
    pub cluster: &'cluster Cluster,
    pub namespace: String,
}

impl<'cluster> Place<'cluster> {
    /// A new namespace with the agent in it.
    pub fn new(cluster: &'cluster Cluster, namespace: &str) -> Self {
        cluster.namespace(namespace);
        Self { cluster, namespace: namespace.to_owned() }
    }

    /// What `kubectl` answers to these words, about this namespace.
    pub fn kubectl(&self, words: &str) -> String {
        self.cluster.kubectl(&format!("-n {} {words}", self.namespace))
    }

    /// Makes an object, or changes it.
    pub fn apply(&self, object: &Value) {
        let words = format!("-n {} apply -f -", self.namespace);
        self.cluster.try_kubectl_reading(&words, &object.to_string()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The objects that these words name.
    pub fn all(&self, words: &str) -> Vec<Value> {
        let list = self.cluster.get(&format!("{words} -n {}", self.namespace));
        list["items"].as_array().cloned().unwrap()
    }

    /// The Jobs of tasks.
    pub fn jobs(&self) -> Vec<Value> {
        self.all("jobs -l oz-task-id")
    }

    /// Waits until there are as many Jobs of tasks.
    pub fn has_jobs(&self, count: usize) -> Vec<Value> {
        wait_for("the Jobs", || Some(self.jobs()).filter(|jobs| jobs.len() == count))
    }

    /// Waits until the only Pod of a task is as it should be; gives its name.
    pub fn pod(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> String {
        wait_for(what, || {
            let pods = self.all("pods -l oz-task-id");
            let pod = pods.iter().find(|pod| is_it(pod))?;
            Some(pod["metadata"]["name"].as_str().unwrap().to_owned())
        })
    }

    /// Waits until the container of the only task runs; gives its Pod's name.
    pub fn running(&self) -> String {
        self.pod("a running task", |pod| {
            let mut all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            all.any(|container| container["name"] == "task" && container["state"]["running"].is_object())
        })
    }

    /// Lets a task end that [`WAITS`] in this Pod, with this code.
    pub fn end_task(&self, pod: &str, code: i32) {
        let container = format!("{pod} -n {} -c task", self.namespace);
        let script = format!("echo {code} >/workspace/new && mv /workspace/new /workspace/go");
        self.cluster.try_exec(&container, &script).unwrap();
    }

    /// Changes a part of an object. The change has no white space.
    pub fn patch(&self, object: &str, change: &Value) {
        self.kubectl(&format!("patch {object} --type=merge --patch {change}"));
    }

    /// Asks for a Pod's eviction, as a drain does.
    pub fn evict(&self, pod: &str) {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", self.namespace);
        self.cluster.try_kubectl_reading(&format!("create --raw {path} -f -"), &eviction.to_string()).unwrap();
    }

    /// Waits until nothing is left of any task's Pod.
    pub fn has_no_pods(&self) {
        wait_for("the Pods' end", || self.all("pods -l oz-task-id").is_empty().then_some(()));
    }

    /// How a worker is started here, as the cluster's administrator.
    pub fn launch(&self, server: &Server) -> Launch {
        self.launch_as(server, &self.cluster.kubeconfig)
    }

    /// How a worker is started here with this kubeconfig.
    pub fn launch_as(&self, server: &Server, kubeconfig: &PathBuf) -> Launch {
        let keys = json!({
            "namespace": self.namespace, "kubeconfig": kubeconfig, "default_image": IMAGE, "pod_template": template(),
        });
        Launch::dialling(&server.url()).backend("kubernetes", &keys).flags(["--cancel-grace-period", "1s"])
    }

    /// A kubeconfig in this folder for this user.
    pub fn kubeconfig(&self, folder: &Path, user: &Value) -> PathBuf {
        let text = std::fs::read_to_string(&self.cluster.kubeconfig).unwrap();
        let cluster = text.lines().find(|line| line.starts_with("clusters:")).unwrap();
        let path = folder.join("kubeconfig");
        let rest = json!([{"name": "w", "user": user}]);
        let context = "contexts: [{name: w, context: {cluster: test, user: w}}]\ncurrent-context: w\n";
        std::fs::write(&path, format!("{cluster}\nusers: {rest}\n{context}")).unwrap();
        path
    }

    /// A service account that may do these things (verbs, group, resource); gives a token of it.
    pub fn account(&self, rules: &[(&[&str], &str, &str)]) -> String {
        let rules: Vec<Value> = rules
            .iter()
            .map(|(verbs, group, resource)| json!({"verbs": verbs, "apiGroups": [group], "resources": [resource]}))
            .collect();
        let (name, api) = (json!({"name": "w"}), "rbac.authorization.k8s.io");
        self.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name}));
        self.apply(&json!({"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": name, "rules": rules}));
        self.apply(&json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": name,
            "subjects": [{"kind": "ServiceAccount", "name": "w", "namespace": self.namespace}],
            "roleRef": {"apiGroup": api, "kind": "Role", "name": "w"}}));
        self.kubectl("create token w")
    }

    /// Waits until the API server refuses a token: it remembers for a moment that it was good.
    pub fn refuses(&self, token: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = self.kubeconfig(folder.path(), &json!({"token": token}));
        let words = format!("--kubeconfig {} -n {} get jobs", path.display(), self.namespace);
        wait_for("the token's end", || {
            self.cluster.try_kubectl(&words).err().filter(|said| said.contains("logged in"))
        });
    }

    /// Lets no Pod be made any more, or as many as are wanted.
    pub fn quota(&self, pods: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
            "spec": {"hard": {"pods": pods}}}));
        // It counts once the controller has looked.
        wait_for("the quota", || {
            let quota = self.cluster.get(&format!("resourcequota q -n {}", self.namespace));
            (quota["status"]["hard"]["pods"] == pods).then_some(())
        });
    }
}

/// A connected worker.
pub struct Scene {
    pub worker: Worker,
    pub session: Connection,
    pub server: Server,
    pub launch: Launch,
}

impl Scene {
    pub fn new(place: &Place<'_>) -> Self {
        Self::with(place, |launch| launch)
    }

    pub fn with(place: &Place<'_>, change: impl FnOnce(Launch) -> Launch) -> Self {
        let server = Server::start();
        let launch = change(place.launch(&server));
        Self::of(server, launch)
    }

    /// A worker that is started so.
    pub fn of(server: Server, launch: Launch) -> Self {
        let worker = launch.start();
        Self::started(server, launch, worker)
    }

    /// A worker that was started so.
    pub fn started(server: Server, launch: Launch, worker: Worker) -> Self {
        let session = accept(&server, &worker);
        Self { worker, session, server, launch }
    }

    /// Assigns a task and waits for the claim.
    pub fn claim(&mut self, assignment: &Assignment) {
        self.session.send(assignment);
        self.claimed();
    }

    /// Waits for a claim; gives its task.
    pub fn claimed(&mut self) -> String {
        let message = self.message();
        assert_eq!(message["type"], "task_claimed", "{message}");
        message["data"]["task_id"].as_str().unwrap().to_owned()
    }

    fn message(&mut self) -> Value {
        self.session.recv_within(CLUSTER_BOUND).expect("the worker says something")
    }

    /// Answers whatever the worker asks for: the proof that its messages arrived, too.
    pub fn answer(&mut self) {
        self.session.answer_within(CLUSTER_BOUND);
    }

    /// Waits for the end of a task: the type and data of its message.
    pub fn end(&mut self) -> (String, Value) {
        let message = self.message();
        self.answer();
        (message["type"].as_str().unwrap().to_owned(), message["data"].clone())
    }

    /// Waits until the claimed task has completed.
    pub fn completes(&mut self) {
        let (kind, data) = self.end();
        assert_eq!((kind.as_str(), &data["task_state"]), ("task_completed", &Value::Null), "{data}");
    }

    pub fn succeeds(&mut self, assignment: &Assignment) {
        self.claim(assignment);
        self.completes();
    }

    /// Waits until the claimed task has failed for this reason; gives its exit code and message.
    pub fn failed(&mut self, reason: &str) -> (Option<i64>, String) {
        let (_, data) = self.end();
        assert_eq!(data["failure_reason"], reason, "{data}");
        (data["exit_code"].as_i64(), data["message"].as_str().unwrap().to_owned())
    }

    pub fn fails(&mut self, assignment: &Assignment, reason: &str) -> (Option<i64>, String) {
        self.claim(assignment);
        self.failed(reason)
    }

    pub fn cancel(&mut self, task_id: &str) {
        self.session.send(Cancellation::of(task_id));
        let (kind, data) = self.end();
        assert_eq!((kind.as_str(), &data["task_state"]), ("task_completed", &json!("CANCELLED")), "{data}");
    }

    /// Starts a worker where this one was.
    pub fn start_again(&mut self) {
        self.worker = self.launch.start();
        self.session = accept(&self.server, &self.worker);
    }

    /// The worker has said nothing more of any task.
    pub fn is_silent(&mut self) -> bool {
        self.answer();
        !self.session.has_unread()
    }

    pub fn leave(mut self) {
        self.stop();
    }

    pub fn stop(&mut self) {
        self.worker.signal(rustix::process::Signal::TERM);
        // A worker waits for the answer to its Close.
        self.session.expect_end_within(CLUSTER_BOUND);
        assert!(self.worker.exit_within(CLUSTER_BOUND).success());
    }
}

/// The worker's first dial, for which it needs a Pod.
fn accept(server: &Server, worker: &Worker) -> Connection {
    let request = server.try_request(CLUSTER_BOUND);
    request.unwrap_or_else(|error| panic!("no worker dialled: {error}: {:#?}", worker.log())).upgrade()
}

/// A task that does this.
pub fn task(task_id: &str, script: &str) -> Assignment {
    Assignment::new(task_id).run(script)
}

/// Waits until something is so.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + CLUSTER_BOUND;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(250));
    }
}
