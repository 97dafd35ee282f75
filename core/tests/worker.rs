//! The state machine's behaviour, driven over a virtual clock.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use oz_worker_core::agent::AgentSettings;
use oz_worker_core::metrics::{FailurePhase, FailureReason, MetricEvent, ReconnectReason, RejectReason, TaskResult};
use oz_worker_core::record::Record;
use oz_worker_core::time::Instant;
use oz_worker_core::{AfterKill, Cause, Config, Failure, Frame, Input, Notice, Outcome, Output, RunId, Worker};

/// A worker, its clock, and everything that came out of it, sorted.
struct Driver {
    worker: Worker,
    now: Duration,
    outputs: Vec<Output>,
    /// Whether the socket takes everything at once.
    writes: bool,
}

fn config() -> Config {
    Config {
        worker_id: "w1".into(),
        max_concurrent_tasks: 2,
        drain_timeout: Duration::ZERO,
        stop_timeout: Duration::from_secs(20),
        stops_tasks_on_shutdown: true,
        after_kill: AfterKill::Fails,
        journal: false,
        agent: AgentSettings::default(),
    }
}

impl Driver {
    fn new(config: Config) -> Self {
        Self { worker: Worker::new(config, 7), now: Duration::ZERO, outputs: Vec::new(), writes: true }
    }

    /// A worker that goes on from records that are `age` old, with an established connection.
    fn restored(config: Config, age: Duration, records: &[Record]) -> Self {
        let now = Duration::from_secs(1000);
        let records = records.iter().map(|record| (age, record.clone()));
        let worker = Worker::restored(config, 7, Instant::new(now), records);
        let mut driver = Self { worker, now, outputs: Vec::new(), writes: true };
        driver.handle(Input::Timeout);
        driver.handle(Input::Connected);
        driver
    }

    /// A worker with an established connection.
    fn connected(config: Config) -> Self {
        let mut driver = Self::new(config);
        driver.handle(Input::Timeout);
        driver.handle(Input::Connected);
        driver.outputs.clear();
        driver
    }

    fn handle(&mut self, input: Input<'_>) {
        self.worker.handle(Instant::new(self.now), input);
        if self.writes {
            self.worker.handle(Instant::new(self.now), Input::Written);
        }
        while let Some(output) = self.worker.poll_output() {
            self.outputs.push(output);
        }
    }

    /// Lets time pass as far as the next timeout.
    fn pass_to_timeout(&mut self) {
        let at = self.worker.poll_timeout().unwrap().since_start();
        self.now = self.now.max(at);
        self.handle(Input::Timeout);
    }

    /// Lets `duration` pass, with every timeout on the way.
    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(at) = self.worker.poll_timeout()
            && at.since_start() <= until
        {
            self.pass_to_timeout();
        }
        self.now = until;
    }

    fn assign(&mut self, task_id: &str, execution_id: &str) {
        let text = format!(
            r#"{{"type":"task_assignment","data":{{"task_id":"{task_id}","execution_id":"{execution_id}","task":{{}}}}}}"#
        );
        self.handle(Input::Text(&text));
    }

    fn cancel(&mut self, task_id: &str) {
        self.handle(Input::Text(&format!(r#"{{"type":"task_cancellation","data":{{"task_id":"{task_id}"}}}}"#)));
    }

    fn end(&mut self, task_id: &str, run: RunId, outcome: Outcome) {
        self.finish(task_id, run, outcome);
        self.clean_up(task_id, run);
    }

    fn finish(&mut self, task_id: &str, run: RunId, outcome: Outcome) {
        self.handle(Input::TaskFinished { task_id, run, outcome });
    }

    fn clean_up(&mut self, task_id: &str, run: RunId) {
        self.handle(Input::TaskEnded { task_id, run, cleanup: Vec::new() });
    }

    /// Assigns a task and gives its run.
    fn start(&mut self, task_id: &str) -> RunId {
        let run = self.claim(task_id);
        self.handle(Input::TaskStarted { task_id, run });
        run
    }

    /// Assigns a task that does not start.
    fn claim(&mut self, task_id: &str) -> RunId {
        self.assign(task_id, "e1");
        *self.started().last().unwrap()
    }

    fn reconnect(&mut self) {
        self.handle(Input::Disconnected("cut".into()));
        self.pass_to_timeout();
        self.outputs.clear();
        self.handle(Input::Connected);
    }

    /// The messages sent since the last look, in short: type, task, reason.
    fn sent(&mut self) -> Vec<String> {
        let sent = self.outputs.iter().filter_map(|output| match output {
            Output::Send(Frame::Text(text)) => {
                let message: serde_json::Value = serde_json::from_str(text).unwrap();
                let data = &message["data"];
                let detail = ["reason", "task_state", "failure_reason"].map(|key| data[key].as_str().unwrap_or(""));
                Some(format!("{} {} {}", message["type"].as_str()?, data["task_id"].as_str()?, detail.concat()))
            }
            _ => None,
        });
        let sent = sent.map(|text| text.trim_end().to_owned()).collect();
        self.outputs.retain(|output| !matches!(output, Output::Send(Frame::Text(_))));
        sent
    }

    /// The serials of the Pings sent since the last look.
    fn pings(&mut self) -> Vec<[u8; 8]> {
        let pings = self.outputs.iter().filter_map(|output| match output {
            Output::Send(Frame::Ping(payload)) => Some(*payload),
            _ => None,
        });
        let pings = pings.collect();
        self.outputs.retain(|output| !matches!(output, Output::Send(Frame::Ping(_))));
        pings
    }

    /// Answers every Ping, also those that an answer leads to.
    fn pong(&mut self) {
        while let Some(payload) = self.pings().pop() {
            self.handle(Input::Pong(&payload));
        }
    }

    fn started(&self) -> Vec<RunId> {
        let started = self.outputs.iter().filter_map(|output| match output {
            Output::StartTask { run, .. } => Some(*run),
            _ => None,
        });
        started.collect()
    }

    fn stopped(&self) -> Vec<RunId> {
        let stopped = self.outputs.iter().filter_map(|output| match output {
            Output::StopTask { run, .. } => Some(*run),
            _ => None,
        });
        stopped.collect()
    }

    fn metrics(&self) -> Vec<MetricEvent> {
        let metrics = self.outputs.iter().filter_map(|output| match output {
            Output::Metric(event) => Some(*event),
            _ => None,
        });
        metrics.collect()
    }

    fn notices(&self) -> Vec<&Notice> {
        let notices = self.outputs.iter().filter_map(|output| match output {
            Output::Notice(notice) => Some(notice),
            _ => None,
        });
        notices.collect()
    }

    fn records(&self) -> Vec<(u64, Record)> {
        let records = self.outputs.iter().filter_map(|output| match output {
            Output::Persist { number, record } => Some((*number, record.clone())),
            _ => None,
        });
        records.collect()
    }

    fn count(&self, wanted: impl Fn(&Output) -> bool) -> usize {
        self.outputs.iter().filter(|output| wanted(output)).count()
    }

    fn exited(&self) -> bool {
        self.count(|output| matches!(output, Output::Exit)) == 1
    }
}

fn failure(reason: FailureReason) -> Failure {
    Failure { reason, exit_code: 3, message: "no".into() }
}

#[test]
fn dials_at_once_and_claims_before_it_starts() {
    let mut driver = Driver::new(config());
    driver.handle(Input::Timeout);
    assert_eq!(driver.count(|output| matches!(output, Output::Dial)), 1);
    driver.handle(Input::Connected);
    driver.assign("T", "e");
    let order: Vec<bool> = driver
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send(Frame::Text(_)) => Some(true),
            Output::StartTask { .. } => Some(false),
            _ => None,
        })
        .collect();
    assert_eq!(order, [true, false]);
    assert_eq!(driver.metrics(), [MetricEvent::Connected, MetricEvent::TaskClaimed]);
}

