//! What must hold for a worker whatever happens to it. The property tests play any steps against it, and so does the fuzz
//! target `session`, which includes this very module.
//!
//! Two things look at each step. [`watch`] knows a few laws and nothing of how the worker keeps them. [`reference`] is the
//! protocol once more, written flat: it foretells each output. Whoever finds a difference names the law that was broken.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod killed;
mod reference;
mod step;
mod watch;

use std::time::Duration;

pub use killed::kill;
use oz_worker_core::agent::AgentSettings;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::time::Instant;
use oz_worker_core::{Config, Input, Outcome, Output, RunId, Worker};
use reference::Reference;
pub use step::{Ended, Pong, Setup, Step, What};
use watch::Watch;

/// Panics with the law's name unless it holds.
macro_rules! law {
    ($name:literal, $holds:expr) => {
        law!($name, $holds, "")
    };
    ($name:literal, $holds:expr, $($detail:tt)+) => {
        assert!($holds, "broken law: {}: {}", $name, format_args!($($detail)+))
    };
}
pub(crate) use law;

/// The longest that everything may take once the outside behaves: the longest wait between dials.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A worker, and those who look at it.
pub struct World {
    worker: Worker,
    setup: Setup,
    now: Instant,
    watch: Watch,
    /// What foretells each output; of a worker that waits for its records only the laws are known.
    reference: Option<Reference>,
}

/// Plays `steps` to a new worker, and then shows that everything comes to its end once the outside behaves.
pub fn play(setup: &Setup, steps: &[Step]) {
    let mut world = World::new(setup, false);
    for step in steps {
        world.step(step);
    }
    world.settle();
    world.leave();
}

/// Drops a fleet of workers, one per seed, at the same moment, and looks at when they dial.
pub fn drop_fleet(seeds: impl Iterator<Item = u64>) {
    let dials: Vec<Duration> = seeds
        .map(|seed| {
            let setup = Setup { limit: 1, drain_seconds: 0, stop_seconds: 1, stops_tasks: true, after_kill: 0, seed };
            let mut world = World::new(&setup, false);
            // A message: the connection was good.
            let message = What::Cancel { task: 0 };
            for what in [What::Timer, What::Connected, message, What::Disconnected] {
                world.step(&Step { after_ms: 0, what });
            }
            world.worker.poll_timeout().unwrap().since_start()
        })
        .collect();
    // The first wait is drawn from 500 ms: a fifth of the workers in each 100 ms is their mean rate.
    for dial in &dials {
        let with = dials.iter().filter(|other| **other >= *dial && **other < *dial + Duration::from_millis(100));
        law!("a fleet does not come back in lockstep", with.count() <= 3 * dials.len() / 5);
    }
}

fn config(setup: &Setup, journal: bool) -> Config {
    Config {
        worker_id: "w".into(),
        max_concurrent_tasks: setup.limit.into(),
        drain_timeout: Duration::from_secs(setup.drain_seconds.into()),
        stop_timeout: Duration::from_secs(setup.stop_seconds.into()),
        stops_tasks_on_shutdown: setup.stops_tasks,
        after_kill: step::after_kill(setup.after_kill),
        journal,
        agent: AgentSettings::default(),
    }
}

