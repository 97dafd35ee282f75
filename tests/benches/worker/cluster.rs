//! What a worker needs of an API server, and nothing behind it: every Job gets a Pod that runs until it is told to end.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

const MOMENT: &str = "2026-01-01T00:00:00Z";
/// As much as a real one keeps of who set which field.
const MANAGED_FIELDS: usize = 3000;

/// An API server on this machine.
pub struct Cluster {
    server: Arc<Server>,
    state: Arc<Mutex<State>>,
    calls: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    version: u64,
    jobs: BTreeMap<String, Value>,
    /// Who watches Jobs, and who Pods.
    watching: [Vec<Box<dyn Write + Send>>; 2],
}

#[derive(Clone, Copy)]
enum Kind {
    Jobs,
    Pods,
}

impl Cluster {
    pub fn start() -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
        let (state, calls) = (Arc::<Mutex<State>>::default(), Arc::<AtomicUsize>::default());
        let (serving, to, counted) = (Arc::clone(&server), Arc::clone(&state), Arc::clone(&calls));
        thread::spawn(move || {
            for request in serving.incoming_requests() {
                counted.fetch_add(1, Ordering::Relaxed);
                answer(&mut lock(&to), request);
            }
        });
        Self { server, state, calls }
    }

    /// A kubeconfig for it, as JSON.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.server.server_addr())}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        config.to_string()
    }

    /// How often it was called so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many Jobs there are.
    pub fn jobs(&self) -> usize {
        lock(&self.state).jobs.len()
    }

    /// Lets the Pods of all Jobs exit 0.
    pub fn end_all(&self) {
        let mut state = lock(&self.state);
        let jobs: Vec<Value> = state.jobs.values().cloned().collect();
        for job in jobs {
            let version = state.next();
            let pod = pod(&job, version, &json!({"terminated": {"exitCode": 0, "finishedAt": MOMENT}}));
            state.tell(Kind::Pods, "MODIFIED", &pod);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.unblock();
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn tell(&mut self, kind: Kind, what: &str, object: &Value) {
        let event = format!("{}\n", json!({"type": what, "object": object}));
        self.watching[kind as usize].retain_mut(|watching| {
            write!(watching, "{:x}\r\n{event}\r\n", event.len()).and_then(|()| watching.flush()).is_ok()
        });
    }

    fn create(&mut self, mut job: Value) -> Value {
        let version = self.next();
        let metadata = &mut job["metadata"];
        metadata["uid"] = format!("uid-{version}").into();
        metadata["resourceVersion"] = version.to_string().into();
        metadata["creationTimestamp"] = MOMENT.into();
        metadata["managedFields"] = "x".repeat(MANAGED_FIELDS).into();
        let name = job["metadata"]["name"].as_str().unwrap().to_owned();
        if !name.starts_with("oz-preflight") {
            self.tell(Kind::Jobs, "ADDED", &job);
            let version = self.next();
            let running = json!({"running": {"startedAt": MOMENT}});
            self.tell(Kind::Pods, "ADDED", &pod(&job, version, &running));
            self.jobs.insert(name, job.clone());
        }
        job
    }

    fn delete(&mut self, name: &str) {
        if let Some(job) = self.jobs.remove(name) {
            let version = self.next();
            let ended = json!({"terminated": {"exitCode": 0, "finishedAt": MOMENT}});
            self.tell(Kind::Pods, "DELETED", &pod(&job, version, &ended));
            self.tell(Kind::Jobs, "DELETED", &job);
        }
    }
}

/// The Pod of a Job; `task` is the state of its containers.
fn pod(job: &Value, version: u64, task: &Value) -> Value {
    let (metadata, template) = (&job["metadata"], &job["spec"]["template"]);
    let mut labels = template["metadata"]["labels"].clone();
    labels["batch.kubernetes.io/controller-uid"] = metadata["uid"].clone();
    let statuses = |list: &str, state: &Value| {
        let containers = template["spec"][list].as_array().cloned().unwrap_or_default();
        let status = |container: &Value| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "sha256:0", "restartCount": 0,
                "ready": true, "started": true, "state": state, "lastState": {},
            })
        };
        containers.iter().map(status).collect::<Vec<_>>()
    };
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions = conditions.map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": MOMENT}));
    let mut spec = template["spec"].clone();
    spec["nodeName"] = "node-1".into();
    json!({
        "metadata": {
            "name": format!("{}-abcde", metadata["name"].as_str().unwrap()),
            "uid": format!("pod-of-{}", metadata["uid"].as_str().unwrap()),
            "resourceVersion": version.to_string(),
            "creationTimestamp": MOMENT,
            "labels": labels,
            "annotations": template["metadata"]["annotations"],
            "managedFields": "x".repeat(MANAGED_FIELDS),
        },
        "spec": spec,
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "initContainerStatuses": statuses("initContainers", &json!({"terminated": {"exitCode": 0}})),
            "containerStatuses": statuses("containers", task),
        },
    })
}

fn answer(state: &mut State, mut request: Request) {
    let mut body = String::new();
    request.as_reader().read_to_string(&mut body).unwrap();
    let body: Value = body.parse().unwrap_or_default();
    let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let last = path.rsplit('/').next().unwrap_or_default();
    let reply = match (request.method(), last) {
        (Method::Get, kind @ ("jobs" | "pods")) if query.contains("watch=") => {
            let mut writer = request.into_writer();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            writer.write_all(head.as_bytes()).and_then(|()| writer.flush()).unwrap();
            let kind = if kind == "jobs" { Kind::Jobs } else { Kind::Pods };
            return state.watching[kind as usize].push(writer);
        }
        (Method::Get, "pods") if query.contains("job") => {
            let main = json!({"name": "main", "state": {"terminated": {"exitCode": 0}}});
            json!({"items": [{"metadata": {"uid": "p"}, "status": {"containerStatuses": [main]}}]})
        }
        (Method::Get, "jobs" | "pods") => {
            json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": []})
        }
        (Method::Post, "selfsubjectaccessreviews") => json!({"status": {"allowed": true}}),
        (Method::Post, "jobs") => state.create(body),
        (Method::Delete, name) => {
            state.delete(name);
            json!({"status": "Success"})
        }
        (Method::Patch, name) => state.jobs.get(name).cloned().unwrap_or_default(),
        _ => json!({"items": []}),
    };
    let json = Header::from_bytes("Content-Type", "application/json").unwrap();
    let _ = request.respond(Response::from_string(reply.to_string()).with_header(json));
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
