//! What workers ask of the API server, and what it answers: well, late, badly, or not at all.

use std::io;
use std::time::Duration;

use futures_lite::future::poll_once;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use serde_json::{Value, json};

use super::laws::Truth;
use super::plan::Plan;
use super::store::Kind;
use super::{Cluster, EXECUTION_ID, INSTANCE, TASK_ID};
use crate::engine::http::Request;
use crate::executor::Machine;
use crate::network::Stream;

/// How long it takes for what it does at once.
const TAKES: [Duration; 2] = [Duration::from_micros(10), Duration::from_millis(200)];
/// How long it works on a request: what takes longer is not done. (`--request-timeout` of kube-apiserver.)
const LONGEST: Duration = Duration::from_secs(60);
/// How a preflight's name begins.
const PREFLIGHT: &str = "oz-preflight-";
/// How long after its end was told what is under way may still start.
const UNDER_WAY: Duration = Duration::from_secs(10);
/// How many requests a task may need besides the watches.
const MOST_REQUESTS: u32 = 6;

/// An answer that is there at once.
pub struct Answer {
    status: u16,
    pub body: Value,
    retry_after: Option<u32>,
}

impl Answer {
    pub const fn ok(body: Value) -> Self {
        Self { status: 200, body, retry_after: None }
    }

    async fn write(&self, stream: &mut Stream) -> io::Result<()> {
        let body = self.body.to_string();
        let retry = self.retry_after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
        let (status, length) = (self.status, body.len());
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{retry}Content-Length: {length}\r\n\r\n");
        stream.write_all([head, body].concat().as_bytes()).await
    }
}

/// A refusal, in the API server's words.
pub fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message});
    Answer { status: code, body, retry_after: None }
}

fn missing(name: &str) -> Answer {
    status(404, "NotFound", &format!("jobs.batch \"{name}\" not found"))
}

