//! The backend kubernetes beside what a real cluster does by itself: how long a start takes with the preflight in it, and how
//! soon the end of a task is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    BOUND,
    message::Assignment,
    peers::kubernetes::{self, Cluster, IMAGE},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{
    Effort, http,
    report::{self, Report, Row, Samples, millis, times},
    scene::{Launch, Scene},
    wire::{is_claim, is_success, text_frame},
};

const NAMESPACE: &str = "bench";
/// How many tasks run at the same time.
const AT_ONCE: usize = 4;

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("pods: a real Kubernetes of one node");
    let Some(cluster) = Cluster::up(&[]) else { return report::note("not measured: no Kubernetes") };
    cluster.namespace(NAMESPACE);
    let plain = cluster.plain();
    starts(report, effort, &cluster, plain.address);
    ends(report, effort, &cluster, plain.address);
}

fn launch(cluster: &Cluster) -> Launch {
    let keys = json!({
        "namespace": NAMESPACE, "kubeconfig": cluster.kubeconfig, "default_image": IMAGE,
        "pod_template": kubernetes::template(),
    });
    Launch::with(&json!({"kubernetes": keys}), 0)
}

/// A start, from the process to its upgrade request, beside a Job like the preflight's, from its creation until its Pod runs.
fn starts(report: &mut Report, effort: Effort, cluster: &Cluster, api: SocketAddr) {
    let model = Events::of(api, "/apis/batch/v1", "jobs", "");
    start(cluster);
    let description = model.next(|job| {
        let name = job["metadata"]["name"].as_str()?;
        name.starts_with("oz-preflight-").then(|| job["spec"]["template"]["spec"].clone())
    });
    let (mut workers, mut pods) = (Vec::new(), Vec::new());
    for number in 0..effort.pick(20, 5) {
        workers.push(start(cluster));
        pods.push(start_of_a_pod(api, &format!("like-a-preflight-{number}"), &description));
    }
    let (workers, pods) = (Samples::new(workers), Samples::new(pods));
    let ratio = times(workers.median(), pods.median());
    Row::new("start to connected, with the preflight, median", millis(workers.median()))
        .beside("such a Pod, from its Job to its start", &millis(pods.median()), ratio)
        .at_most(ratio, 1.2, " ×")
        .print(report);
}

/// How long a worker takes until it asks for its connection.
fn start(cluster: &Cluster) -> Duration {
    let mut scene = launch(cluster).start();
    let took = scene.to_request;
    // One that is stopped before it has read the answer to its request hangs up.
    scene.peer.sync();
    scene.stop(|| ());
    took
}

fn start_of_a_pod(api: SocketAddr, name: &str, pod: &Value) -> Duration {
    let events = Events::of(api, "/api/v1", "pods", &format!("&labelSelector=job-name={name}"));
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}}});
    let jobs = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs");
    let start = Instant::now();
    call(api, "POST", &jobs, &job.to_string());
    events.next(|pod| {
        let state = state(pod, "main")?;
        (state["running"].is_object() || state["terminated"].is_object()).then_some(())
    });
    let took = start.elapsed();
    call(api, "DELETE", &format!("{jobs}/{name}?propagationPolicy=Background"), "");
    took
}

