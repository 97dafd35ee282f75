//! The core alone, on one processor: inputs, decoding, and what they allocate.

use std::{hint::black_box, time::Duration};

use oz_worker_core::{
    AfterKill, Config, Frame, Input, Outcome, Output, RunId, Worker, agent::AgentSettings, message::decode,
    time::Instant,
};
use serde::de::IgnoredAny;

use crate::{
    Effort, allocations,
    proc::nanos,
    report::{self, Report, Row, per_second},
    wire::{assignment, task_id},
};

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("core alone, on one processor");
    let rounds = effort.pick(60, 15);
    inputs(report, rounds);
    decoding(report, rounds);
    whole_tasks(rounds);
    allocated(report);
}

/// A connected worker with one slot, and the time.
struct Core {
    worker: Worker,
    now: Duration,
    /// The serial of the newest Ping.
    pinged: [u8; 8],
    started: Option<RunId>,
}

impl Core {
    fn connected() -> Self {
        let config = Config {
            worker_id: "bench".into(),
            max_concurrent_tasks: 1,
            drain_timeout: Duration::ZERO,
            stop_timeout: Duration::from_secs(10),
            stops_tasks_on_shutdown: true,
            after_kill: AfterKill::Fails,
            journal: false,
            agent: AgentSettings::default(),
        };
        let mut core =
            Self { worker: Worker::new(config, 1), now: Duration::from_secs(1), pinged: [0; 8], started: None };
        core.give(Input::Timeout);
        core.give(Input::Connected);
        assert!(core.worker.is_connected());
        core
    }

    /// What the run loop does with one input.
    fn give(&mut self, input: Input<'_>) {
        self.now += Duration::from_micros(1);
        self.worker.handle(Instant::new(self.now), input);
        while let Some(output) = self.worker.poll_output() {
            match black_box(output) {
                Output::Send(Frame::Ping(payload)) => self.pinged = payload,
                Output::StartTask { run, .. } => self.started = Some(run),
                _ => {}
            }
        }
        black_box(self.worker.poll_timeout());
    }

    /// Time until the next keepalive Ping passes.
    fn tick(&mut self) {
        self.now += Duration::from_secs(30);
        self.give(Input::Timeout);
    }

    fn pong(&mut self) {
        let payload = self.pinged;
        self.give(Input::Pong(&payload));
    }
}

fn inputs(report: &mut Report, rounds: u32) {
    let mut core = Core::connected();
    // A connection's daily life; every sixth input is a keepalive that is due.
    let mixed = nanos(rounds, |batch| {
        for _ in 0..batch / 6 {
            core.give(Input::Ping);
            core.give(Input::Timeout);
            core.tick();
            core.give(Input::Written);
            core.pong();
            core.give(Input::Binary(3));
        }
    });
    let mut calls = 0_u64;
    let call = nanos(rounds, |batch| {
        for number in 0..u64::from(batch) {
            calls = black_box(empty(calls, &Input::Pong(&number.to_be_bytes())));
        }
    });
    let rate = 1e9 / mixed;
    Row::new("inputs, decoded already", per_second(rate))
        .beside("a call that does nothing", &per_second(1e9 / call), call / mixed)
        .at_least(rate, 5e6, "/s")
        .print(report);
    let mut each = |what: &str, input: Input<'static>| {
        format!("{what} {:.0} ns", nanos(rounds / 3, |batch| (0..batch).for_each(|_| core.give(input.clone()))))
    };
    let each = [each("Ping", Input::Ping), each("Pong", Input::Pong(&[0; 8])), each("tick", Input::Timeout)];
    report::note(&format!("{mixed:.0} ns each in a mix; {}", each.join(", ")));
}

#[inline(never)]
fn empty(calls: u64, input: &Input<'_>) -> u64 {
    black_box(input);
    calls + 1
}

fn decoding(report: &mut Report, rounds: u32) {
    let texts: Vec<String> = (0..100).map(assignment).collect();
    let size = texts[0].len();
    let each = |act: &mut dyn FnMut(&str)| {
        nanos(rounds, |batch| {
            for text in texts.iter().cycle().take(batch as usize) {
                act(black_box(text));
            }
        })
    };
    let decoded = each(&mut |text| assert!(black_box(&decode(text)).is_ok()));
    let skipped = each(&mut |text| assert!(black_box(&serde_json::from_str::<IgnoredAny>(text)).is_ok()));
    let valid = each(&mut |text| assert!(black_box(str::from_utf8(text.as_bytes())).is_ok()));
    let rate = 1e9 / decoded;
    Row::new(&format!("assignments of {size} bytes decoded"), per_second(rate))
        .beside("JSON skipped by serde_json", &per_second(1e9 / skipped), skipped / decoded)
        .at_least(rate, 1e6, "/s")
        .print(report);
    let speed = |nanos: f64| size as f64 * 1e3 / nanos;
    report::note(&format!(
        "{decoded:.0} ns, {:.0} MB/s; JSON skipped {skipped:.0} ns, {:.0} MB/s; only checked for UTF-8 {:.0} MB/s",
        speed(decoded),
        speed(skipped),
        speed(valid)
    ));
}

fn whole_tasks(rounds: u32) {
    // More than the ends that the worker remembers, so that it runs each of them again.
    const TASKS: usize = 500;
    let texts: Vec<String> = (0..TASKS).map(assignment).collect();
    let ids: Vec<String> = (0..TASKS).map(task_id).collect();
    let mut core = Core::connected();
    let tasks = nanos(rounds / 3, |batch| {
        for (text, task_id) in texts.iter().zip(&ids).cycle().take(batch as usize) {
            core.give(Input::Text(text));
            core.give(Input::Written);
            let run = core.started.take().expect("the task was started");
            core.give(Input::TaskStarted { task_id, run });
            core.give(Input::TaskFinished { task_id, run, outcome: Outcome::Completed });
            core.give(Input::TaskEnded { task_id, run, cleanup: Vec::new() });
            core.give(Input::Written);
            core.pong();
        }
    });
    core.give(Input::Text(&assignment(TASKS)));
    let rejections = nanos(rounds / 3, |batch| {
        for text in texts.iter().cycle().take(batch as usize) {
            core.give(Input::Text(text));
        }
    });
    report::note(&format!(
        "a task from assignment to proven end {tasks:.0} ns; a rejection at capacity, decoding included, {rejections:.0} ns"
    ));
}

fn allocated(report: &mut Report) {
    let mut core = Core::connected();
    for (what, act) in [
        ("allocations per 100,000 Pings", (|core| core.give(Input::Ping)) as fn(&mut Core)),
        ("allocations per 100,000 Pongs", Core::pong),
        ("allocations per 100,000 ticks", |core| core.give(Input::Timeout)),
        ("allocations per 100,000 ticks that send a Ping", |core| {
            core.tick();
            core.give(Input::Written);
            core.pong();
        }),
    ] {
        // The first few make room that is kept.
        (0..10).for_each(|_| act(&mut core));
        let count = allocations::during(|| (0..100_000).for_each(|_| act(&mut core)));
        assert!(core.worker.is_connected(), "something else was measured");
        Row::new(what, count.to_string()).at_most(count as f64, 0.0, "").print(report);
    }
}
