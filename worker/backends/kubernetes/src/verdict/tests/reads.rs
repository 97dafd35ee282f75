//! What is read once more before an end is told, since a watch may be behind; and what is made of it.

use super::*;

/// What is next at this second, once all that is asked was answered by these events.
fn next(verdict: &mut Verdict, at: u64, events: &[Event]) -> Next {
    loop {
        match verdict.look(seconds(at)) {
            Next::Ask(_) => verdict.events(events.to_vec()),
            next => break next,
        }
    }
}

/// Lets time pass until there is more to do than to wait; gives the second.
fn waited(verdict: &mut Verdict, events: &[Event]) -> u64 {
    (1..3600).find(|at| !matches!(next(verdict, *at, events), Next::Wait(_))).expect("something to do within an hour")
}

#[test]
fn nothing_is_given_up_for_what_was_seen_last_when_it_is_over_by_now() {
    let limits = Limits { pod_start_timeout: Duration::from_secs(60), ..LIMITS };
    for stuck in [
        pod("Pending", waiting("ErrImagePull", "not found"), json!({})),
        pod("Pending", waiting("ErrImagePull", "connection refused"), json!({})),
        pod("Pending", waiting("CreateContainerConfigError", "secret \"s\" not found"), json!({})),
        pod("Pending", waiting("ContainerCreating", ""), json!({})),
        unscheduled("0/1 nodes are available"),
    ] {
        let mut verdict = Verdict::new(limits, seconds(0));
        verdict.job(seconds(0), parsed(job(&json!([]))));
        verdict.pod(seconds(1), parsed(stuck.clone()));
        let at = waited(&mut verdict, &[]);
        assert_eq!(next(&mut verdict, at, &[]), Next::Look, "{stuck}");
        // The watch was behind.
        verdict.looked(seconds(at), vec![parsed(pod("Running", json!({"running": {}}), json!({})))]);
        assert!(matches!(next(&mut verdict, at, &[]), Next::Wait(_)), "{stuck}");
    }
}

#[test]
fn what_only_the_job_knows_is_read_when_its_watch_is_behind() {
    let stopped = || deleted(pod("Failed", exited(143, "Error"), json!({})));
    for is_gone in [false, true] {
        let mut verdict = Verdict::new(LIMITS, seconds(0));
        verdict.job(seconds(0), parsed(job(&json!([]))));
        verdict.pod(seconds(5), parsed(pod("Running", json!({"running": {}}), json!({}))));
        if is_gone {
            verdict.pod_gone(seconds(30), "u1", None);
        } else {
            verdict.pod(seconds(30), parsed(stopped()));
        }
        assert!(matches!(verdict.look(seconds(30)), Next::Wait(_)), "its reason may be on its way");
        assert_eq!(verdict.look(seconds(32)), Next::LookAtJob);
        verdict.looked_at_job(seconds(33), Some(parsed(job_failed("FailureTarget", "DeadlineExceeded"))));
        assert_eq!(verdict.look(seconds(33)), Next::Look);
        let there = if is_gone { Vec::new() } else { vec![parsed(stopped())] };
        verdict.looked(seconds(33), there);
        let Next::End(ending) = next(&mut verdict, 33, &[]) else { panic!("it has ended") };
        assert_eq!(failure(Some(&ending)).map(|(reason, ..)| reason), Some(FailureReason::ActiveDeadline));
    }
}

#[test]
fn the_last_state_of_a_pod_that_was_missing_is_waited_for_though_its_job_has_failed() {
    let mut verdict = Verdict::new(LIMITS, seconds(0));
    let creating = pod("Pending", waiting("InvalidImageName", ""), json!({}));
    verdict.pod(seconds(1), parsed(creating.clone()));
    verdict.looked(seconds(9), Vec::new());
    verdict.job(seconds(9), parsed(job_failed("Failed", "BackoffLimitExceeded")));
    assert!(matches!(verdict.look(seconds(90)), Next::Wait(_)), "its last state may be on its way");
    let last = disrupted(deleted(creating), "2026-01-01T00:00:08Z");
    verdict.pod_gone(seconds(91), "u1", Some(parsed(last)));
    let Next::End(ending) = next(&mut verdict, 91, &[]) else { panic!("it has ended") };
    assert_eq!(failure(Some(&ending)).map(|(reason, ..)| reason), Some(FailureReason::Evicted));
}

#[test]
fn what_had_a_pod_that_nobody_saw_is_told_by_its_job() {
    let mut verdict = Verdict::new(LIMITS, seconds(0));
    verdict.job(seconds(0), parsed(job(&json!([]))));
    let events = [warning("FailedCreate", "exceeded quota")];
    let at = waited(&mut verdict, &events);
    assert_eq!(next(&mut verdict, at, &events), Next::Look);
    verdict.looked(seconds(at), Vec::new());
    assert_eq!(next(&mut verdict, at, &events), Next::LookAtJob);
    let complete = json!([{"type": "Complete", "status": "True"}]);
    verdict.looked_at_job(seconds(at), Some(parsed(job(&complete))));
    assert!(matches!(next(&mut verdict, at, &events), Next::Wait(_)), "the Pod's last state may be on its way");
    let Next::End(ending) = next(&mut verdict, at + 5, &events) else { panic!("it has ended") };
    assert_eq!(ending.outcome, Outcome::Completed);
}