#[test]
fn rejects_at_capacity_without_starting_the_task() {
    let mut driver = Driver::connected(config());
    driver.start("A");
    let run = driver.start("B");
    driver.outputs.clear();
    driver.assign("C", "e");
    driver.assign("D", "e");
    assert_eq!(
        driver.sent(),
        ["task_rejected C worker at maximum concurrency", "task_rejected D worker at maximum concurrency"]
    );
    assert!(driver.started().is_empty());
    assert_eq!(driver.metrics(), [MetricEvent::TaskRejected(RejectReason::AtCapacity); 2]);
    let told =
        driver.notices().into_iter().filter(|notice| !matches!(notice, Notice::Rejected { is_repeated: true, .. }));
    assert_eq!(told.count(), 1, "one line for a row of rejections");
    driver.end("B", run, Outcome::Completed);
    driver.assign("D", "e");
    assert_eq!(driver.started().len(), 1, "the slot is free as soon as its task has ended");
}

#[test]
fn every_outcome_has_its_message_result_and_metrics() {
    let failed = Outcome::Failed(failure(FailureReason::SetupCommand));
    let cases = [
        (Outcome::Completed, TaskResult::Succeeded, Some("task_completed T")),
        (Outcome::Dispatched, TaskResult::Dispatched, None),
        (failed, TaskResult::Failed, Some("task_failed T setup_command")),
    ];
    for (outcome, result, message) in cases {
        let mut driver = Driver::connected(config());
        let run = driver.start("T");
        driver.sent();
        driver.outputs.clear();
        driver.now += Duration::from_secs(5);
        driver.end("T", run, outcome);
        assert_eq!(driver.sent(), message.into_iter().collect::<Vec<_>>());
        let completed = MetricEvent::TaskCompleted { result, duration: Duration::from_secs(5) };
        let phase = FailurePhase::Backend;
        let failure = MetricEvent::TaskFailure { phase, reason: FailureReason::SetupCommand };
        let expected = if result == TaskResult::Failed { vec![failure, completed] } else { vec![completed] };
        assert_eq!(driver.metrics(), expected);
        assert_eq!(driver.worker.active_tasks(), 0);
        driver.outputs.clear();
        driver.end("T", run, Outcome::Completed);
        assert!(driver.outputs.is_empty(), "a second end of the same run changes nothing");
    }
}

#[test]
fn failed_cleanup_is_counted_and_never_changes_the_result() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.outputs.clear();
    let cleanup = vec![failure(FailureReason::TeardownCommand), failure(FailureReason::Cleanup)];
    driver.finish("T", run, Outcome::Completed);
    driver.handle(Input::TaskEnded { task_id: "T", run, cleanup });
    assert_eq!(driver.sent(), ["task_completed T"]);
    let phase = FailurePhase::Cleanup;
    assert_eq!(
        driver.metrics(),
        [
            MetricEvent::TaskFailure { phase, reason: FailureReason::TeardownCommand },
            MetricEvent::TaskFailure { phase, reason: FailureReason::Cleanup },
            MetricEvent::TaskCompleted { result: TaskResult::Succeeded, duration: Duration::ZERO },
        ]
    );
}

#[test]
fn a_cancelled_task_is_stopped_once_and_reported_as_cancelled() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.cancel("T");
    driver.cancel("T");
    assert_eq!(driver.stopped(), [run]);
    driver.sent();
    driver.end("T", run, Outcome::Stopped);
    assert_eq!(driver.sent(), ["task_completed T CANCELLED"]);
    driver.outputs.clear();
    driver.cancel("T");
    assert!(matches!(driver.notices()[..], [Notice::CancelUnknown { .. }]));
    assert!(driver.stopped().is_empty());
}

#[test]
fn a_task_that_ended_before_the_cancellation_reached_it_is_reported_as_it_ended() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.cancel("T");
    driver.sent();
    driver.end("T", run, Outcome::Completed);
    assert_eq!(driver.sent(), ["task_completed T"]);
}

#[test]
fn a_dispatched_task_is_cancelled_by_the_backend_without_a_message() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Dispatched);
    driver.sent();
    driver.cancel("T");
    assert_eq!(driver.count(|output| matches!(output, Output::CancelDispatched { .. })), 1);
    driver.handle(Input::CancelFailed { task_id: "T", problem: "exit 1".into() });
    let phase = FailurePhase::Cleanup;
    assert!(driver.metrics().contains(&MetricEvent::TaskFailure { phase, reason: FailureReason::CancelCommand }));
    assert!(driver.sent().is_empty());
}

#[test]
fn a_cancellation_during_the_dispatch_reaches_the_remote_task() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.cancel("T");
    driver.end("T", run, Outcome::Dispatched);
    assert_eq!(driver.count(|output| matches!(output, Output::CancelDispatched { .. })), 1);
}

#[test]
fn the_dispatched_tasks_that_are_remembered_are_bounded() {
    let mut driver = Driver::connected(config());
    for n in 0..5000 {
        let task = format!("T{n}");
        let run = driver.start(&task);
        driver.end(&task, run, Outcome::Dispatched);
        driver.outputs.clear();
    }
    driver.cancel("T0");
    driver.cancel("T4999");
    assert_eq!(driver.count(|output| matches!(output, Output::CancelDispatched { .. })), 1);
}

#[test]
fn the_same_execution_assigned_again_is_claimed_again_and_not_started() {
    let mut driver = Driver::connected(config());
    driver.start("T");
    driver.sent();
    driver.outputs.clear();
    driver.assign("T", "e1");
    assert_eq!(driver.sent(), ["task_claimed T"]);
    driver.assign("T", "e2");
    assert_eq!(driver.sent(), ["task_rejected T task is already running on this worker"]);
    assert!(driver.started().is_empty());
    assert_eq!(driver.metrics(), [MetricEvent::TaskRejected(RejectReason::AlreadyRunning)]);
}

#[test]
fn what_was_handed_over_is_claimed_again_and_not_started_even_after_another_execution() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Dispatched);
    driver.assign("T", "e2");
    let other = *driver.started().last().unwrap();
    driver.end("T", other, Outcome::Completed);
    driver.outputs.clear();
    driver.assign("T", "e1");
    assert_eq!(driver.sent(), ["task_claimed T"]);
    assert!(driver.started().is_empty() && driver.metrics().is_empty());
}

#[test]
fn an_end_that_is_not_proven_is_sent_again_in_order_before_anything_newer() {
    let mut driver = Driver::connected(config());
    let (a, b) = (driver.start("A"), driver.start("B"));
    driver.end("A", a, Outcome::Completed);
    driver.handle(Input::Disconnected("cut".into()));
    driver.end("B", b, Outcome::Completed);
    driver.sent();
    driver.pass_to_timeout();
    driver.handle(Input::Connected);
    driver.assign("C", "e");
    let again = ["task_claimed A", "task_claimed B", "task_completed A", "task_completed B", "task_claimed C"];
    assert_eq!(driver.sent(), again);
    driver.pong();
    assert_eq!(driver.worker.unproven_ends(), 0);
    driver.reconnect();
    assert_eq!(driver.sent(), ["task_claimed C"], "what is not proven yet, and only that");
}

#[test]
fn a_pong_of_an_earlier_connection_or_with_a_made_up_serial_proves_nothing() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Completed);
    let pings = driver.pings();
    assert_eq!(pings.len(), 1);
    driver.handle(Input::Pong(&u64::MAX.to_be_bytes()));
    driver.handle(Input::Pong(b"odd"));
    assert_eq!(driver.worker.unproven_ends(), 1);
    driver.handle(Input::Disconnected("cut".into()));
    driver.handle(Input::Pong(&pings[0]));
    assert_eq!(driver.worker.unproven_ends(), 1);
}

