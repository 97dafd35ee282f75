//! Which end it was: every way a task can end on a cluster, with statuses as a real one gave them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod play;
mod pods;
mod reads;
mod recorded;

use play::*;

/// When the task's container ended.
const FINISHED_AT: &str = "/status/containerStatuses/1/state/terminated/finishedAt";

#[test]
fn the_result_is_the_tasks_whatever_other_containers_do() {
    for (task, more) in [
        (exited(0, "Completed"), json!({})),
        (exited(0, "OOMKilled"), json!({})),
        // A native sidecar was killed at the end.
        (exited(0, "Completed"), json!({"initContainerStatuses": [{"name": "db", "state": exited(137, "Error")}]})),
        (Value::Null, json!({"phase": "Succeeded"})),
    ] {
        let is_oom = task.to_string().contains("OOMKilled");
        let (at, ending) = played(&[(9, Step::Pod(pod("Running", task, more)))], &[]);
        let ending = ending.expect("an end");
        assert_eq!((at, &ending.outcome), (9, &Outcome::Completed));
        assert_eq!(ending.warning.is_some(), is_oom);
    }
    for (task, reason, code) in [
        (exited(3, "Error"), FailureReason::ContainerExit, 3),
        (exited(128, "StartError"), FailureReason::ContainerExit, 128),
        (exited(137, "Error"), FailureReason::ContainerExit, 137),
        (exited(137, "OOMKilled"), FailureReason::ContainerOom, 137),
    ] {
        assert_fails(&[(9, Step::Pod(pod("Running", task, json!({}))))], &[], 9, reason, code, "Pod p");
    }
}

#[test]
fn a_disruption_is_no_exit_and_the_condition_alone_ends_nothing() {
    let running = || pod("Running", json!({"running": {}}), json!({}));
    let stopped = |code| pod("Failed", exited(code, "Error"), json!({}));
    let (early, late) = ("2026-01-01T00:00:50Z", "2026-01-01T00:01:10Z");
    let (_, ending) = played(&[(9, Step::Pod(disrupted(running(), early)))], &[]);
    assert_eq!(ending, None);
    let evicted = FailureReason::Evicted;
    let text = "EvictionByEvictionAPI: Eviction API: evicting";
    assert_fails(&[(9, Step::Pod(deleted(disrupted(stopped(143), early))))], &[], 9, evicted, 0, text);
    // It had exited before.
    let before = deleted(disrupted(stopped(4), late));
    assert_fails(&[(9, Step::Pod(before)), (9, JobGone)], &[], 9, FailureReason::ContainerExit, 4, "");
    let (_, ending) = played(&[(9, Step::Pod(deleted(disrupted(stopped(0), early))))], &[]);
    assert_eq!(ending.map(|ending| ending.outcome), Some(Outcome::Completed));
    // Storage, shutdown of a node: the kubelet says so.
    let storage =
        pod("Failed", exited(137, "Error"), json!({"reason": "Evicted", "message": "The node was low on resource"}));
    assert_fails(&[(9, Step::Pod(storage))], &[], 9, evicted, 0, "Evicted: The node was low on resource");
    // A lost node never says how it ended.
    let lost = deleted(disrupted(running(), early));
    assert_fails(&[(9, Step::Pod(lost.clone()))], &[], 49, evicted, 0, "");
    assert_fails(&[(9, Step::Pod(lost.clone())), (12, PodGone(None))], &[], 12, evicted, 0, "");
    assert_fails(&[(9, Step::Pod(running())), (12, PodGone(Some(lost)))], &[], 12, evicted, 0, "");
}