#[test]
fn a_pod_that_is_gone_when_it_is_read_is_not_told_by_what_was_seen_of_it_last() {
    let mut verdict = Verdict::new(LIMITS, seconds(0));
    verdict.job(seconds(0), parsed(job(&json!([]))));
    verdict.pod(seconds(1), parsed(pod("Pending", waiting("ErrImagePull", "not found"), json!({}))));
    assert_eq!(next(&mut verdict, 30, &[]), Next::Look);
    verdict.looked(seconds(30), Vec::new());
    assert!(matches!(verdict.look(seconds(30)), Next::Wait(_)), "its last state may be on its way");
    let last = pod("Failed", exited(3, "Error"), json!({}));
    assert!(matches!(verdict.look(seconds(110)), Next::Wait(_)), "a watch may be behind for long");
    verdict.pod_gone(seconds(111), "u1", Some(parsed(last)));
    assert_eq!(verdict.look(seconds(111)), Next::LookAtJob, "who deleted it its Job may know");
    verdict.looked_at_job(seconds(111), None);
    let Next::End(ending) = verdict.look(seconds(111)) else { panic!("it has ended") };
    assert!(matches!(failure(Some(&ending)), Some((FailureReason::ContainerExit, 3, _))), "{ending:?}");
}

#[test]
fn a_watch_that_is_behind_takes_nothing_back_that_was_read() {
    let mut verdict = Verdict::new(LIMITS, seconds(0));
    let version = |pod, version: &str| parsed(with(pod, "/metadata/resourceVersion", json!(version)));
    verdict.looked(seconds(40), vec![version(pod("Running", json!({"running": {}}), json!({})), "1000")]);
    verdict.pod(seconds(41), version(pod("Pending", waiting("ErrImagePull", "not found"), json!({})), "999"));
    assert!(matches!(verdict.look(seconds(41)), Next::Wait(_)));
}

#[test]
fn a_give_up_that_is_averted_leaves_the_true_end_fewer_questions() {
    let limits = Limits { pod_start_timeout: Duration::from_secs(60), ..LIMITS };
    let stuck = |why| parsed::<Pod>(pod("Pending", waiting(why, "not found"), json!({})));
    for averted in [0, 1] {
        let mut verdict = Verdict::new(limits, seconds(0));
        verdict.job(seconds(0), parsed(job(&json!([]))));
        let (mut questions, mut looks) = (Vec::new(), 0);
        let end = (1..3600).find_map(|at| {
            match at {
                20 => verdict.pod(seconds(at), stuck("ErrImagePull")),
                40 if averted > 0 => verdict.pod(seconds(at), stuck("ContainerCreating")),
                _ => {}
            }
            loop {
                match verdict.look(seconds(at)) {
                    Next::End(ending) => break Some(ending),
                    Next::Wait(_) => break None,
                    Next::Ask(uid) => {
                        questions.push(uid);
                        verdict.events(Vec::new());
                    }
                    next => {
                        assert_eq!(next, Next::Look);
                        looks += 1;
                        let why = if averted > 0 { "ContainerCreating" } else { "ErrImagePull" };
                        verdict.looked(seconds(at), vec![stuck(why)]);
                    }
                }
            }
        });
        assert!(end.is_some_and(|end| end.gives_up));
        // No Pod yet, no container yet, and why it ends: all three when nothing was read for no end.
        assert_eq!((questions.len(), looks), (3 - averted, 1 + averted), "{questions:?}");
    }
}

#[test]
fn a_pod_that_no_watch_tells_of_any_more_is_told_by_its_job() {
    let missing = |job_says: Value| {
        let mut verdict = Verdict::new(LIMITS, seconds(0));
        verdict.looked(seconds(1), vec![parsed(pod("Pending", waiting("ContainerCreating", ""), json!({})))]);
        verdict.looked(seconds(9), Vec::new());
        verdict.job(seconds(9), parsed(job_says));
        let at = waited(&mut verdict, &[]);
        loop {
            match next(&mut verdict, at, &[]) {
                Next::LookAtJob => verdict.looked_at_job(seconds(at), None),
                Next::Look => verdict.looked(seconds(at), Vec::new()),
                Next::End(ending) => break (at, ending.outcome),
                next => panic!("{next:?}"),
            }
        }
    };
    let (at, outcome) = missing(job_failed("Failed", "BackoffLimitExceeded"));
    assert!(matches!(outcome, Outcome::Failed(failure) if failure.reason == FailureReason::JobWatch));
    assert_eq!(at, 109, "a watch that is silent for 90 s lists again, which tells for certain");
    let complete = json!([{"type": "Complete", "status": "True"}]);
    assert_eq!(missing(job(&complete)), (14, Outcome::Completed));
}