#[test]
fn one_proving_ping_is_under_way_at_a_time() {
    let mut driver = Driver::connected(Config { max_concurrent_tasks: 0, ..config() });
    let runs: Vec<RunId> = (0..50).map(|n| driver.start(&format!("T{n}"))).collect();
    assert!(driver.pings().is_empty(), "a claim alone is not worth a Ping");
    for (n, run) in runs.iter().enumerate() {
        driver.end(&format!("T{n}"), *run, Outcome::Completed);
    }
    let pings = driver.pings();
    assert_eq!(pings.len(), 1);
    driver.handle(Input::Pong(&pings[0]));
    assert_eq!(driver.worker.unproven_ends(), 49);
    driver.pong();
    assert_eq!(driver.worker.unproven_ends(), 0);
    assert!(driver.pings().is_empty());
}

#[test]
fn a_claim_that_is_repeated_is_kept_when_the_first_was_proven() {
    let mut driver = Driver::connected(config());
    driver.start("T");
    driver.pass(Duration::from_secs(30));
    driver.pong();
    driver.sent();
    driver.reconnect();
    assert!(driver.sent().is_empty(), "the first is proven");
    driver.assign("T", "e1");
    driver.sent();
    driver.reconnect();
    assert_eq!(driver.sent(), ["task_claimed T"]);
}

#[test]
fn a_claim_that_is_repeated_before_the_first_is_proven_is_kept_once() {
    let mut driver = Driver::connected(config());
    driver.start("T");
    driver.assign("T", "e1");
    driver.sent();
    driver.reconnect();
    assert_eq!(driver.sent(), ["task_claimed T"]);
}

#[test]
fn a_pong_that_no_ping_asked_for_proves_nothing() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Completed);
    let asked = driver.pings();
    let run = driver.start("U");
    driver.end("U", run, Outcome::Completed);
    // Numbers that the worker uses inside, but not the one it asked with.
    for serial in 0..9u64 {
        if serial.to_be_bytes() != asked[0] {
            driver.handle(Input::Pong(&serial.to_be_bytes()));
        }
    }
    assert_eq!(driver.worker.unproven_ends(), 2);
    driver.handle(Input::Pong(&asked[0]));
    assert_eq!(driver.worker.unproven_ends(), 1);
    driver.handle(Input::Pong(&asked[0]));
    assert_eq!(driver.worker.unproven_ends(), 1, "each Ping is answered once");
}

#[test]
fn a_proof_that_is_slower_than_the_pings_arrives_all_the_same() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Completed);
    let asked = driver.pings();
    driver.start("U");
    driver.pass(Duration::from_secs(31));
    assert_eq!(driver.pings(), asked, "what is asked already is asked once more");
    driver.handle(Input::Pong(&asked[0]));
    assert_eq!(driver.worker.unproven_ends(), 0);
}

#[test]
fn a_new_execution_drops_the_unproven_end_of_the_old_one() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Failed(failure(FailureReason::AgentInvocation)));
    driver.reconnect();
    driver.sent();
    driver.assign("T", "e2");
    assert_eq!(driver.started().len(), 1);
    driver.sent();
    driver.reconnect();
    assert_eq!(driver.sent(), ["task_claimed T"]);
}

#[test]
fn an_execution_whose_end_is_on_its_way_is_reported_again_and_never_run_twice() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Completed);
    driver.reconnect();
    driver.sent();
    driver.assign("T", "e1");
    assert_eq!(driver.sent(), ["task_claimed T", "task_completed T"]);
    assert!(driver.started().is_empty());
    driver.pong();
    driver.pong();
    assert_eq!(driver.worker.unproven_ends(), 0);
}

#[test]
fn what_is_reported_again_keeps_its_place_before_what_is_newer() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.reconnect();
    driver.end("T", run, Outcome::Completed);
    driver.start("U");
    driver.assign("T", "e1");
    driver.reconnect();
    assert_eq!(driver.sent(), ["task_claimed T", "task_completed T", "task_claimed U"]);
}

#[test]
fn an_assignment_that_crosses_the_proof_of_its_end_does_not_run_it_again() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Completed);
    driver.sent();
    driver.pong();
    assert_eq!(driver.worker.unproven_ends(), 0);
    driver.assign("T", "e1");
    assert_eq!(driver.sent(), ["task_claimed T", "task_completed T"]);
    assert_eq!(driver.started().len(), 1);
    driver.assign("T", "e2");
    assert_eq!(driver.started().len(), 2);
}

