//! What must be true before the first task: the cluster lets us do what we need, and starts a Pod like a task's.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_lite::FutureExt;
use oz_worker_contract::query::escaped;
use oz_worker_core::time::Instant;
use oz_worker_runtime::Host;
use oz_worker_text::line::beginning;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::warn;

use super::cluster::{Call, Cluster};
use super::error::{ApiError, Tries};
use super::names::hash;
use super::objects::{ContainerStatus, Event, Items, Job, Pod};
use super::preflight;
use super::pulls;
use super::settings::KubernetesSettings;

/// How long the preflight may take.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a preflight that nobody removes may take, and how long it stays after it.
const LEFT_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to say that.
const PATCH_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked at when no change of it is told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same where changes cannot be watched.
const BLIND_INTERVAL: Duration = Duration::from_millis(250);
/// The longest text of the cluster's that is repeated, in characters.
const LONGEST_TEXT: usize = 500;

/// What a worker must be allowed to do: verb, group, resource.
const NEEDED: [(&str, &str, &str); 7] = [
    ("create", "batch", "jobs"),
    ("get", "batch", "jobs"),
    ("list", "batch", "jobs"),
    ("watch", "batch", "jobs"),
    ("delete", "batch", "jobs"),
    ("list", "", "pods"),
    ("watch", "", "pods"),
];
/// What it can do without, and what is then missing.
const WANTED: [(&str, &str, &str); 2] = [("list", "", "events"), ("get", "", "pods/log")];
/// What marks a Job.
const PATCH: (&str, &str, &str) = ("patch", "batch", "jobs");

/// The events of an object.
pub async fn events<R: Host>(cluster: &Cluster<R>, uid: &str) -> Result<Vec<Event>, ApiError> {
    let selector = escaped(&format!("involvedObject.uid={uid}"));
    let path = format!("{}?fieldSelector={selector}&limit=100", cluster.core("events"));
    cluster.once(&Call::get(path)).await.map(|Items { items }| items)
}

/// The Pods of a Job.
pub async fn pods<R: Host>(cluster: &Cluster<R>, job: &str) -> Result<Vec<Pod>, ApiError> {
    let selector = escaped(&format!("controller-uid={job}"));
    let path = format!("{}?labelSelector={selector}", cluster.core("pods"));
    cluster.ask(&Call::get(path)).await.map(|Items { items }| items)
}

/// Asks the API server whether we may do what we need, and says whether Jobs may be patched too.
///
/// # Errors
/// The first thing that is needed and not allowed, or why it cannot be asked.
pub async fn check_access<R: Host>(cluster: &Cluster<R>, namespace: &str) -> Result<bool, String> {
    let asked = NEEDED.iter().chain(&WANTED).chain([&PATCH]);
    let asked = asked.map(|(verb, group, resource)| may(cluster, namespace, verb, group, resource));
    let mut answers = all(asked.collect()).await.into_iter();
    // What is not told is taken for granted: the preflight will show it.
    let mut answer = || answers.next().unwrap_or(Ok(true));
    for (verb, _, resource) in NEEDED {
        if !answer()? {
            return Err(format!(
                "the worker may not {verb} {resource} in namespace {namespace}: its Role lacks that verb"
            ));
        }
    }
    for (verb, _, resource) in WANTED {
        if !answer()? {
            warn!("the worker may not {verb} {resource} in namespace {namespace}: failures will be told with less");
        }
    }
    let can_patch = answer()?;
    if !can_patch {
        warn!("{}", no_patch(namespace));
    }
    Ok(can_patch)
}

/// What is said where the Role is of a time before Jobs were taken up.
pub fn no_patch(namespace: &str) -> String {
    format!(
        "the worker may not patch jobs in namespace {namespace}: of Jobs that an earlier worker left, those that ended more \
         than 5 minutes ago are not told, and two workers of one id must not run at once; give its Role that verb"
    )
}

/// Calls until the server does not say any more that it cannot now. One that is not there at start is told at once.
async fn patiently<R: Host, T: DeserializeOwned>(
    cluster: &Cluster<R>,
    call: &Call,
    until: Instant,
) -> Result<T, ApiError> {
    let mut tries = Tries::new(cluster.runtime().now());
    loop {
        let error = match cluster.once(call).await {
            Err(error) if error.is_refusal_for_now() => error,
            result => return result,
        };
        match tries.next(cluster.runtime().now(), &error).filter(|at| *at < until) {
            Some(at) => cluster.runtime().sleep_until(at).await,
            None => return Err(error),
        }
    }
}

/// What all of these come to, side by side.
async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        for (future, result) in all.iter_mut().filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                *result = Some(value);
            }
        }
        if all.iter().all(|(_, result)| result.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, result)| result).collect()
}

async fn may<R: Host>(
    cluster: &Cluster<R>,
    namespace: &str,
    verb: &str,
    group: &str,
    resource: &str,
) -> Result<bool, String> {
    #[derive(Deserialize)]
    struct Review {
        status: Status,
    }
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        allowed: bool,
    }
    let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
    let asked = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes":
            {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": part}},
    });
    let call = Call::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &asked);
    match patiently(cluster, &call, cluster.runtime().now().plus(LIMIT)).await {
        Ok(Review { status }) => Ok(status.allowed),
        // Who may not even ask will learn it from the preflight.
        Err(ApiError::Status { status: 403 | 404, .. }) => Ok(true),
        Err(error) => Err(format!("cannot reach the cluster: {error}")),
    }
}