#[test]
fn what_the_kubelet_refuses_fails_at_once() {
    for reason in ["OutOfcpu", "UnexpectedAdmissionError", "NodeAffinity"] {
        let refused = pod("Failed", Value::Null, json!({"reason": reason, "message": "Pod was rejected"}));
        let text = format!("{reason}: Pod was rejected");
        assert_fails(&[(1, Step::Pod(refused))], &[], 1, FailureReason::JobFailed, 0, &text);
    }
    // Without a reason it is its own failure too, if nobody takes it away; with one it is its own in any case.
    let failed = |more| pod("Failed", Value::Null, more);
    assert_fails(&[(1, Step::Pod(failed(json!({}))))], &[], 1, FailureReason::JobFailed, 0, "Pod p (Failed)");
    let leaving = deleted(failed(json!({"reason": "Evicted", "message": "disk"})));
    assert_fails(&[(1, Step::Pod(leaving))], &[], 1, FailureReason::Evicted, 0, "Evicted: disk");
}

#[test]
fn an_init_container_that_fails_is_told_with_its_code() {
    let init = json!({"initContainerStatuses": [
        {"name": "copy-sidecar-0", "state": exited(0, "Completed")}, {"name": "setup", "state": exited(9, "Error")}]});
    let failed = pod("Pending", waiting("PodInitializing", ""), init);
    assert_fails(&[(2, Step::Pod(failed))], &[], 2, FailureReason::InitContainer, 9, "setup");
}

#[test]
fn images_fail_at_once_soon_or_after_their_grace() {
    let image = |reason: &str, message: &str| pod("Pending", waiting(reason, message), json!({}));
    for (state, at, reason) in [
        (image("InvalidImageName", "couldn't parse image name"), 4, FailureReason::InvalidImage),
        (image("ErrImageNeverPull", "not present"), 4, FailureReason::ImagePull),
        (image("ErrImagePull", "h/x:1: not found"), 18, FailureReason::ImagePull),
        (image("ErrImagePull", "dial tcp 127.0.0.1:1: connect: connection refused"), 64, FailureReason::ImagePull),
        (image("ImagePullBackOff", "Back-off pulling image"), 64, FailureReason::ImagePull),
    ] {
        assert_fails(&[(4, Step::Pod(state))], &[], at, reason, 0, "container task");
    }
    let sidecar = json!({"initContainerStatuses": [{"name": "copy-sidecar-0", "state": waiting("ErrImagePull", "x: not found")}]});
    let sidecar = pod("Pending", waiting("PodInitializing", ""), sidecar);
    assert_fails(&[(1, Step::Pod(sidecar))], &[], 18, FailureReason::ImagePull, 0, "copy-sidecar-0");
    // It was there at the second try.
    let steps = [
        (2, Step::Pod(image("ErrImagePull", "x: not found"))),
        (15, Step::Pod(image("ImagePullBackOff", "Back-off"))),
        (17, Step::Pod(pod("Running", json!({"running": {}}), json!({})))),
    ];
    assert_eq!(played(&steps, &[]).1, None);
    // Another container's image does not matter once the task runs.
    let mut other = pod("Pending", json!({"running": {}}), json!({}));
    other["status"]["containerStatuses"][0]["state"] = waiting("ErrImagePull", "x: not found");
    assert_eq!(played(&[(1, Step::Pod(other))], &[]).1, None);
}