/// An assignment of `T` that cannot be understood, of this execution.
fn garbled(execution_id: &str) -> String {
    format!(r#"{{"type":"task_assignment","data":{{"task_id":"T","execution_id":{execution_id},"task":7}}}}"#)
}

#[test]
fn a_malformed_assignment_is_answered_as_failed() {
    let mut driver = Driver::connected(config());
    driver.handle(Input::Text(&garbled("null")));
    assert_eq!(driver.sent(), ["task_failed T unknown"]);
    let phase = FailurePhase::Assignment;
    assert_eq!(driver.metrics(), [MetricEvent::TaskFailure { phase, reason: FailureReason::Unknown }]);
    assert_eq!(driver.worker.unproven_ends(), 1);
}

#[test]
fn a_garbled_repeat_of_a_run_is_answered_and_the_run_has_one_end() {
    // An id that cannot be read may be that of the run.
    for id in [r#""e1""#, "7", "null"] {
        let mut driver = Driver::connected(config());
        let run = driver.start("T");
        driver.sent();
        driver.handle(Input::Text(&garbled(id)));
        assert_eq!(driver.sent(), ["task_claimed T"], "while it runs, {id}");
        assert!(matches!(driver.notices()[..], [.., Notice::MalformedAssignment { is_answered: false, .. }]));
        driver.end("T", run, Outcome::Completed);
        assert_eq!(driver.sent(), ["task_completed T"]);
        driver.handle(Input::Text(&garbled(id)));
        assert_eq!(driver.sent(), ["task_claimed T", "task_completed T"], "while its end is on its way, {id}");
        driver.pong();
        driver.handle(Input::Text(&garbled(id)));
        assert_eq!(driver.sent(), ["task_claimed T", "task_completed T"], "once its end has arrived, {id}");
        assert!(driver.metrics().iter().all(|event| !matches!(event, MetricEvent::TaskFailure { .. })));
    }
}

#[test]
fn a_garbled_assignment_of_another_execution_is_rejected_while_the_task_runs_and_failed_afterwards() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.sent();
    driver.handle(Input::Text(&garbled(r#""e2""#)));
    assert_eq!(driver.sent(), ["task_rejected T task is already running on this worker"]);
    driver.end("T", run, Outcome::Completed);
    driver.sent();
    driver.handle(Input::Text(&garbled(r#""e2""#)));
    assert_eq!(driver.sent(), ["task_failed T unknown"]);
    // The end of the older execution must not end this one.
    driver.reconnect();
    assert_eq!(driver.sent(), ["task_failed T unknown"]);
}

#[test]
fn a_garbled_repeat_does_not_end_what_was_handed_over() {
    for id in [r#""e1""#, "7"] {
        let mut driver = Driver::connected(config());
        let run = driver.start("T");
        driver.end("T", run, Outcome::Dispatched);
        driver.sent();
        driver.handle(Input::Text(&garbled(id)));
        assert_eq!(driver.sent(), ["task_claimed T"], "{id}");
    }
}

#[test]
fn bad_frames_are_one_warning_and_nothing_else() {
    for text in ["nope", r#"{"type":"x"}"#, r#"{"type":"task_cancellation","data":{}}"#, "[]", ""] {
        let mut driver = Driver::connected(config());
        driver.handle(Input::Text(text));
        assert!(matches!(driver.outputs[..], [Output::Notice(Notice::BadFrame(_))]), "{text}");
        assert!(driver.worker.is_connected());
    }
    let mut driver = Driver::connected(config());
    driver.handle(Input::Binary(9));
    assert!(matches!(driver.outputs[..], [Output::Notice(Notice::BadFrame(_))]));
}

#[test]
fn pings_every_30_seconds_and_gives_up_after_60_of_silence() {
    let mut driver = Driver::connected(config());
    driver.pass(Duration::from_secs(29));
    assert!(driver.pings().is_empty());
    driver.pass(Duration::from_secs(1));
    assert_eq!(driver.pings().len(), 1);
    driver.pass(Duration::from_secs(29));
    assert!(driver.worker.is_connected());
    driver.pass(Duration::from_secs(1));
    assert!(!driver.worker.is_connected());
    let reconnect = MetricEvent::Reconnect(ReconnectReason::RemoteClose);
    assert_eq!(driver.metrics()[..2], [MetricEvent::Disconnected, reconnect]);
    assert_eq!(driver.count(|output| matches!(output, Output::Drop)), 1);
}

#[test]
fn anything_received_proves_life() {
    let inputs: [fn() -> Input<'static>; 5] =
        [|| Input::Ping, || Input::Pong(b"x"), || Input::Binary(1), || Input::Text("junk"), || Input::Received];
    for input in inputs {
        let mut driver = Driver::connected(config());
        for _ in 0..5 {
            driver.pass(Duration::from_secs(50));
            driver.handle(input());
        }
        assert!(driver.worker.is_connected());
    }
}

#[test]
fn a_write_that_takes_longer_than_10_seconds_ends_the_connection() {
    let mut driver = Driver::connected(config());
    driver.writes = false;
    driver.start("T");
    driver.pass(Duration::from_secs(9));
    driver.handle(Input::Ping);
    assert!(driver.worker.is_connected());
    driver.pass(Duration::from_secs(1));
    assert!(!driver.worker.is_connected());
}

#[test]
fn a_write_that_goes_on_slowly_is_no_dead_connection() {
    let mut driver = Driver::connected(config());
    driver.writes = false;
    driver.start("T");
    // Nothing arrives meanwhile: the Pings wait behind what is written.
    for _ in 0..30 {
        driver.pass(Duration::from_secs(9));
        driver.handle(Input::Taken);
    }
    assert!(driver.worker.is_connected());
    driver.pass(Duration::from_secs(10));
    assert!(!driver.worker.is_connected());
}

#[test]
fn what_the_socket_takes_at_once_proves_no_life() {
    let mut driver = Driver::connected(config());
    for _ in 0..6 {
        driver.handle(Input::Taken);
        driver.pass(Duration::from_secs(10));
    }
    assert!(!driver.worker.is_connected());
}

#[test]
fn a_dial_without_an_answer_fails_after_45_seconds() {
    let mut driver = Driver::new(config());
    driver.handle(Input::Timeout);
    driver.pass(Duration::from_secs(45));
    assert!(driver.metrics().contains(&MetricEvent::Reconnect(ReconnectReason::DialFailed)));
    driver.outputs.clear();
    driver.handle(Input::Connected);
    assert!(driver.outputs.is_empty(), "an answer that comes too late is none");
}

/// The wait until the next dial.
fn wait(driver: &Driver) -> Duration {
    driver.worker.poll_timeout().unwrap().since(Instant::new(driver.now))
}

#[test]
fn failed_dials_and_connections_that_bring_nothing_back_off_to_a_minute() {
    for connects in [false, true] {
        let mut driver = Driver::new(config());
        driver.handle(Input::Timeout);
        for step in [1, 2, 4, 8, 16, 32, 60, 60] {
            if connects {
                driver.handle(Input::Connected);
                // Junk is no message.
                driver.handle(Input::Text("junk"));
                driver.pass(Duration::from_millis(59_999));
                driver.handle(Input::Disconnected("cut".into()));
            } else {
                driver.handle(Input::DialFailed("refused".into()));
            }
            let (step, wait) = (Duration::from_secs(step), wait(&driver));
            assert!(wait >= step / 2 && wait <= step, "{wait:?} of {step:?}");
            driver.pass_to_timeout();
        }
    }
}

#[test]
fn after_a_connection_that_brought_a_message_or_lasted_a_minute_the_next_dial_is_within_500_ms() {
    let brings = |text: &'static str| move |driver: &mut Driver| driver.handle(Input::Text(text));
    let lasts = |driver: &mut Driver| {
        driver.pass(Duration::from_secs(30));
        driver.handle(Input::Received);
        driver.pass(Duration::from_secs(30));
    };
    let is_alive_after_a_minute = |driver: &mut Driver| {
        lasts(driver);
        driver.handle(Input::Ping);
        driver.pass(Duration::from_secs(59));
    };
    let goods: [&dyn Fn(&mut Driver); 5] = [
        &brings(r#"{"type":"task_cancellation","data":{"task_id":"T"}}"#),
        &brings(r#"{"type":"task_assignment","data":{"task_id":"T","task":{}}}"#),
        &brings(r#"{"type":"task_assignment","data":{"task_id":"T","task":7}}"#),
        &lasts,
        &is_alive_after_a_minute,
    ];
    for good in goods {
        let mut driver = Driver::new(config());
        driver.handle(Input::Timeout);
        for _ in 0..5 {
            driver.handle(Input::DialFailed("refused".into()));
            driver.pass_to_timeout();
        }
        driver.handle(Input::Connected);
        good(&mut driver);
        driver.handle(Input::Disconnected("cut".into()));
        assert!(wait(&driver) <= Duration::from_millis(500), "{:?}", wait(&driver));
        driver.pass_to_timeout();
        driver.handle(Input::DialFailed("refused".into()));
        assert!(wait(&driver) <= Duration::from_secs(1), "the steps begin anew");
    }
}

#[test]
fn a_connection_that_was_silent_from_its_first_minute_on_has_not_lasted() {
    let mut driver = Driver::connected(config());
    driver.pass(Duration::from_secs(40));
    driver.handle(Input::Ping);
    driver.pass(Duration::from_secs(60));
    assert!(!driver.worker.is_connected());
    assert!(wait(&driver) >= Duration::from_millis(500), "{:?}", wait(&driver));
}

#[test]
fn of_a_row_of_connections_that_bring_nothing_a_person_is_told_once() {
    let mut driver = Driver::new(config());
    driver.handle(Input::Timeout);
    for is_repeated in [false, true, true] {
        driver.outputs.clear();
        driver.handle(Input::Connected);
        assert_eq!(driver.notices(), [&Notice::Connected { unproven_ends: 0, is_repeated }]);
        driver.handle(Input::Disconnected("cut".into()));
        driver.pass_to_timeout();
    }
    driver.handle(Input::Connected);
    driver.outputs.clear();
    driver.assign("T", "e1");
    assert!(matches!(driver.notices()[..], [Notice::ConnectionStays, Notice::Claimed { .. }]));
    driver.outputs.clear();
    driver.reconnect();
    assert!(matches!(driver.notices()[..], [Notice::Connected { is_repeated: false, .. }]));
}

#[test]
fn inputs_that_make_no_sense_change_nothing() {
    let mut driver = Driver::new(config());
    let run = {
        let mut other = Driver::connected(config());
        other.start("T")
    };
    driver.handle(Input::Timeout);
    driver.outputs.clear();
    driver.handle(Input::Disconnected("what".into()));
    driver.handle(Input::Pong(b"12345678"));
    driver.assign("T", "e");
    driver.cancel("T");
    driver.end("T", run, Outcome::Completed);
    assert!(driver.outputs.is_empty(), "{:?}", driver.outputs);
}

#[test]
fn shutdown_stops_tasks_reports_them_and_leaves_when_the_reports_are_proven() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    assert_eq!(driver.stopped(), [run]);
    driver.assign("U", "e");
    assert_eq!(driver.sent(), ["task_rejected U worker is shutting down"]);
    driver.end("T", run, Outcome::Stopped);
    assert_eq!(driver.sent(), ["task_failed T graceful_shutdown"]);
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 0);
    driver.pong();
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);
    assert!(!driver.exited());
    driver.handle(Input::Disconnected("closed".into()));
    assert!(driver.exited());
    assert!(!driver.metrics().contains(&MetricEvent::Reconnect(ReconnectReason::RemoteClose)));
    assert_eq!(driver.worker.poll_timeout(), None);
}

#[test]
fn shutdown_is_bounded_whatever_the_server_and_the_tasks_do() {
    let mut driver = Driver::connected(config());
    driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    driver.pass(Duration::from_secs(20));
    assert_eq!(driver.sent(), ["task_claimed T", "task_failed T graceful_shutdown"]);
    driver.pass(Duration::from_secs(10));
    assert!(driver.notices().iter().any(|notice| matches!(notice, Notice::LeavingUnproven { .. })));
    driver.pass(Duration::from_secs(2));
    assert!(driver.exited());
}

#[test]
fn a_worker_without_a_connection_dials_at_once_to_report_what_it_has() {
    for (claim_is_proven, ended_before) in [(false, false), (true, false), (true, true)] {
        let mut driver = Driver::connected(config());
        let run = driver.start("T");
        if claim_is_proven {
            driver.pass_to_timeout();
            driver.pong();
        }
        driver.handle(Input::Disconnected("cut".into()));
        driver.pass_to_timeout();
        if ended_before {
            driver.end("T", run, Outcome::Completed);
        }
        for _ in 0..8 {
            driver.handle(Input::DialFailed("refused".into()));
            driver.pass_to_timeout();
        }
        driver.handle(Input::DialFailed("refused".into()));
        driver.outputs.clear();
        driver.handle(Input::Stop("SIGTERM"));
        assert_eq!(driver.count(|output| matches!(output, Output::Dial)), 1);
        driver.end("T", run, Outcome::Stopped);
        driver.handle(Input::Connected);
        driver.pong();
        assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);
    }
}

#[test]
fn an_idle_worker_leaves_at_once() {
    let mut driver = Driver::new(config());
    driver.handle(Input::Timeout);
    driver.handle(Input::Stop("SIGINT"));
    assert!(driver.exited());
    driver.outputs.clear();
    driver.handle(Input::Stop("SIGINT"));
    driver.handle(Input::Connected);
    assert!(driver.outputs.is_empty());
}

#[test]
fn nothing_comes_after_the_exit_even_when_a_dial_is_due_to_fail() {
    let mut driver = Driver::new(config());
    driver.handle(Input::Timeout);
    driver.outputs.clear();
    driver.now += Duration::from_secs(45);
    driver.handle(Input::Stop("SIGTERM"));
    assert!(matches!(driver.outputs.last(), Some(Output::Exit)), "{:?}", driver.outputs);
}

#[test]
fn a_drain_lets_tasks_finish_and_a_second_signal_skips_the_wait() {
    let draining = Config { drain_timeout: Duration::from_secs(3600), ..config() };
    let mut driver = Driver::connected(draining.clone());
    let run = driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    assert!(driver.stopped().is_empty());
    driver.sent();
    driver.assign("U", "e");
    assert_eq!(driver.sent(), ["task_rejected U worker is shutting down"]);
    driver.end("T", run, Outcome::Completed);
    assert_eq!(driver.sent(), ["task_completed T"]);
    driver.pong();
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);

    let mut driver = Driver::connected(draining.clone());
    let run = driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    driver.handle(Input::Stop("SIGTERM"));
    assert_eq!(driver.stopped(), [run]);

    let mut driver = Driver::connected(draining);
    let run = driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    for _ in 0..72 {
        driver.pass(Duration::from_secs(50));
        driver.handle(Input::Ping);
    }
    assert_eq!(driver.stopped(), [run], "the drain's time is over");
}

#[test]
fn nobody_is_told_of_a_drain_when_there_is_no_time_for_one_or_nothing_to_finish() {
    let draining = Config { drain_timeout: Duration::from_secs(3600), ..config() };
    for (config, task) in [(config(), Some("T")), (draining, None)] {
        let mut driver = Driver::connected(config);
        task.map(|task| driver.start(task));
        driver.outputs.clear();
        driver.handle(Input::Stop("SIGTERM"));
        let active = task.iter().len();
        assert!(
            matches!(driver.notices()[..], [Notice::Stopping { signal: "SIGTERM", active: told }] if *told == active),
            "{:?}",
            driver.notices()
        );
    }
}

#[test]
fn a_third_signal_leaves_without_waiting_for_anything() {
    let mut driver = Driver::connected(config());
    driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    assert_eq!(driver.sent(), ["task_failed T graceful_shutdown"]);
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);
}

#[test]
fn what_was_handed_over_is_left_alone_by_shutdown() {
    let mut driver = Driver::connected(Config { stops_tasks_on_shutdown: false, ..config() });
    let run = driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    assert!(driver.stopped().is_empty());
    driver.end("T", run, Outcome::Dispatched);
    driver.pong();
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);
}

#[test]
fn what_runs_elsewhere_and_can_be_taken_up_is_neither_told_nor_waited_for() {
    let config = Config { stops_tasks_on_shutdown: false, after_kill: AfterKill::Resumes, ..config() };
    let mut driver = Driver::connected(config);
    let run = driver.start("T");
    driver.handle(Input::TaskStarted { task_id: "T", run });
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    assert!(driver.stopped().is_empty());
    driver.pong();
    assert_eq!(driver.sent(), [""; 0]);
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);
}

#[test]
fn what_begins_elsewhere_on_the_way_out_is_left_alone_too_and_is_no_task_for_another_worker() {
    let config = Config { stops_tasks_on_shutdown: false, after_kill: AfterKill::Resumes, ..config() };
    let mut driver = Driver::connected(config);
    let run = driver.claim("T");
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    assert_eq!((driver.worker.active_tasks(), driver.exited()), (1, false));
    driver.handle(Input::TaskStarted { task_id: "T", run });
    assert_eq!(driver.worker.active_tasks(), 0);
    driver.assign("T", "e1");
    assert_eq!(driver.sent(), ["task_claimed T"]);
    driver.assign("T", "e2");
    assert_eq!(driver.sent(), ["task_rejected T worker is shutting down"]);
    assert!(driver.stopped().is_empty());
}

#[test]
fn a_user_who_cancels_what_was_let_go_is_heard_as_long_as_the_worker_is_there() {
    let config = || Config { stops_tasks_on_shutdown: false, after_kill: AfterKill::Resumes, ..config() };
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.handle(Input::TaskStarted { task_id: "T", run });
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    assert_eq!(driver.worker.active_tasks(), 0);
    driver.cancel("T");
    assert_eq!(driver.stopped(), [run]);
    // It waits for that, whatever it had to report before.
    driver.pong();
    assert_eq!((driver.worker.active_tasks(), driver.count(|output| matches!(output, Output::Close))), (1, 0));
    driver.end("T", run, Outcome::Stopped);
    assert_eq!(driver.sent(), ["task_completed T CANCELLED"]);
    driver.pong();
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);

    // How it ended by itself the next worker tells, also when nobody here learned it.
    for says_how in [true, false] {
        let mut driver = Driver::connected(config());
        let run = driver.start("T");
        driver.handle(Input::TaskStarted { task_id: "T", run });
        driver.sent();
        driver.handle(Input::Stop("SIGTERM"));
        if says_how {
            driver.finish("T", run, Outcome::Completed);
        } else {
            driver.clean_up("T", run);
        }
        driver.cancel("T");
        assert!(driver.stopped().is_empty() && driver.sent().is_empty());
        assert!(driver.notices().iter().any(|notice| matches!(notice, Notice::CancelTooLate { .. })));
    }

    // What has not stopped when the worker may wait no longer is told all the same.
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.handle(Input::TaskStarted { task_id: "T", run });
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    driver.cancel("T");
    driver.pass(Duration::from_secs(10));
    assert_eq!(driver.sent(), ["task_completed T CANCELLED"]);
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);
}