/// How soon the end of a container is told, and how soon the cluster says it. `finishedAt` has whole seconds, so each container
/// writes down when it is about to exit, by the clock that it shares with this machine.
fn ends(report: &mut Report, effort: Effort, cluster: &Cluster, api: SocketAddr) {
    let mut scene = launch(cluster).start();
    let events = Events::of(api, "/api/v1", "pods", "");
    let count = effort.pick(100, 20);
    let mut told = BTreeMap::new();
    (0..AT_ONCE).for_each(|number| assign(&mut scene, number));
    let mut next = AT_ONCE;
    while told.len() < count {
        let text = scene.peer.text().to_owned();
        let now = since_boot();
        assert!(is_claim(&text) || is_success(&text), "{}", String::from_utf8_lossy(&text));
        if is_success(&text) {
            let message: Value = serde_json::from_slice(&text).unwrap();
            told.insert(message["data"]["task_id"].as_str().unwrap().to_owned(), now);
            if next < count {
                assign(&mut scene, next);
                next += 1;
            }
        }
    }
    let (mut to_message, mut to_event, mut after_event) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let (task, ended, at) = events.next_seen(|pod, at| {
            let ended = state(pod, "task")?["terminated"]["message"].as_str()?.trim().parse().ok()?;
            let task = pod["metadata"]["labels"]["oz-task-id"].as_str()?.to_owned();
            (!seen.contains(&task)).then(|| (task, Duration::from_secs_f64(ended), at))
        });
        seen.insert(task.clone());
        to_message.push(told[&task].saturating_sub(ended));
        to_event.push(at.saturating_sub(ended));
        after_event.push(told[&task].saturating_sub(at));
    }
    scene.stop(|| ());
    let [to_message, to_event, after_event] = [to_message, to_event, after_event].map(Samples::new);
    let [message, event] = [&to_message, &to_event].map(|samples| samples.percentile(95));
    Row::new("end of a container to its message, p95", millis(message))
        .beside("to the cluster's own word of it", &millis(event), times(message, event))
        .at_most(message.as_secs_f64(), 1.0, " s")
        .print(report);
    report::note(&format!(
        "medians {} and {}; from the cluster's word to the message: p50 {}, p95 {}",
        millis(to_message.median()),
        millis(to_event.median()),
        millis(after_event.median()),
        millis(after_event.percentile(95))
    ));
}

/// Assigns a task that ends at any moment of the kubelet's periods, and says in its termination message when that is.
fn assign(scene: &mut Scene, number: usize) {
    let script = format!("sleep 0.{:02}; cut -d' ' -f1 /proc/uptime > /dev/termination-log", number * 37 % 100);
    let task = Assignment::new(&format!("end-{number}")).run(&script);
    scene.peer.write(&text_frame(&task.as_ref().to_string()));
}

/// By the clock of `/proc/uptime`.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap()
}

/// The state of a Pod's container.
fn state<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let mut all = pod["status"]["containerStatuses"].as_array()?.iter();
    all.find(|status| status["name"] == container).map(|status| &status["state"])
}

fn call(api: SocketAddr, method: &str, path: &str, body: &str) {
    http::call(TcpStream::connect(api).unwrap(), method, path, body).unwrap();
}

/// What a watch of our own tells.
struct Events(Receiver<(Value, Duration)>);

impl Events {
    /// Every change of the objects at `path` in the namespace, from now on.
    fn of(api: SocketAddr, group: &str, kind: &str, selector: &str) -> Self {
        let mut connection = TcpStream::connect(api).unwrap();
        let path = format!("{group}/namespaces/{NAMESPACE}/{kind}?watch=1{selector}");
        http::ask(&mut connection, "GET", &path, "").unwrap();
        connection.flush().unwrap();
        let (sender, receiver) = mpsc::channel();
        let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
        // The head: the API server has begun.
        assert!(lines.next().is_some_and(|line| line.contains(" 200 ")), "no watch of {kind}");
        thread::spawn(move || {
            let objects = lines.filter_map(|line| {
                let mut event: Value = serde_json::from_str(&line).ok()?;
                Some((event["object"].take(), since_boot()))
            });
            for object in objects {
                if sender.send(object).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    /// The first that is it.
    fn next<T>(&self, is_it: impl Fn(&Value) -> Option<T>) -> T {
        self.next_seen(|object, _| is_it(object))
    }

    /// The same, with the moment at which it came.
    fn next_seen<T>(&self, is_it: impl Fn(&Value, Duration) -> Option<T>) -> T {
        loop {
            let (object, at) = self.0.recv_timeout(BOUND).expect("the cluster says something");
            if let Some(found) = is_it(&object, at) {
                return found;
            }
        }
    }
}