#[test]
fn what_a_container_needs_may_come_a_moment_later_but_not_never() {
    let configured = |message: &str| pod("Pending", waiting("CreateContainerConfigError", message), json!({}));
    let missing = configured("secret \"s\" not found");
    assert_fails(&[(1, Step::Pod(missing))], &[], 18, FailureReason::ContainerCreate, 0, "secret \"s\" not found");
    // What is refused for another reason may be mended from outside.
    let as_root = "container has runAsNonRoot and image will run as root";
    let steps = [(1, Step::Pod(configured(as_root)))];
    assert_fails(&steps, &[warning("Failed", as_root)], 901, FailureReason::ContainerCreate, 0, as_root);
    let creating = pod("Pending", waiting("ContainerCreating", ""), json!({}));
    let steps = [(1, Step::Pod(creating.clone()))];
    let secret = warning("FailedMount", "MountVolume.SetUp failed for volume \"s\" : secret \"absent\" not found");
    assert_fails(
        &steps,
        std::slice::from_ref(&secret),
        18,
        FailureReason::VolumeMount,
        0,
        "secret \"absent\" not found",
    );
    // The Secret came, and the image takes its time.
    let pulling = Event { kind: "Normal".into(), reason: "Pulling".into(), ..Event::default() };
    let waited = FailureReason::ContainerCreate;
    assert_fails(&steps, &[secret, pulling], 901, waited, 0, "no container started within 15m");
    let cache = warning("FailedMount", "failed to sync configmap cache: timed out waiting for the condition");
    assert_fails(&steps, &[cache], 901, FailureReason::VolumeMount, 0, "failed to sync configmap cache");
    let sandbox = warning("FailedCreatePodSandBox", "plugin type=\"cni\" failed");
    assert_fails(&steps, &[sandbox], 901, waited, 0, "FailedCreatePodSandBox");
    let claim = unscheduled("0/1 nodes are available: persistentvolumeclaim \"data\" not found.");
    assert_fails(&[(1, Step::Pod(claim))], &[], 18, FailureReason::VolumeMount, 0, "\"data\" not found");
}

#[test]
fn a_pod_without_a_node_and_a_job_without_a_pod_wait_for_their_time() {
    let reason = FailureReason::Unschedulable;
    let full = unscheduled("0/3 nodes are available: 3 Insufficient cpu.");
    let steps = [(2, Step::Pod(full.clone()))];
    let (at, ending) = played(&steps, &[]);
    assert_eq!((at, ending.as_ref().map(|ending| ending.gives_up)), (32, Some(true)));
    let scaling = Event { kind: "Normal".into(), reason: "TriggeredScaleUp".into(), ..Event::default() };
    assert_fails(&steps, &[scaling], 32, reason, 0, "a longer unschedulable_timeout");
    assert_fails(&steps, &[warning("Odd", "taint")], 32, reason, 0, "; last events: Odd: taint");
    // While a node is made free for it, the clock stands still.
    let nominated = with(full.clone(), "/status/nominatedNodeName", json!("n2"));
    let steps = [(2, Step::Pod(full.clone())), (12, Step::Pod(nominated)), (100, Step::Pod(full.clone()))];
    assert_fails(&steps, &[], 120, reason, 0, "Insufficient cpu");
    let quota = warning("FailedCreate", "pods \"x\" is forbidden: exceeded quota: q");
    assert_fails(&[], std::slice::from_ref(&quota), 33, reason, 0, "exceeded quota");
    // That its Job is told again changes nothing.
    let again = [(10, Step::Job(job(&json!([])))), (20, Step::Job(job(&json!([]))))];
    assert_fails(&again, std::slice::from_ref(&quota), 33, reason, 0, "exceeded quota");
    assert_fails(&again, &[], 900, reason, 0, "the cluster made no Pod");
    // Anything else that is said of it does not keep it from getting one.
    let others = [warning("Odd", "x"), Event { kind: "Normal".into(), ..warning("FailedCreate", "x") }];
    assert_fails(&[], &others, 900, reason, 0, "the cluster made no Pod");
    // Nor is a Pod stuck that is held back, or has its place.
    for condition in [
        json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}),
        json!({"type": "PodScheduled", "status": "True", "reason": "Unschedulable"}),
        json!({"type": "Odd", "status": "False", "reason": "Unschedulable"}),
    ] {
        let waits = with(full.clone(), "/status/conditions", json!([condition]));
        assert_eq!(played(&[(2, Step::Pod(waits))], &[]).1, None, "{condition}");
    }
    // Suspended, it needs no Pod.
    let steps = [(0, Step::Job(suspended())), (90, Step::Job(job(&json!([]))))];
    assert_fails(&steps, std::slice::from_ref(&quota), 123, reason, 0, "exceeded quota");
    let steps = [(13, Step::Job(suspended())), (90, Step::Job(job(&json!([]))))];
    assert_fails(&steps, &[quota], 110, reason, 0, "exceeded quota");
    let steps = [(0, Step::Job(suspended()))];
    assert_eq!(played(&steps, &[]).1, None);
}

