//! What may happen to a Job and its Pods, played second by second.

use super::*;

pub const LIMITS: Limits = Limits {
    image_pull_grace: Duration::from_secs(60),
    pod_start_timeout: Duration::from_secs(900),
    unschedulable_timeout: Duration::from_secs(30),
};

/// What happens, at a second counted from the Job's creation.
#[derive(Debug, Clone)]
pub enum Step {
    Pod(Value),
    PodGone(Option<Value>),
    Job(Value),
    JobGone,
}
pub use Step::{JobGone, PodGone};

pub fn seconds(at: u64) -> Instant {
    Instant::new(Duration::from_secs(at))
}

pub fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// A Pod of this phase on a node, with these statuses; `more` is laid over its status.
pub fn pod(phase: &str, task: Value, more: Value) -> Value {
    let mut status = json!({"phase": phase});
    if !task.is_null() {
        let proxy = if task.get("waiting").is_some() { waiting("PodInitializing", "") } else { json!({"running": {}}) };
        status["containerStatuses"] = json!([{"name": "proxy", "state": proxy}, {"name": "task", "state": task}]);
    }
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        status[key] = value;
    }
    json!({
        "metadata": {"name": "p", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n1", "initContainers": [{"name": "db", "restartPolicy": "Always"}]},
        "status": status,
    })
}

pub fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    object.pointer_mut(parent).expect("a parent")[key] = value;
    object
}

pub fn exited(code: i32, reason: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": "2026-01-01T00:01:00Z"}})
}

pub fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

pub fn deleted(pod: Value) -> Value {
    with(
        with(pod, "/metadata/deletionTimestamp", json!("2026-01-01T00:02:00Z")),
        "/metadata/deletionGracePeriodSeconds",
        json!(30),
    )
}

pub fn disrupted(pod: Value, since: &str) -> Value {
    let condition = json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": since}]);
    with(pod, "/status/conditions", condition)
}

pub fn unscheduled(message: &str) -> Value {
    let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]);
    with(with(pod("Pending", Value::Null, json!({})), "/status/conditions", condition), "/spec/nodeName", Value::Null)
}

pub fn job(conditions: &Value) -> Value {
    json!({"metadata": {"name": "j", "uid": "j1"}, "spec": {}, "status": {"conditions": conditions}})
}

pub fn job_failed(kind: &str, reason: &str) -> Value {
    job(
        &json!([{"type": kind, "status": "True", "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:30Z"}]),
    )
}

pub fn suspended() -> Value {
    with(job(&json!([])), "/spec/suspend", json!(true))
}

pub fn warning(reason: &str, message: &str) -> Event {
    Event { kind: "Warning".into(), reason: reason.into(), message: message.into(), ..Event::default() }
}

/// Plays steps, and lets time pass for an hour. What came of it, and at which second.
pub fn played(steps: &[(u64, Step)], events: &[Event]) -> (u64, Option<Ending>) {
    let mut verdict = Verdict::new(LIMITS, seconds(0));
    verdict.job(seconds(0), parsed(job(&json!([]))));
    let mut steps = steps.iter().peekable();
    let (mut asked, mut looks, mut job_looks, mut sights) = (0, 0, 0, 0);
    // Nothing was missed: what is read is what was seen.
    let mut there: Option<Pod> = None;
    for second in 0..3600 {
        let now = seconds(second);
        while let Some((_, step)) = steps.next_if(|(at, _)| *at == second) {
            sights += 1;
            if matches!(step, PodGone(_)) {
                there = None;
            }
            match step.clone() {
                Step::Pod(pod) => {
                    there = Some(parsed(pod.clone()));
                    verdict.pod(now, parsed(pod));
                }
                PodGone(None) => verdict.pod_gone(now, "u1", None),
                PodGone(Some(pod)) => {
                    let pod: Pod = parsed(pod);
                    verdict.pod_gone(now, &pod.metadata.uid.clone(), Some(pod));
                }
                Step::Job(job) => verdict.job(now, parsed(job)),
                JobGone => verdict.job_gone(now, None),
            }
        }
        loop {
            match verdict.look(now) {
                Next::End(ending) => return (second, Some(ending)),
                Next::Ask(_) => {
                    asked += 1;
                    assert!(asked <= 3, "asked too often");
                    verdict.events(events.to_vec());
                }
                Next::Look => {
                    looks += 1;
                    assert!(looks <= 1 + sights, "reads twice what nobody changed");
                    verdict.looked(now, there.clone().into_iter().collect());
                }
                Next::LookAtJob => {
                    job_looks += 1;
                    assert!(job_looks <= 1 + sights, "reads twice what nobody changed");
                    verdict.looked_at_job(now, None);
                }
                Next::Wait(until) => {
                    assert!(until.is_none_or(|until| until > now), "waits for what is past");
                    break;
                }
            }
        }
    }
    (3600, None)
}

/// The reason and exit code of a failure.
pub fn failure(ending: Option<&Ending>) -> Option<(FailureReason, i32, &str)> {
    match &ending?.outcome {
        Outcome::Failed(failure) => Some((failure.reason, failure.exit_code, failure.message.as_str())),
        _ => None,
    }
}

#[track_caller]
pub fn assert_fails(steps: &[(u64, Step)], events: &[Event], at: u64, reason: FailureReason, code: i32, text: &str) {
    let (second, ending) = played(steps, events);
    let (found, exit_code, message) = failure(ending.as_ref()).unwrap_or_else(|| panic!("{second}: {ending:?}"));
    assert_eq!((second, found, exit_code), (at, reason, code), "{message}");
    assert!(message.contains(text), "{message}");
}