impl Cluster {
    /// Takes one request of a worker and answers it.
    pub(super) async fn answer(&self, stream: &mut Stream, machine: Machine) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let deaths = self.deaths(machine);
        let mut request = Request::read(stream).await.ok_or_else(gone)?;
        let body = request.json(stream).await.ok_or_else(gone)?;
        let asked = self.executor.now();
        self.take_time().await;
        if let Some(Ok(0) | Err(_)) = poll_once(stream.read(&mut [0])).await {
            // Nobody waits for it any more.
            return Err(gone());
        }
        if self.executor.now() > asked + LONGEST {
            return status(504, "Timeout", "Timeout: request did not complete within the allotted timeout")
                .write(stream)
                .await;
        }
        let path = request.path.clone();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let kind = match path.as_slice() {
            ["apis", "batch", "v1", "namespaces", super::NAMESPACE, "jobs", ..] => Some(Kind::Job),
            ["api", "v1", "namespaces", super::NAMESPACE, "pods", ..] => Some(Kind::Pod),
            _ => None,
        };
        let is_watch = request.query("watch") == Some("1");
        let selector = request.query("labelSelector").unwrap_or_default().to_owned();
        let is_list = path.last().is_some_and(|last| ["jobs", "pods"].contains(last)) && request.method == "GET";
        if let Some(kind) = kind
            && is_list
            && !is_watch
            && request.query("continue").is_none()
            && selector.starts_with("oz-worker-hash")
        {
            self.note_list(machine, kind);
        }
        self.note_request(&path, &body, request.query("fieldSelector").unwrap_or(&selector));
        // A start takes a dozen requests, and is tried again after any that fails.
        self.state().requests += u32::from(!is_watch);
        let is_start = path.first() == Some(&"apis") && path.get(1) == Some(&"authorization.k8s.io");
        if let Some(trouble) = (!is_start).then(|| self.trouble()).flatten() {
            self.journal.note(|| format!("cluster: {} {:?} fails: {}", request.method, path.last(), trouble.status));
            return trouble.write(stream).await;
        }
        if let Some(kind) = kind.filter(|_| is_watch) {
            let version = request.query("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
            let length = request.query("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
            let is_forgotten = self.state().store.since(version).is_none();
            if is_forgotten && self.executor.chance(50) {
                return status(410, "Expired", "too old resource version").write(stream).await;
            }
            return self.watch(stream, kind, &selector, version, Duration::from_secs(length)).await;
        }
        let answer = match (request.method.as_str(), path.as_slice()) {
            ("POST", ["apis", "authorization.k8s.io", ..]) => Answer::ok(json!({"status": {"allowed": true}})),
            ("POST", [.., "jobs"]) => {
                self.is_let_go(stream).await?;
                let answer = self.create(&body, machine, deaths);
                self.is_answered(&answer).await?;
                answer
            }
            ("GET", [.., "jobs", name]) => match self.state().store.get(Kind::Job, name) {
                Some(job) => Answer::ok(job.clone()),
                None => missing(name),
            },
            ("DELETE", [.., "jobs", name]) => self.delete(name, &body),
            ("PATCH", [.., "jobs", name]) => self.patch(name, &body, machine),
            ("GET", [.., "jobs" | "pods"]) => {
                let limit = request.query("limit").and_then(|limit| limit.parse().ok());
                self.list(kind.unwrap_or(Kind::Pod), &selector, limit, request.query("continue"))
            }
            ("GET", [.., "pods", pod, "log"]) if self.state().store.get(Kind::Pod, pod).is_some() => {
                Answer::ok(json!("a line of the task's"))
            }
            ("GET", [.., "events"]) => {
                let uid = request.query("fieldSelector").and_then(|selector| selector.split_once('='));
                let events = uid.and_then(|(_, uid)| self.state().events.get(uid).cloned()).unwrap_or_default();
                Answer::ok(json!({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": events}))
            }
            _ => missing(path.last().unwrap_or(&"")),
        };
        if self.state().faulty && !is_start && self.executor.chance(3) {
            // It is done, and nobody hears of it.
            self.journal.note(|| format!("cluster: the answer to {} {:?} is lost", request.method, path.last()));
            return Err(gone());
        }
        answer.write(stream).await
    }

    /// What is wrong with the server instead of an answer.
    fn trouble(&self) -> Option<Answer> {
        if !self.state().faulty {
            return None;
        }
        let answer = match self.executor.random(|random| random.u32(..100)) {
            0..3 => status(500, "InternalError", "etcdserver: leader changed"),
            3..5 => status(503, "ServiceUnavailable", "the server is currently unable to handle the request"),
            5 => status(500, "InternalError", "failed calling webhook: context deadline exceeded"),
            6..9 => {
                let seconds = self.executor.random(|random| random.u32(1..20));
                Answer { retry_after: Some(seconds), ..status(429, "TooManyRequests", "please try again later") }
            }
            _ => return None,
        };
        Some(answer)
    }

    /// What everything takes, and longer now and then.
    pub(super) async fn take_time(&self) {
        let (faulty, until) = {
            let state = self.state();
            (state.faulty, state.hangs_until)
        };
        let longest = if faulty && self.executor.chance(2) { Duration::from_secs(80) } else { TAKES[1] };
        self.executor.sleep(self.executor.duration(TAKES[0], longest)).await;
        self.executor.sleep_until(until).await;
    }

    fn create(&self, body: &Value, machine: Machine, deaths: u32) -> Answer {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, annotations) = (text(&body["metadata"]["name"]), &body["metadata"]["annotations"]);
        let (task, execution) = (text(&annotations[TASK_ID]), text(&annotations[EXECUTION_ID]));
        let of = (!name.starts_with(PREFLIGHT)).then(|| (task.clone(), execution.clone()));
        let is_rough = self.state().rough;
        let length = self.state().creations.length;
        let plan = match &of {
            Some(_) if length.is_some() => Plan::calm(Duration::from_secs(1), length),
            Some(_) => Plan::draw(&self.executor, is_rough),
            None => Plan::calm(Duration::from_millis(100), Some(Duration::from_millis(100))),
        };
        let is_suspended = is_rough && of.is_some() && self.executor.chance(8);
        let mut job = body.clone();
        job["status"] = json!({});
        if is_suspended {
            // A queue holds it back.
            job["spec"]["suspend"] = true.into();
        }
        let moment = self.moment();
        let made = self.state().store.create(Kind::Job, &name, job, &moment);
        let Some(made) = made else {
            let is_foreign = self
                .state()
                .store
                .get(Kind::Job, &name)
                .is_some_and(|there| there["metadata"]["annotations"][EXECUTION_ID] != execution.as_str());
            self.truths.note(&execution, |truth| truth.is_name_taken |= is_foreign);
            return status(409, "AlreadyExists", &format!("jobs.batch \"{name}\" already exists"));
        };
        let uid = text(&made["metadata"]["uid"]);
        if let Some((_, execution)) = &of {
            self.journal.note(|| format!("cluster: Job {name} of {execution}: {plan:?}, suspended: {is_suspended}"));
            let is_orphan = self.deaths(machine) != deaths;
            let mut is_anew = false;
            let jobs = self.truths.note(execution, |truth| {
                // Nobody knows of the Job that there was before: its worker is gone, or somebody deleted it while the answer was
                // lost.
                is_anew = truth.is_orphan || (truth.is_removed && truth.is_disturbed);
                if is_anew {
                    let Truth { is_orphan, claimed, given, .. } = std::mem::take(truth);
                    *truth = Truth { is_orphan, claimed, given, is_disturbed: true, ..Truth::default() };
                }
                truth.is_orphan |= is_orphan;
                truth.holder = Some(machine);
                truth.job.clone_from(&uid);
                truth.jobs += 1;
                if truth.is_orphan { 0 } else { truth.jobs }
            });
            if is_anew {
                self.callers().iter().for_each(|caller| caller.watch.begins_anew(execution));
            }
            if jobs > 1 {
                self.watch.violate(format!("{execution} has a second Job"));
            }
            if !self.callers().iter().any(|caller| caller.watch.was_claimed(execution)) {
                self.watch.violate(format!("there is a Job of {execution}, which was not claimed"));
            }
        }
        self.begin(&uid, Self::life(&name, of, false, plan));
        if is_suspended {
            self.resume_later(&uid);
        }
        Answer { status: 201, ..Answer::ok(made) }
    }

    fn delete(&self, name: &str, options: &Value) -> Answer {
        let found = {
            let state = self.state();
            let uid =
                state.store.get(Kind::Job, name).and_then(|job| job["metadata"]["uid"].as_str().map(str::to_owned));
            uid.map(|uid| {
                let is_foreign = state.lives.get(&uid).is_some_and(|life| life.is_foreign);
                (uid, is_foreign)
            })
        };
        let Some((uid, is_foreign)) = found else { return missing(name) };
        let wanted = &options["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != uid.as_str() {
            return status(409, "Conflict", "the UID in the precondition does not match the UID in record");
        }
        if is_foreign {
            self.watch.violate(format!("a worker deletes Job {name}, which is somebody else's"));
        }
        if options["propagationPolicy"] != "Background" {
            self.watch.violate(format!("Job {name} is deleted without its Pod"));
        }
        self.journal.note(|| format!("cluster: {} is deleted", self.name_of(&uid)));
        self.remove_job(&uid);
        Answer::ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }

    /// Lays annotations over a Job, if it is still what whoever asks has seen.
    fn patch(&self, name: &str, patch: &Value, machine: Machine) -> Answer {
        let Some(job) = self.state().store.get(Kind::Job, name).cloned() else { return missing(name) };
        let seen = &patch["metadata"]["resourceVersion"];
        if !seen.is_null() && *seen != job["metadata"]["resourceVersion"] {
            return status(
                409,
                "Conflict",
                "the object has been modified; please apply your changes to the latest version",
            );
        }
        let Some(uid) = job["metadata"]["uid"].as_str() else { return missing(name) };
        if !patch["metadata"]["uid"].is_null() && patch["metadata"]["uid"] != uid {
            return status(409, "Conflict", "the UID in the precondition does not match the UID in record");
        }
        if self.state().lives.get(uid).is_some_and(|life| life.is_foreign) {
            self.watch.violate(format!("a worker changes Job {name}, which is somebody else's"));
        }
        if !patch["metadata"]["annotations"][INSTANCE].is_null() {
            self.journal.note(|| format!("cluster: {} is taken up", self.name_of(uid)));
            let of = self.state().lives.get(uid).and_then(|life| life.of.clone());
            if let Some((task, execution)) = of {
                self.taken_up(&task, &execution, machine);
            }
        }
        self.update(uid, Kind::Job, |job| {
            for (name, value) in patch["metadata"]["annotations"].as_object().into_iter().flatten() {
                job["metadata"]["annotations"][name] = value.clone();
            }
        });
        let job = self.state().store.get(Kind::Job, name).cloned();
        job.map_or_else(|| missing(name), Answer::ok)
    }

    /// What a Job is of, for the trace. Names of preflights hold the true time, which the seed does not know.
    pub(super) fn name_of(&self, uid: &str) -> String {
        let state = self.state();
        let life = state.lives.get(uid);
        match life.map(|life| (&life.of, life.is_foreign, &life.name)) {
            Some((Some((_, execution)), ..)) => format!("the Job of {execution}"),
            Some((None, true, name)) => name.clone(),
            _ => "a preflight".to_owned(),
        }
    }

    /// Law: a task needs few requests.
    fn note_request(&self, path: &[&str], body: &Value, selector: &str) {
        let execution = {
            let state = self.state();
            let named = |name: &str| {
                let is_it = |life: &&super::Life| life.name == name || life.pod == name;
                state.lives.values().find(is_it).and_then(|life| Some(life.of.clone()?.1))
            };
            let by_uid = |uid: &str| {
                let is_pods = |pod: &super::Life| {
                    state.store.get(Kind::Pod, &pod.pod).is_some_and(|pod| pod["metadata"]["uid"] == uid)
                };
                let life = state.lives.get(uid).or_else(|| state.lives.values().find(|life| is_pods(life)));
                life.and_then(|life| Some(life.of.clone()?.1))
            };
            match path {
                [.., "jobs"] => body["metadata"]["annotations"][EXECUTION_ID].as_str().map(str::to_owned),
                [.., "jobs", name] | [.., "pods", name, "log"] => named(name),
                [.., "events" | "pods"] => selector.split_once('=').and_then(|(_, uid)| by_uid(uid)),
                _ => None,
            }
        };
        let Some(execution) = execution else { return };
        let is_look = path.last() == Some(&"pods");
        let truth = self.truths.note(&execution, |truth| {
            truth.looked = if is_look { Some(self.executor.now()) } else { truth.looked };
            truth.requests += 1;
            truth.clone()
        });
        if truth.requests > MOST_REQUESTS && !truth.is_disturbed && !self.state().faulty {
            let last = path.last().copied().unwrap_or_default();
            self.watch.violate(format!("{execution} takes {} requests, the last for {last}", truth.requests));
        }
    }

    /// Laws: a task starts once, while its worker holds a slot for it, and not after its end was told.
    pub(super) fn check_start(&self, task: &str, execution: &str, truth: &Truth) {
        let watch = self.watch_of(truth.holder);
        if truth.starts > 1 && !truth.is_orphan {
            self.watch.violate(format!("{execution} starts a second time on the cluster"));
        }
        match &truth.told {
            Some((at, reason)) => {
                let is_late = self.executor.now() > *at + UNDER_WAY && !truth.is_disturbed;
                if is_late && !truth.is_orphan && !truth.is_shared {
                    self.watch.violate(format!("{execution} starts although it is told to have ended by {reason}"));
                }
            }
            // Who is asked twice to leave waits for no answer.
            None if truth.is_orphan || truth.is_taken_up || watch.is_stopping() => {}
            None => watch.started(crate::process::Kind::Agent, task, execution),
        }
    }
}