impl World {
    fn new(setup: &Setup, journal: bool) -> Self {
        let config = config(setup, journal);
        Self {
            reference: (!journal).then(|| Reference::new(&config)),
            watch: Watch::new(&config, journal),
            worker: Worker::new(config, setup.seed),
            setup: *setup,
            now: Instant::default(),
        }
    }
    fn step(&mut self, step: &Step) {
        self.now = self.now.plus(Duration::from_millis(step.after_ms.into()));
        match &step.what {
            What::Timer => {
                let due = self.worker.poll_timeout().unwrap_or(self.now);
                self.now = self.now.max(due);
                self.handle(Input::Timeout);
            }
            What::Nothing => self.handle(Input::Timeout),
            What::Connected => self.handle(Input::Connected),
            What::DialFailed => self.handle(Input::DialFailed("refused".into())),
            What::Disconnected => self.handle(Input::Disconnected("cut".into())),
            What::Assign { task, execution } => self.handle(Input::Text(&step::assignment(*task, *execution))),
            What::Malformed { task, execution } => self.handle(Input::Text(&step::malformed(*task, *execution))),
            What::Cancel { task } => self.handle(Input::Text(&step::cancellation(*task))),
            What::Junk => self.handle(Input::Text(r#"{"type":"task_assignment","data":{"task":{}}}"#)),
            What::Binary => self.handle(Input::Binary(3)),
            What::Ping => self.handle(Input::Ping),
            What::Pong(Pong::Sent(back)) => {
                let pings = self.watch.pings();
                let chosen = pings.len().checked_sub(1 + usize::from(*back));
                let payload = chosen.map_or([7; 8], |index| pings[index]);
                self.handle(Input::Pong(&payload));
            }
            What::Pong(Pong::Serial(serial)) => self.handle(Input::Pong(&u64::from(*serial).to_be_bytes())),
            What::Pong(Pong::Other(payload)) => self.handle(Input::Pong(payload)),
            What::Received => self.handle(Input::Received),
            What::Taken => self.handle(Input::Taken),
            What::Written => self.handle(Input::Written),
            What::Started { which } => {
                if let Some((task_id, run)) = self.run(*which) {
                    self.handle(Input::TaskStarted { task_id: &task_id, run });
                }
            }
            What::Finished { which, how } => {
                if let Some((task_id, run)) = self.run(*which) {
                    let outcome = step::outcome(*how, self.watch.is_stopping(run));
                    self.handle(Input::TaskFinished { task_id: &task_id, run, outcome });
                }
            }
            What::Ended { which, cleanup_failed } => {
                if let Some((task_id, run)) = self.run(*which) {
                    let cleanup = cleanup_failed.then(|| step::failure(FailureReason::Cleanup, 1));
                    self.handle(Input::TaskEnded { task_id: &task_id, run, cleanup: cleanup.into_iter().collect() });
                }
            }
            What::CleanupFailed { task } => {
                let failure = step::failure(FailureReason::TeardownCommand, 1);
                self.handle(Input::CleanupFailed { task_id: &step::task_id(*task), failure });
            }
            What::Safe { back } => {
                let safe = self.watch.records.len().saturating_sub((*back).into());
                self.handle(Input::Durable(safe as u64));
            }
            What::CancelFailed { task } => {
                self.handle(Input::CancelFailed { task_id: &step::task_id(*task), problem: "no".into() });
            }
            What::Stop => self.handle(Input::Stop("SIGTERM")),
        }
    }

    /// One of all the runs there ever were, counted from the newest: what ended already may end again.
    fn run(&self, which: u8) -> Option<(String, RunId)> {
        let runs = self.watch.runs();
        runs.iter().rev().nth(usize::from(which) % runs.len().max(1)).cloned()
    }

    fn handle(&mut self, input: Input<'_>) {
        if let Some(reference) = &mut self.reference {
            reference.foretell(self.now, &input);
        }
        self.watch.before(&input);
        self.worker.handle(self.now, input);
        let outputs: Vec<Output> = core::iter::from_fn(|| self.worker.poll_output()).collect();
        for output in &outputs {
            self.watch.output(output);
        }
        self.watch.after(&self.worker, self.now);
        if let Some(reference) = &mut self.reference {
            reference.compare(&outputs, &self.worker);
        }
    }

    /// From here on the outside behaves: dials succeed, everything is written and answered, tasks end. All that is owed is
    /// delivered within one wait between dials, and then a worker that was not asked to leave claims the next task.
    fn settle(&mut self) {
        let from = self.now;
        // Each round either lets something happen or the worker is done.
        for _ in 0..200 {
            if self.worker.poll_timeout().is_none() || !self.behave() {
                break;
            }
        }
        law!("everything ends once the outside behaves", self.watch.is_settled(), "{:?}", self.worker);
        let gone = self.worker.poll_timeout().is_none();
        law!("everything ends once the outside behaves", gone || self.worker.unproven_ends() == 0, "{:?}", self.worker);
        let took = self.now.since(from);
        law!("everything ends in time", took <= LONGEST_WAIT, "took {took:?}");
        if self.watch.may_claim() {
            let runs = self.watch.runs().len();
            self.handle(Input::Text(step::UNUSED));
            self.handle(Input::Durable(u64::MAX));
            law!("a slot is free as soon as its task has ended", self.watch.runs().len() == runs + 1);
        }
    }

    /// One thing that a well-behaved outside does; `false` when there is nothing left to do.
    fn behave(&mut self) -> bool {
        if self.watch.is_dialing() {
            self.handle(Input::Connected);
        } else if self.watch.is_closing() {
            self.handle(Input::Disconnected("closed".into()));
        } else if self.watch.is_unwritten() {
            self.handle(Input::Written);
        } else if let Some(payload) = self.watch.unanswered_ping() {
            self.handle(Input::Pong(&payload));
        } else if self.watch.unsafe_records() > 0 {
            self.handle(Input::Durable(self.watch.records.len() as u64));
        } else if let Some((task_id, run, is_finished)) = self.watch.unended() {
            let outcome = if self.watch.is_stopping(run) { Outcome::Stopped } else { Outcome::Completed };
            self.handle(if is_finished {
                Input::TaskEnded { task_id: &task_id, run, cleanup: Vec::new() }
            } else {
                Input::TaskFinished { task_id: &task_id, run, outcome }
            });
        } else if self.watch.is_connected() {
            return false;
        } else {
            self.step(&Step { after_ms: 0, what: What::Timer });
        }
        true
    }

    /// Asked to leave, the worker does within its bound although nobody ever answers it.
    fn leave(&mut self) {
        let from = self.now;
        self.handle(Input::Stop("SIGTERM"));
        for _ in 0..2000 {
            if self.worker.poll_timeout().is_none() {
                break;
            }
            self.step(&Step { after_ms: 0, what: What::Timer });
            if self.watch.is_connected() {
                // Alive, but no help.
                self.handle(Input::Ping);
            }
        }
        // Drain and stop as configured, 10 s for the reports, 2 s for the closing handshake: `docs/protocol.md`, Shutdown.
        let configured = u64::from(self.setup.drain_seconds) + u64::from(self.setup.stop_seconds);
        let bound = Duration::from_secs(configured + 10 + 2);
        law!("shutdown ends within its bound", self.worker.poll_timeout().is_none(), "{:?}", self.worker);
        let took = self.now.since(from);
        law!("shutdown ends within its bound", took <= bound, "took {took:?}");
        for input in [Input::Timeout, Input::Connected, Input::Stop("SIGINT"), Input::Ping] {
            self.handle(input);
        }
    }
}
