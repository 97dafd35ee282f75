//! Which of a Job's Pods counts, and what is said of it.

use super::*;

const BEFORE: &str = "2025-12-31T23:59:59Z";
const THEN: &str = "2026-01-01T00:00:00Z";
const AFTER: &str = "2026-01-01T00:00:01Z";

fn named(name: &str, created: &str, task: Value) -> Pod {
    let metadata = json!({"name": name, "uid": format!("uid of {name}"), "creationTimestamp": created});
    parsed(with(pod("Running", task, json!({})), "/metadata", metadata))
}

/// The first Pod was seen, running.
fn running() -> Verdict {
    let mut verdict = Verdict::new(LIMITS, seconds(0));
    verdict.job(seconds(0), parsed(job(&json!([]))));
    verdict.pod(seconds(1), named("first", THEN, json!({"running": {}})));
    verdict
}

#[test]
fn a_later_pod_takes_the_place_of_one_that_is_older_or_gone() {
    for (is_gone, created, counts) in [
        (false, AFTER, "other"),
        (false, THEN, "first"),
        (false, BEFORE, "first"),
        (true, AFTER, "other"),
        (true, BEFORE, "other"),
    ] {
        let mut verdict = running();
        if is_gone {
            verdict.pod_gone(seconds(2), "uid of first", None);
        }
        verdict.pod(seconds(3), named("other", created, json!({"running": {}})));
        assert_eq!(verdict.pod_name(), Some(counts), "{is_gone} {created}");
        let pod = verdict.into_pod().expect("a Pod");
        assert_eq!(pod.metadata.name, counts, "{is_gone} {created}");
    }
}

#[test]
fn a_pod_that_is_gone_cannot_be_asked_about() {
    let mut verdict = running();
    verdict.pod_gone(seconds(2), "uid of another", None);
    assert_eq!((verdict.pod_name(), verdict.node()), (Some("first"), Some("n1")));
    verdict.pod_gone(seconds(3), "uid of first", None);
    assert_eq!(verdict.pod_name(), None);
    assert_eq!(verdict.into_pod(), None);
    assert_eq!(Verdict::new(LIMITS, seconds(0)).pod_name(), None);
}

#[test]
fn a_task_ended_by_itself_when_its_container_did_and_nobody_took_its_pod_away() {
    let own_end = |last: Pod| {
        let mut verdict = running();
        verdict.looked(seconds(2), vec![last]);
        verdict.own_end(seconds(2)).map(|ending| ending.outcome)
    };
    let ended = |code| named("first", THEN, exited(code, "Error"));
    assert_eq!(own_end(ended(0)), Some(Outcome::Completed));
    assert!(matches!(own_end(ended(3)), Some(Outcome::Failed(failure)) if failure.exit_code == 3));
    assert_eq!(own_end(named("first", THEN, json!({"running": {}}))), None);
    let mut taken_away = ended(0);
    taken_away.metadata.deletion_timestamp = Some(AFTER.into());
    assert_eq!(own_end(taken_away), None);
}