#[test]
fn a_job_that_is_suspended_while_it_runs_starts_again() {
    let running = pod("Running", json!({"running": {}}), json!({}));
    let stopped = deleted(pod("Failed", exited(143, "Error"), json!({})));
    let second = with(
        with(running.clone(), "/metadata/uid", json!("u2")),
        "/metadata/creationTimestamp",
        json!("2026-01-01T00:09:00Z"),
    );
    let steps = [
        (5, Step::Pod(running)),
        (9, Step::Job(suspended())),
        (10, Step::Pod(stopped.clone())),
        (11, PodGone(Some(stopped))),
        (60, Step::Job(job(&json!([])))),
        (61, Step::Pod(second.clone())),
        (70, Step::Pod(with(second, "/status/containerStatuses/1/state", exited(0, "Completed")))),
    ];
    let (at, ending) = played(&steps, &[]);
    assert_eq!((at, ending.map(|ending| ending.outcome)), (70, Some(Outcome::Completed)));
}

#[test]
fn a_deadline_is_told_as_one_whether_it_ran_or_not() {
    let reason = FailureReason::ActiveDeadline;
    let over = || Step::Job(job_failed("FailureTarget", "DeadlineExceeded"));
    let running = pod("Running", json!({"running": {}}), json!({}));
    assert_fails(&[(5, Step::Pod(running)), (30, over())], &[], 30, reason, 0, "");
    let stopped = || Step::Pod(deleted(pod("Running", exited(143, "Error"), json!({}))));
    // The Pod's end is seen first.
    assert_fails(&[(30, stopped()), (31, over())], &[], 31, reason, 0, "");
    assert_fails(&[(30, Step::Pod(unscheduled(""))), (31, over())], &[], 31, reason, 0, "");
    assert_fails(&[(31, over())], &[], 31, reason, 0, "");
    // The kubelet has a deadline of its own, and does not name the Job's.
    let named = pod("Failed", Value::Null, json!({"reason": "DeadlineExceeded"}));
    assert_fails(&[(31, Step::Pod(named))], &[], 31, reason, 0, "");
    let failed = pod("Failed", Value::Null, json!({"reason": "Odd"}));
    assert_fails(&[(30, over()), (31, Step::Pod(failed))], &[], 30, reason, 0, "");
    // A task that failed in the very second of its deadline had none left.
    let at = |moment: &str| {
        let ended = with(pod("Running", exited(3, "Error"), json!({})), FINISHED_AT, json!(moment));
        [(29, over()), (29, Step::Pod(ended))]
    };
    assert_fails(&at("2026-01-01T00:00:30Z"), &[], 29, reason, 0, "");
    assert_fails(&at("2026-01-01T00:00:29Z"), &[], 29, FailureReason::ContainerExit, 3, "");
}

#[test]
fn a_task_that_ended_before_its_deadline_is_told_so_by_a_watch_that_is_behind() {
    let mut verdict = Verdict::new(LIMITS, seconds(0));
    verdict.job(seconds(0), parsed(job(&json!([]))));
    verdict.pod(seconds(5), parsed(pod("Running", json!({"running": {}}), json!({}))));
    verdict.job(seconds(30), parsed(job_failed("Failed", "DeadlineExceeded")));
    assert_eq!(verdict.look(seconds(30)), Next::Look);
    verdict.looked(seconds(30), Vec::new());
    assert!(matches!(verdict.look(seconds(30)), Next::Wait(Some(_))));
    let done = with(pod("Running", exited(0, "Completed"), json!({})), FINISHED_AT, json!("2026-01-01T00:00:10Z"));
    verdict.pod_gone(seconds(60), "u1", Some(parsed(done)));
    let Next::End(ending) = verdict.look(seconds(60)) else { panic!() };
    assert_eq!(ending.outcome, Outcome::Completed);
}

