//! What is told of what has happened, and how little is kept of it.

#![allow(clippy::unwrap_used)]

use oz_worker_core::metrics::{FailureReason, RejectReason};
use oz_worker_core::{Cause, Failure};

use super::*;

fn status(max_concurrent_tasks: u32) -> Status {
    Status::new(Identity { max_concurrent_tasks, ..crate::resource::tests::identity() })
}

fn claimed(task_id: &str, title: &str, active: usize) -> Notice {
    Notice::Claimed { task_id: task_id.into(), execution_id: None, title: title.into(), active }
}

fn ended(task_id: &str, result: TaskResult, active: usize) -> Notice {
    let failure = (result == TaskResult::Failed).then(|| Failure {
        reason: FailureReason::AgentInvocation,
        exit_code: 3,
        message: "the agent exited\nwith code 3".into(),
    });
    Notice::Ended { task_id: task_id.into(), result, duration: Duration::from_secs(7), failure, active }
}

#[test]
fn it_is_stuck_when_the_run_loop_or_an_executor_is_and_says_which() {
    let status = status(0);
    let now = Instant::now();
    status.note(now, &Notice::Connected { unproven_ends: 0, is_repeated: false });
    let names = |seconds| {
        let stuck = status.stuck(now + Duration::from_secs(seconds));
        stuck.into_iter().map(|stuck| stuck.name).collect::<Vec<_>>()
    };
    status.alive(now, Duration::from_secs(60));
    let first = status.heartbeat("executor 1", now);
    let second = status.heartbeat("executor 2", now);
    second.beat(now, Duration::from_secs(30));
    assert_eq!(names(14), [""; 0]);
    assert_eq!(names(17), ["executor 1"]);
    assert_eq!(names(47), ["executor 1", "executor 2"]);
    assert_eq!(names(77), ["the run loop", "executor 1", "executor 2"]);
    let unready = status.unready(now + Duration::from_secs(17)).unwrap();
    assert!(unready.starts_with("executor 1 is stuck: it should have moved"), "{unready}");
    drop(first);
    assert_eq!(names(17), [""; 0], "what has ended is not late");
    assert_eq!(status.unready(now + Duration::from_secs(17)), None);
    drop(second);
    drop(status.heartbeat("executor 3", now));
    assert_eq!(status.heartbeats.lock().unwrap().len(), 1, "none is remembered for longer than it beats");
}

#[test]
fn it_is_ready_while_connected_with_a_free_slot_and_says_why_it_is_not() {
    let status = status(2);
    let now = Instant::now();
    let reason = |notice: Option<Notice>| {
        notice.inspect(|notice| status.note(now, notice));
        status.alive(now, Duration::from_secs(60));
        status.unready(now + Duration::from_secs(63))
    };
    let first = reason(None).unwrap();
    assert!(first.starts_with("not connected for 1 min 3 s") && first.ends_with("the first dial has not ended yet"));
    let retry_in = Duration::from_secs(1);
    let cause = Cause::Outside("connection refused".into());
    let failed = reason(Some(Notice::DialFailed { cause, retry_in }));
    assert_eq!(failed.as_deref(), Some("not connected for 1 min 3 s: connection refused"));
    assert_eq!(reason(Some(Notice::Connected { unproven_ends: 0, is_repeated: false })), None);
    assert_eq!(reason(Some(claimed("a", "", 1))), None);
    assert_eq!(reason(Some(claimed("b", "", 2))).as_deref(), Some("every slot is taken: 2 of 2"));
    let stuck = Notice::NotReady { task_id: "b".into() };
    assert_eq!(reason(Some(stuck)).as_deref(), Some("task b was claimed and does not start"));
    assert_eq!(reason(Some(Notice::Ready)).as_deref(), Some("every slot is taken: 2 of 2"));
    assert_eq!(reason(Some(ended("a", TaskResult::Succeeded, 1))), None);
    let cause = Cause::Outside("closed by the server".into());
    let lost = reason(Some(Notice::Disconnected { cause, retry_in }));
    assert_eq!(lost.as_deref(), Some("not connected for 1 min 3 s: closed by the server"));
    let draining = Notice::Draining { signal: "SIGTERM", active: 1, timeout: retry_in };
    assert_eq!(reason(Some(draining)).as_deref(), Some("draining: no new task is taken, 1 may finish"));
    let stopping = Notice::DrainTimedOut { active: 1 };
    assert_eq!(reason(Some(stopping)).as_deref(), Some("stopping: no new task is taken"));
    assert_eq!(status.state(0).counts.reconnects, 2);
}

#[test]
fn a_worker_without_a_limit_is_always_able_to_take_a_task() {
    let status = status(0);
    let now = Instant::now();
    status.note(now, &Notice::Connected { unproven_ends: 0, is_repeated: false });
    status.note(now, &claimed("a", "", 500));
    assert_eq!(status.unready(now), None);
}

#[test]
fn a_task_goes_from_running_to_ended_with_its_title() {
    let status = status(0);
    let now = Instant::now();
    for (task_id, active) in [("a", 1), ("b", 2)] {
        status.note(now, &claimed(task_id, &format!("Title of {task_id}"), active));
    }
    status.note(now, &Notice::CancelRequested { task_id: "a".into() });
    status.step("b", &TaskStep::Pulling { image: "i".into(), percent: Some(7) });
    status.step("c", &TaskStep::Creating);
    let state = status.state(10);
    assert!(state.running.iter().map(|task| task.step.as_str()).eq(["", "Pulling i: 7 %"]));
    assert!(
        state.running.iter().map(|task| (task.task_id.as_str(), task.is_cancelled)).eq([("a", true), ("b", false)])
    );
    status.note(now, &ended("b", TaskResult::Failed, 1));
    status.note(now, &ended("a", TaskResult::Cancelled, 0));
    let state = status.state(10);
    assert_eq!((state.active, state.running.len(), state.counts.claimed), (0, 0, 2));
    assert_eq!(state.counts.ended, [0, 1, 1, 0]);
    let shown = state.ended.iter().map(|task| (task.title.as_str(), task.failure.as_deref()));
    assert!(shown.eq([("Title of a", None), ("Title of b", Some("the agent exited\\nwith code 3"))]));
}

#[test]
fn whatever_the_server_sends_takes_little_memory() {
    let status = status(0);
    let now = Instant::now();
    let long = "ü".repeat(100_000);
    for active in 1..=MAX_RUNNING + 5 {
        let task_id = format!("{active} {long}");
        status.note(now, &claimed(&task_id, &long, active));
        status.step(&task_id, &TaskStep::Waiting { reason: Some(long.clone()) });
    }
    let state = status.state(7);
    assert_eq!((state.active, state.running.len()), (MAX_RUNNING + 5, 7));
    assert_eq!(status.state(usize::MAX).running.len(), MAX_RUNNING);
    for task in &state.running {
        assert!(
            task.step.starts_with("Waiting for") && task.step.len().max(task.title.len()) <= 2 * MAX_TEXT + "…".len()
        );
    }
    for active in (0..MAX_RUNNING + 5).rev() {
        status.note(now, &ended(&format!("{} {long}", active + 1), TaskResult::Failed, active));
    }
    let title = String::new();
    let rejected =
        Notice::Rejected { task_id: long, title, reason: RejectReason::AtCapacity, active: 0, is_repeated: true };
    status.note(now, &rejected);
    let state = status.state(7);
    assert_eq!((state.active, state.running.len(), state.ended.len()), (0, 0, MAX_ENDED));
    assert_eq!(state.counts.rejected, 1);
}