#[test]
fn a_user_who_cancels_a_task_that_shutdown_is_stopping_is_told_so() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    driver.cancel("T");
    driver.sent();
    driver.end("T", run, Outcome::Stopped);
    assert_eq!(driver.sent(), ["task_completed T CANCELLED"]);
}

#[test]
fn what_exited_0_and_is_stopped_while_it_is_cleaned_up_after_is_completed() {
    // By a shutdown that waits, by one that does not, and by one whose patience ends.
    for signals in 1..=2 {
        let mut driver = Driver::connected(config());
        let run = driver.start("T");
        driver.finish("T", run, Outcome::Completed);
        driver.sent();
        for _ in 0..signals {
            driver.handle(Input::Stop("SIGTERM"));
        }
        assert_eq!(driver.sent(), ["task_completed T"], "what has finished is told at once");
        assert!(driver.stopped().is_empty());
        driver.pass(Duration::from_secs(40));
        assert!(driver.exited());
        assert!(driver.sent().is_empty(), "and once");
    }
    // By its user.
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.finish("T", run, Outcome::Completed);
    driver.outputs.clear();
    driver.cancel("T");
    assert!(matches!(driver.outputs[..], [Output::Notice(Notice::CancelTooLate { .. })]));
    driver.finish("T", run, Outcome::Stopped);
    driver.clean_up("T", run);
    assert_eq!(driver.sent(), ["task_completed T"]);
}