#[test]
fn what_somebody_deletes_is_told_by_its_last_state_and_never_a_success() {
    let running = || pod("Running", json!({"running": {}}), json!({}));
    let stopped = || deleted(pod("Failed", exited(143, "Error"), json!({})));
    let exit = FailureReason::ContainerExit;
    assert_fails(&[(5, Step::Pod(running())), (9, JobGone), (9, Step::Pod(stopped()))], &[], 9, exit, 143, "");
    assert_fails(&[(5, Step::Pod(running())), (9, Step::Pod(stopped()))], &[], 11, exit, 143, "");
    assert_fails(&[(5, Step::Pod(running())), (9, PodGone(Some(stopped())))], &[], 11, exit, 143, "");
    // By force, or seen in a list only: nobody knows how it ended.
    assert_fails(&[(5, Step::Pod(running())), (9, PodGone(None))], &[], 11, exit, 143, "deleted the Pod");
    assert_fails(&[(5, Step::Pod(running())), (9, JobGone)], &[], 49, exit, 143, "deleted the Job");
    let watch = FailureReason::JobWatch;
    assert_fails(&[(5, JobGone)], &[], 7, watch, 0, "deleted the Job");
    let creating = pod("Pending", waiting("ContainerCreating", ""), json!({}));
    assert_fails(&[(5, Step::Pod(creating)), (9, PodGone(None)), (9, JobGone)], &[], 9, watch, 0, "");
    // The last state decides, also when it is a good one.
    let done = pod("Succeeded", exited(0, "Completed"), json!({}));
    let (_, ending) = played(&[(5, Step::Pod(running())), (9, JobGone), (9, PodGone(Some(done)))], &[]);
    assert_eq!(ending.map(|ending| ending.outcome), Some(Outcome::Completed));
}

#[test]
fn the_jobs_own_word_counts_where_the_pod_says_nothing() {
    let complete = job(&json!([{"type": "Complete", "status": "True"}]));
    let (at, ending) = played(&[(5, Step::Job(complete))], &[]);
    assert_eq!((at, ending.map(|ending| ending.outcome)), (10, Some(Outcome::Completed)));
    let failed = || Step::Job(job_failed("Failed", "BackoffLimitExceeded"));
    // The Pod's last state comes later.
    let steps = [(5, failed()), (7, Step::Pod(pod("Failed", exited(3, "Error"), json!({}))))];
    assert_fails(&steps, &[], 7, FailureReason::ContainerExit, 3, "");
    // It was never seen, though its Job was: a watch that is behind tells how it ended.
    let taken = disrupted(deleted(unscheduled("")), "2026-01-01T00:00:04Z");
    let steps = [(5, failed()), (60, Step::Pod(unscheduled(""))), (60, PodGone(Some(taken)))];
    assert_fails(&steps, &[], 60, FailureReason::Evicted, 0, "");
    assert_fails(&[(5, failed())], &[], 110, FailureReason::JobFailed, 0, "BackoffLimitExceeded");
    // The Job of an earlier worker had ended before: nothing is on its way.
    let mut earlier = Verdict::new(LIMITS, seconds(0));
    earlier.job(seconds(0), parsed(job_failed("Failed", "BackoffLimitExceeded")));
    assert!(matches!(earlier.look(seconds(0)), Next::Wait(_)));
    earlier.looked(seconds(5), Vec::new());
    assert!(matches!(earlier.look(seconds(5)), Next::Ask(_)));
    earlier.events(Vec::new());
    assert!(matches!(earlier.look(seconds(5)), Next::End(_)));
}