/// Lets the cluster start a Pod like a task's, and removes it. If this worker is killed meanwhile, the cluster removes it.
///
/// # Errors
/// What stands in the way, in one line.
pub async fn check_start<R: Host>(
    cluster: &Cluster<R>,
    settings: &KubernetesSettings,
    worker_id: &str,
    can_patch: bool,
) -> Result<(), String> {
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = preflight::name(&hash(worker_id), moment);
    let until = cluster.runtime().now().plus(LIMIT);
    let call = Call::post(cluster.jobs(), &preflight::description(settings, &name));
    let created: Result<Job, _> = cluster.within(LIMIT, cluster.ask(&call)).await;
    let job = created.map_err(|error| format!("the preflight Job cannot be created: {error}"))?;
    let path = cluster.job(&name);
    if can_patch {
        let left = LEFT_LIMIT.as_secs();
        let limits = json!({"spec": {"activeDeadlineSeconds": left, "ttlSecondsAfterFinished": left}});
        // Without them it is as good, as long as this worker lives.
        let _: Result<Value, _> = cluster.within(PATCH_LIMIT, cluster.once(&Call::patch(&path, &limits))).await;
    }
    let result = started(cluster, settings, &job, until).await;
    let deleted: Result<Value, _> = cluster.within(LIMIT, cluster.ask(&Call::delete(path, &delete_options()))).await;
    if let Err(error) = deleted
        && !error.is_missing()
    {
        warn!("cannot delete the preflight Job {name}: {error}");
    }
    result
}

/// Deletes an object and what was made for it.
pub fn delete_options() -> Value {
    json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"})
}

async fn started<R: Host>(
    cluster: &Cluster<R>,
    settings: &KubernetesSettings,
    job: &Job,
    until: Instant,
) -> Result<(), String> {
    let runtime = cluster.runtime();
    let selector = escaped(&format!("job-name={}", job.metadata.name));
    let path = format!("{}?labelSelector={selector}", cluster.core("pods"));
    let changes = Call::get(format!("{path}&watch=1&timeoutSeconds={}", 2 * LIMIT.as_secs())).at_once();
    let call = Call::get(path);
    let opened = cluster.within(until.since(runtime.now()), cluster.open(&changes)).await;
    let mut changes = opened.ok().filter(|opened| opened.status == 200);
    let image = &settings.preflight_image;
    let mut last;
    loop {
        let pods: Result<Items<Pod>, _> = patiently(cluster, &call, until).await;
        let pod = match pods {
            Ok(Items { items }) => items.into_iter().next(),
            Err(error) => return Err(format!("the preflight's Pod cannot be looked at: {error}")),
        };
        last = match &pod {
            None => "it got no Pod".to_owned(),
            Some(pod) => match look(pod, settings.use_image_volumes) {
                Look::Started => return Ok(()),
                Look::Never(problem) => return Err(explained(settings, &problem)),
                Look::NotYet(problem) => problem,
            },
        };
        if runtime.now() >= until {
            let uid = pod.map_or_else(|| job.metadata.uid.clone(), |pod| pod.metadata.uid);
            let all = events(cluster, &uid).await.unwrap_or_default();
            let said = all.iter().rfind(|event| event.is_warning());
            let said = said.map_or_else(String::new, |event| format!(": {}", beginning(&event.message, LONGEST_TEXT)));
            let limit = LIMIT.as_secs();
            return Err(format!("the preflight Job (image {image}) did not start within {limit} s: {last}{said}"));
        }
        let interval = if changes.is_some() { LOOK_INTERVAL } else { BLIND_INTERVAL };
        let late = runtime.sleep_until(runtime.now().plus(interval).min(until));
        let is_over = async {
            match &mut changes {
                // Whatever it tells, it is time for a look.
                Some(opened) => !matches!(opened.body.chunk().await, Ok(Some(_))),
                None => std::future::pending().await,
            }
        };
        let late = async {
            late.await;
            false
        };
        if is_over.or(late).await {
            changes = None;
        }
    }
}

fn explained(settings: &KubernetesSettings, problem: &str) -> String {
    let hint = if settings.use_image_volumes { "; does this cluster support image volumes?" } else { "" };
    format!("the preflight Job (image {}) failed: {problem}{hint}", settings.preflight_image)
}

/// What a look at the preflight's Pod shows.
enum Look {
    Started,
    Never(String),
    NotYet(String),
}

/// `must_end`: only how it ended shows whether the node mounted the image.
fn look(pod: &Pod, must_end: bool) -> Look {
    let statuses = || pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    let failed = statuses().find_map(|container| {
        let ended = container.state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        let message = beginning(&ended.message, LONGEST_TEXT);
        Some(format!("container {} exited with {} {message}", container.name, ended.exit_code))
    });
    if let Some(problem) = failed {
        return Look::Never(problem.trim_end().to_owned());
    }
    let has_started =
        |container: &ContainerStatus| container.state.running && !must_end || container.state.terminated.is_some();
    if pod.container("main").is_some_and(has_started) {
        return Look::Started;
    }
    if pod.status.phase == "Failed" {
        return Look::Never(beginning(&format!("{}: {}", pod.status.reason, pod.status.message), LONGEST_TEXT));
    }
    let waiting = statuses().filter_map(|container| container.state.waiting.as_ref());
    let worst = waiting
        .max_by_key(|waiting| (pulls::fault(&waiting.reason, &waiting.message, None).is_some(), waiting.message.len()));
    let unscheduled =
        pod.status.conditions.iter().find(|condition| condition.kind == "PodScheduled" && condition.status == "False");
    match (worst, unscheduled) {
        (Some(waiting), _) => Look::NotYet(beginning(&format!("{} {}", waiting.reason, waiting.message), LONGEST_TEXT)),
        (None, Some(condition)) => Look::NotYet(beginning(&condition.message, LONGEST_TEXT)),
        (None, None) => Look::NotYet("its Pod waits".to_owned()),
    }
}