#[test]
fn a_slot_is_held_and_nothing_is_told_until_the_clean_up_is_over() {
    let drain_timeout = Duration::from_secs(100);
    for stop in [false, true] {
        let mut driver = Driver::connected(Config { drain_timeout, ..config() });
        let run = driver.start("T");
        driver.sent();
        if stop {
            driver.handle(Input::Stop("SIGTERM"));
        }
        driver.outputs.clear();
        driver.finish("T", run, Outcome::Completed);
        assert!(driver.outputs.is_empty(), "{:?}", driver.outputs);
        assert_eq!(driver.worker.active_tasks(), 1);
        driver.clean_up("T", run);
        assert_eq!(driver.sent(), ["task_completed T"]);
        assert_eq!(driver.worker.active_tasks(), 0);
    }
}

#[test]
fn a_worker_that_leaves_tells_what_finishes_and_waits_for_the_clean_up() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    driver.finish("T", run, Outcome::Stopped);
    assert_eq!(driver.sent(), ["task_failed T graceful_shutdown"]);
    assert_eq!(driver.worker.active_tasks(), 0);
    driver.pong();
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 0);
    driver.outputs.clear();
    driver.cancel("T");
    assert!(matches!(driver.notices()[..], [Notice::CancelTooLate { .. }]));
    let cleanup = vec![failure(FailureReason::Cleanup)];
    let (task_id, phase, reason) = ("T", FailurePhase::Cleanup, FailureReason::Cleanup);
    driver.handle(Input::TaskEnded { task_id, run, cleanup: cleanup.clone() });
    assert_eq!(driver.metrics()[0], MetricEvent::TaskFailure { phase, reason });
    assert_eq!(driver.count(|output| matches!(output, Output::Close)), 1);
    driver.outputs.clear();
    driver.handle(Input::TaskEnded { task_id, run, cleanup });
    assert!(driver.outputs.is_empty(), "a second end of the same run changes nothing");
}

#[test]
fn a_task_that_ends_without_an_outcome_is_an_internal_failure() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.sent();
    driver.clean_up("T", run);
    assert_eq!(driver.sent(), ["task_failed T unknown"]);
}

#[test]
fn a_clean_up_that_fails_after_the_end_is_counted_and_told_and_changes_nothing() {
    let mut driver = Driver::connected(config());
    driver.handle(Input::CleanupFailed { task_id: "T", failure: failure(FailureReason::TeardownCommand) });
    let (phase, reason) = (FailurePhase::Cleanup, FailureReason::TeardownCommand);
    assert_eq!(driver.metrics(), [MetricEvent::TaskFailure { phase, reason }]);
    assert!(matches!(driver.notices()[..], [Notice::CleanupFailed { .. }]));
    assert_eq!(driver.outputs.len(), 2);
}

#[test]
fn a_worker_whose_task_has_not_started_after_10_s_is_not_ready_and_rejects() {
    let mut driver = Driver::connected(Config { max_concurrent_tasks: 0, ..config() });
    let late = driver.claim("A");
    driver.now += Duration::from_secs(5);
    driver.claim("B");
    driver.now += Duration::from_millis(4_999);
    let c = driver.start("C");
    assert!(driver.worker.is_ready());
    driver.outputs.clear();
    // The timer says so; an assignment that comes before it does not slip through.
    assert_eq!(driver.worker.poll_timeout(), Some(Instant::new(Duration::from_secs(10))));
    driver.now = Duration::from_secs(10);
    driver.assign("D", "e");
    driver.assign("E", "e");
    assert_eq!(driver.sent(), ["task_rejected D worker is not ready", "task_rejected E worker is not ready"]);
    assert!(!driver.worker.is_ready() && driver.started().is_empty());
    assert_eq!(driver.metrics(), [MetricEvent::TaskRejected(RejectReason::NotReady); 2]);
    let told = driver.notices();
    assert!(matches!(told[0], Notice::NotReady { task_id } if task_id == "A"), "{told:?}");
    let is_repeated = |notice: &Notice| matches!(notice, Notice::Rejected { is_repeated: true, .. });
    assert_eq!((told.len(), is_repeated(told[1]), is_repeated(told[2])), (3, false, true), "one line for a row");
    // What starts in time, or has an end, is no reason; the next that is late is no news.
    driver.end("C", c, Outcome::Completed);
    driver.now += Duration::from_secs(4);
    driver.outputs.clear();
    driver.handle(Input::TaskStarted { task_id: "A", run: late });
    assert!(matches!(driver.notices()[..], [Notice::Ready]));
    driver.start("F");
    assert!(driver.worker.is_ready());
    driver.outputs.clear();
    driver.now += Duration::from_secs(1);
    driver.handle(Input::Timeout);
    assert!(matches!(&driver.notices()[..], [Notice::NotReady { task_id }] if task_id == "B"));
    driver.handle(Input::Timeout);
    assert_eq!(driver.notices().len(), 1);
}

#[test]
fn a_task_that_ends_before_it_has_started_is_waited_for_no_longer() {
    let mut driver = Driver::connected(config());
    let run = driver.claim("T");
    driver.finish("T", run, failure_outcome());
    driver.pass(Duration::from_secs(11));
    assert!(driver.worker.is_ready());
}

fn failure_outcome() -> Outcome {
    Outcome::Failed(failure(FailureReason::SetupCommand))
}

#[test]
fn nobody_is_told_that_a_worker_is_ready_again_after_its_exit() {
    let mut driver = Driver::new(config());
    driver.handle(Input::Timeout);
    driver.handle(Input::Connected);
    driver.claim("T");
    driver.handle(Input::Disconnected("cut".into()));
    driver.now += Duration::from_secs(10);
    driver.handle(Input::Timeout);
    for _ in 0..2 {
        driver.handle(Input::Stop("SIGTERM"));
    }
    assert!(matches!(driver.outputs.last(), Some(Output::Exit)), "{:?}", driver.outputs);
}