#[test]
fn a_task_that_fails_by_itself_while_its_pod_is_only_meant_to_be_taken_away_is_not_evicted() {
    let failed = disrupted(pod("Failed", exited(4, "Error"), json!({})), "2026-01-01T00:00:30Z");
    assert_fails(&[(9, Step::Pod(failed))], &[], 9, FailureReason::ContainerExit, 4, "Pod p");
}

#[test]
fn a_pod_that_was_deleted_before_it_ran_was_not_refused() {
    let steps = [(5, Step::Pod(deleted(pod("Failed", Value::Null, json!({}))))), (6, PodGone(None)), (6, JobGone)];
    assert_fails(&steps, &[], 6, FailureReason::JobWatch, 0, "deleted the Job");
}

#[test]
fn a_job_whose_other_containers_go_on_is_known_by_how_long_it_took() {
    let begun = with(job(&json!([])), "/status/startTime", json!("2026-01-01T00:00:15Z"));
    let outlived = |pod: Value| {
        let mut verdict = Verdict::new(LIMITS, seconds(0));
        verdict.job(seconds(0), parsed(begun.clone()));
        verdict.pod(seconds(0), parsed(pod));
        verdict.outlived()
    };
    let ended = pod("Running", exited(3, "Error"), json!({}));
    assert_eq!(outlived(ended.clone()), Some(45));
    let alone = with(ended.clone(), "/status/containerStatuses/0/state", exited(0, "Completed"));
    assert_eq!(outlived(alone), None, "it ends by itself");
    assert_eq!(outlived(deleted(ended)), None, "it goes anyway");
    assert_eq!(outlived(pod("Running", json!({"running": {}}), json!({}))), None);
}

fn any_step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        Just(json!({"running": {}})),
        Just(exited(0, "Completed")),
        Just(exited(143, "Error")),
        Just(waiting("ErrImagePull", "not found")),
        Just(waiting("ContainerCreating", "")),
        Just(Value::Null),
    ];
    let phase = prop_oneof![Just("Pending"), Just("Running"), Just("Failed"), Just("Unknown"), Just("")];
    let pods = (state, phase, any::<[bool; 3]>()).prop_map(|(state, phase, [is_deleted, is_disrupted, has_node])| {
        let mut pod = pod(phase, state, json!({}));
        if is_deleted {
            pod = deleted(pod);
        }
        if is_disrupted {
            pod = disrupted(pod, "2026-01-01T00:00:50Z");
        }
        if has_node { pod } else { with(pod, "/spec/nodeName", Value::Null) }
    });
    prop_oneof![
        6 => pods.clone().prop_map(Step::Pod),
        1 => proptest::option::of(pods).prop_map(PodGone),
        1 => Just(JobGone),
        1 => any::<bool>().prop_map(|is_suspended| Step::Job(if is_suspended { suspended() } else { job(&json!([])) })),
        1 => Just(Step::Job(job_failed("Failed", "BackoffLimitExceeded"))),
        1 => Just(Step::Job(job_failed("FailureTarget", "DeadlineExceeded"))),
    ]
}

proptest! {
    #[test]
    fn success_is_only_what_was_seen_to_succeed(mut steps in proptest::collection::vec((0_u64..90, any_step()), 0..12)) {
        steps.sort_by_key(|(at, _)| *at);
        let (at, ending) = played(&steps, &[warning("FailedCreate", "no")]);
        let seen = steps.iter().filter(|(second, _)| *second <= at).map(|(_, step)| format!("{step:?}"));
        let seen: String = seen.collect();
        let succeeded = ending.as_ref().is_some_and(|ending| ending.outcome == Outcome::Completed);
        prop_assert!(!succeeded || seen.contains("\"Completed\""), "{seen}");
        // Whoever is gone does not keep its slot.
        let is_job_gone = steps.iter().rev().find_map(|(_, step)| match step {
            JobGone => Some(true),
            Step::Job(_) => Some(false),
            _ => None,
        });
        prop_assert!(is_job_gone != Some(true) || ending.is_some());
    }
}