#[test]
fn the_cause_of_each_lost_connection_is_a_fact() {
    let cause = |driver: &Driver| match driver.notices()[..] {
        [.., Notice::Disconnected { cause, .. } | Notice::DialFailed { cause, .. }] => cause.clone(),
        _ => panic!("{:?}", driver.notices()),
    };
    let mut driver = Driver::new(config());
    driver.handle(Input::Timeout);
    driver.pass_to_timeout();
    assert_eq!(cause(&driver), Cause::DialTimedOut(Duration::from_secs(45)));
    let mut driver = Driver::connected(config());
    driver.pass(Duration::from_secs(60));
    driver.outputs.retain(|output| matches!(output, Output::Notice(_)));
    assert_eq!(cause(&driver), Cause::Silent(Duration::from_secs(60)));
    let mut driver = Driver::connected(config());
    driver.writes = false;
    driver.start("T");
    driver.pass_to_timeout();
    assert_eq!(cause(&driver), Cause::WriteStalled(Duration::from_secs(10)));
    let mut driver = Driver::connected(config());
    driver.handle(Input::Disconnected("reset".into()));
    assert_eq!(cause(&driver), Cause::Outside("reset".into()));
}

// Records.

const END: &str = r#"{"type":"task_completed","data":{"task_id":"T","message":"Task completed successfully"}}"#;

fn journal() -> Config {
    Config { journal: true, ..config() }
}

fn claimed(task_id: &str) -> Record {
    Record::Claimed { task_id: task_id.into(), execution_id: Some("e1".into()) }
}

fn finished() -> Record {
    Record::Finished { task_id: "T".into(), execution_id: Some("e1".into()), message: END.into() }
}

#[test]
fn nothing_is_done_before_its_record_is_safe() {
    let mut driver = Driver::connected(journal());
    driver.assign("T", "e1");
    assert_eq!(driver.records(), [(1, claimed("T"))]);
    // One that waits is answered by the claim that waits.
    driver.assign("T", "e1");
    assert!(driver.sent().is_empty() && driver.started().is_empty());
    driver.cancel("T");
    driver.handle(Input::Durable(1));
    assert_eq!(driver.sent(), ["task_claimed T"]);
    let run = driver.started()[0];
    assert!(driver.stopped().is_empty());
    assert_eq!(driver.records()[1..], [(2, Record::CancelAsked { task_id: "T".into() })]);
    driver.handle(Input::Durable(2));
    assert_eq!(driver.stopped(), [run]);
    driver.end("T", run, Outcome::Completed);
    assert_eq!(driver.records()[2..], [(3, finished())]);
    assert!(driver.sent().is_empty());
    assert_eq!(driver.worker.active_tasks(), 1);
    driver.clean_up("T", run);
    driver.handle(Input::Durable(3));
    assert_eq!(driver.sent(), ["task_completed T"]);
    driver.pong();
    assert_eq!(driver.records()[3..], [(4, Record::Told { task_id: "T".into(), execution_id: Some("e1".into()) })]);
}

#[test]
fn a_dispatch_is_recorded_before_and_after() {
    let mut driver = Driver::connected(Config { after_kill: AfterKill::IsCancelled, ..journal() });
    driver.assign("T", "e1");
    driver.handle(Input::Durable(1));
    assert!(driver.started().is_empty());
    driver.handle(Input::Durable(2));
    let run = driver.started()[0];
    driver.end("T", run, Outcome::Dispatched);
    let (task_id, execution_id) = (String::from("T"), Some(String::from("e1")));
    let dispatching = Record::Dispatching { task_id: task_id.clone() };
    let dispatched = Record::Dispatched { task_id, execution_id };
    assert_eq!(driver.records(), [(1, claimed("T")), (2, dispatching), (3, dispatched)]);
    driver.handle(Input::Durable(3));
    assert_eq!(driver.worker.active_tasks(), 0);
}

#[test]
fn an_old_end_is_forgotten_before_the_new_execution_is_claimed() {
    let mut driver = Driver::connected(journal());
    driver.assign("T", "e1");
    driver.handle(Input::Durable(1));
    let run = driver.started()[0];
    driver.end("T", run, Outcome::Completed);
    driver.handle(Input::Durable(2));
    driver.assign("T", "e2");
    let records: Vec<Record> = driver.records().into_iter().skip(2).map(|(_, record)| record).collect();
    let e2 = Record::Claimed { task_id: "T".into(), execution_id: Some("e2".into()) };
    assert_eq!(records, [Record::Forgotten { task_id: "T".into() }, e2]);
}

#[test]
fn what_cannot_be_understood_is_answered_at_once_and_recorded() {
    let mut driver = Driver::connected(journal());
    driver.handle(Input::Text(r#"{"type":"task_assignment","data":{"task_id":"T","execution_id":"e1","task":7}}"#));
    assert_eq!(driver.sent(), ["task_failed T unknown"]);
    assert!(
        matches!(&driver.records()[..], [(1, Record::Finished { message, .. })] if message.contains("task_failed"))
    );
}

#[test]
fn a_disk_that_hangs_does_not_keep_the_worker_from_leaving() {
    let mut driver = Driver::connected(journal());
    driver.assign("A", "e1");
    driver.handle(Input::Durable(1));
    driver.assign("T", "e1");
    driver.sent();
    driver.handle(Input::Stop("SIGTERM"));
    assert_eq!(driver.stopped().len(), 1);
    driver.pass(Duration::from_secs(20));
    let reported = ["task_failed A graceful_shutdown", "task_claimed T", "task_failed T graceful_shutdown"];
    assert_eq!(driver.sent(), reported);
    driver.handle(Input::Durable(9));
    assert_eq!(driver.started().len(), 1, "what was given up is not started any more");
    assert!(driver.sent().is_empty());
}

#[test]
fn a_task_whose_claim_is_safe_only_after_the_signal_is_stopped_at_once() {
    let mut driver = Driver::connected(journal());
    driver.assign("T", "e1");
    driver.handle(Input::Stop("SIGTERM"));
    assert!(driver.stopped().is_empty());
    driver.handle(Input::Durable(1));
    assert_eq!(driver.stopped(), driver.started());
    assert_eq!(driver.stopped().len(), 1);
    // Here both want it to stop.
    let mut driver = Driver::connected(journal());
    driver.assign("T", "e1");
    driver.cancel("T");
    driver.handle(Input::Stop("SIGTERM"));
    driver.handle(Input::Durable(1));
    assert!(driver.stopped().is_empty(), "the cancellation is not safe yet");
    driver.handle(Input::Durable(2));
    assert_eq!(driver.stopped().len(), 1);
}

#[test]
fn a_restored_worker_tells_what_is_not_told_and_knows_what_is() {
    let told = Record::Told { task_id: "T".into(), execution_id: Some("e1".into()) };
    let mut driver = Driver::restored(journal(), Duration::ZERO, &[claimed("T"), finished()]);
    assert_eq!(driver.sent(), ["task_claimed T", "task_completed T"]);
    driver.pong();
    assert_eq!(driver.records(), [(1, told.clone())]);
    let mut driver = Driver::restored(journal(), Duration::ZERO, &[claimed("T"), finished(), told]);
    assert!(driver.sent().is_empty());
    driver.assign("T", "e1");
    assert_eq!(driver.sent(), ["task_claimed T", "task_completed T"]);
    assert!(driver.started().is_empty());
    driver.assign("T", "e2");
    assert_eq!(driver.worker.active_tasks(), 1);
}

#[test]
fn what_was_answered_without_a_claim_is_told_without_one() {
    let mut driver = Driver::restored(journal(), Duration::ZERO, &[finished()]);
    assert_eq!(driver.sent(), ["task_completed T"]);
}

#[test]
fn an_end_that_is_older_than_a_day_is_not_told() {
    let day = Duration::from_secs(24 * 60 * 60);
    let mut driver = Driver::restored(journal(), day, &[claimed("T"), finished()]);
    assert_eq!(driver.sent().len(), 2);
    let age = day + Duration::from_secs(1);
    let mut driver = Driver::restored(journal(), age, &[claimed("T"), finished()]);
    assert!(driver.sent().is_empty());
    assert_eq!(driver.records(), [(1, Record::Forgotten { task_id: "T".into() })]);
    let old = Notice::TooOldToTell { task_id: "T".into(), age };
    assert!(driver.notices().contains(&&old));
}

#[test]
fn what_ran_when_the_worker_was_killed_failed_or_was_cancelled() {
    let cancel = Record::CancelAsked { task_id: "U".into() };
    let mut driver = Driver::restored(journal(), Duration::ZERO, &[claimed("T"), claimed("U"), cancel]);
    let said = ["task_claimed T", "task_claimed U", "task_failed T unknown", "task_completed U CANCELLED"];
    assert_eq!(driver.sent(), said);
    let (phase, reason) = (FailurePhase::Backend, FailureReason::Unknown);
    assert_eq!(driver.metrics()[0], MetricEvent::TaskFailure { phase, reason });
    assert_eq!(driver.worker.active_tasks(), 0);
    let ends = driver.records().into_iter().filter(|(_, record)| matches!(record, Record::Finished { .. }));
    assert_eq!(ends.count(), 2);
    let results = driver.notices().into_iter().filter_map(|notice| match notice {
        Notice::Interrupted { result, .. } => Some(*result),
        _ => None,
    });
    assert_eq!(results.collect::<Vec<_>>(), [TaskResult::Failed, TaskResult::Cancelled]);
}

#[test]
fn what_was_being_dispatched_is_cancelled_and_failed() {
    let dispatching = Record::Dispatching { task_id: "T".into() };
    let config = Config { after_kill: AfterKill::IsCancelled, ..journal() };
    let mut driver = Driver::restored(config, Duration::ZERO, &[claimed("T"), dispatching, claimed("U")]);
    let cancelled = driver.outputs.iter().filter_map(|output| match output {
        Output::CancelDispatched { task_id, execution_id } => Some((task_id.clone(), execution_id.clone())),
        _ => None,
    });
    assert_eq!(cancelled.collect::<Vec<_>>(), [("T".into(), Some("e1".into()))], "U had not got that far");
    assert_eq!(driver.sent()[2..], ["task_failed T unknown", "task_failed U unknown"]);
}

#[test]
fn what_can_be_taken_up_holds_a_slot_and_ends_once() {
    let cancel = Record::CancelAsked { task_id: "U".into() };
    let config = Config { after_kill: AfterKill::Resumes, ..journal() };
    let records = [claimed("T"), claimed("U"), cancel];
    let mut driver = Driver::restored(config, Duration::from_secs(60), &records);
    let resumed = driver.outputs.iter().filter_map(|output| match output {
        Output::ResumeTask { run, task_id, execution_id } if execution_id.as_deref() == Some("e1") => {
            Some((task_id.clone(), *run))
        }
        _ => None,
    });
    let resumed: Vec<(String, RunId)> = resumed.collect();
    assert_eq!(driver.metrics()[..2], [MetricEvent::TaskResumed; 2]);
    assert_ne!(resumed[0].1, resumed[1].1, "each run has a number of its own");
    assert_eq!(driver.stopped(), [resumed[1].1], "that was asked before");
    assert_eq!(driver.sent(), ["task_claimed T", "task_claimed U"]);
    driver.assign("V", "e");
    assert_eq!(driver.sent(), ["task_rejected V worker at maximum concurrency"]);
    driver.outputs.clear();
    driver.now += Duration::from_secs(5);
    driver.end("T", resumed[0].1, Outcome::Completed);
    driver.end("U", resumed[1].1, Outcome::Stopped);
    driver.handle(Input::Durable(2));
    assert_eq!(driver.sent(), ["task_completed T", "task_completed U CANCELLED"]);
    let completed = MetricEvent::TaskCompleted { result: TaskResult::Succeeded, duration: Duration::from_secs(65) };
    assert!(driver.metrics().contains(&completed), "what it ran before counts too");
}

fn found(driver: &mut Driver, execution_id: &str) {
    driver.handle(Input::Found { task_id: "T", execution_id: Some(execution_id), age: Duration::from_secs(60) });
}

#[test]
fn what_is_found_later_is_claimed_holds_a_slot_and_can_be_cancelled() {
    let mut driver = Driver::connected(Config { after_kill: AfterKill::Resumes, ..config() });
    found(&mut driver, "e1");
    let run = match &driver.outputs[..] {
        [.., Output::ResumeTask { run, task_id, .. }, Output::Notice(_)] if task_id == "T" => *run,
        outputs => panic!("{outputs:?}"),
    };
    assert_eq!((driver.sent().len(), driver.worker.active_tasks()), (1, 1));
    found(&mut driver, "e1");
    assert_eq!((driver.sent().len(), driver.worker.active_tasks()), (0, 1));
    driver.cancel("T");
    assert_eq!(driver.count(|output| matches!(output, Output::StopTask { .. })), 1);
    driver.end("T", run, Outcome::Stopped);
    assert_eq!((driver.sent().len(), driver.worker.active_tasks()), (1, 0));
}

fn settled(driver: &Driver) -> Vec<Option<&str>> {
    let outputs = driver.outputs.iter();
    let settled = outputs.filter_map(|output| match output {
        Output::Settled { execution_id, .. } => Some(execution_id.as_deref()),
        _ => None,
    });
    settled.collect()
}

#[test]
fn an_end_is_settled_once_it_is_proven_or_given_up() {
    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Completed);
    assert_eq!(settled(&driver), []);
    driver.pong();
    assert_eq!(settled(&driver), [Some("e1")]);

    let mut driver = Driver::connected(config());
    let run = driver.start("T");
    driver.end("T", run, Outcome::Completed);
    driver.assign("T", "e2");
    assert_eq!(settled(&driver), [Some("e1")]);
    // An execution that the server has moved on from is found while the next one runs.
    found(&mut driver, "e0");
    assert_eq!((settled(&driver), driver.worker.active_tasks()), (vec![Some("e1"), Some("e0")], 1));
}

#[test]
fn a_worker_that_leaves_takes_up_nothing() {
    let mut driver = Driver::connected(config());
    driver.start("T");
    driver.handle(Input::Stop("SIGTERM"));
    driver.handle(Input::Found { task_id: "U", execution_id: None, age: Duration::ZERO });
    assert_eq!(driver.count(|output| matches!(output, Output::ResumeTask { .. })), 0);
}

#[test]
fn what_was_dispatched_is_still_found_by_a_cancellation() {
    let dispatched = Record::Dispatched { task_id: "T".into(), execution_id: Some("e1".into()) };
    let mut driver = Driver::restored(journal(), Duration::ZERO, &[claimed("T"), dispatched]);
    assert!(driver.sent().is_empty());
    driver.cancel("T");
    assert_eq!(driver.count(|output| matches!(output, Output::CancelDispatched { .. })), 1);
}

#[test]
fn records_that_do_not_fit_together_are_read_all_the_same() {
    let none = |record: fn(String) -> Record| record("X".into());
    let records = [
        none(|task_id| Record::Told { task_id, execution_id: None }),
        none(|task_id| Record::CancelAsked { task_id }),
        none(|task_id| Record::Dispatching { task_id }),
        none(|task_id| Record::Forgotten { task_id }),
        claimed("T"),
        claimed("T"),
    ];
    let mut driver = Driver::restored(journal(), Duration::ZERO, &records);
    assert_eq!(driver.sent(), ["task_claimed T", "task_failed T unknown"]);
}

#[test]
fn a_record_about_one_end_leaves_every_other_alone() {
    let told = |execution_id: &str| Record::Told { task_id: "T".into(), execution_id: Some(execution_id.into()) };
    let forgotten = |task_id: &str| Record::Forgotten { task_id: task_id.into() };
    for (record, is_sent) in [(told("e1"), false), (told("e2"), true), (forgotten("T"), false), (forgotten("U"), true)]
    {
        let mut driver = Driver::restored(journal(), Duration::ZERO, &[finished(), record.clone()]);
        assert_eq!(driver.sent().len(), usize::from(is_sent), "{record:?}");
    }
}
