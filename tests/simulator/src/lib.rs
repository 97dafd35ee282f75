//! The whole worker in virtual time, from one seed, against a reference model of the server.
//!
//! A third [`Runtime`](oz_worker_runtime::Runtime): everything above that trait runs as it does in the program (run loop, link,
//! WebSocket bytes, backends, metrics), and everything below it is simulated here: the order in which things run, the
//! [network], [processes](process), the [disk], the [clock](machine::Clock), suspends, signals. All of it is
//! drawn from one seed, so that a run that finds something can be run again. What must hold is in `docs/guarantees.md`.
//!
//! ```
//! use oz_worker_simulator::{Options, simulate};
//!
//! let report = simulate(1, Options::default());
//! assert!(report.violations.is_empty(), "{report}");
//! ```
//!
//! The executor is `async_task` and a page of code: ready tasks are picked at random, which finds orders that a queue never
//! has, and a machine can be suspended. `bach` has neither, and brings a second copy of half the tree.

// A simulator that is wrong may panic: it runs in tests only.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

pub mod cluster;
mod contained;
pub mod disk;
pub mod engine;
pub mod executor;
pub mod fleet;
pub mod journal;
pub mod lanes;
mod leaving;
pub mod ledger;
pub mod machine;
pub mod neighbour;
pub mod network;
mod pair;
pub mod process;
pub mod scene;
pub mod server;
mod storm;
pub mod watch;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use executor::Executor;
use scene::{Operator, Scene};

/// What may go wrong in a run.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Dials fail, connections break.
    pub network: bool,
    /// The server refuses, closes, does not read.
    pub server: bool,
    /// Processes misbehave.
    pub processes: bool,
    /// Calls of the file system fail.
    pub disk: bool,
    /// Whatever may block does.
    pub blocking: bool,
    /// The worker's machine is suspended.
    pub suspend: bool,
    /// The engine or the cluster breaks off, stands still, is restarted, loses what it has; workers on it are killed.
    pub engine: bool,
    /// Tasks run on a cluster; else on the worker's machine, on an engine, or wherever a command takes them.
    pub cluster: bool,
}

impl Default for Options {
    /// Everything that breaks, without a cluster.
    fn default() -> Self {
        Self {
            network: true,
            server: true,
            processes: true,
            disk: true,
            blocking: true,
            suspend: true,
            engine: true,
            cluster: false,
        }
    }
}

#[derive(Debug)]
pub struct Report {
    /// The seed that gives the same run again.
    pub seed: u64,
    /// What must never happen and did.
    pub violations: Vec<String>,
    /// What happened, line by line, with the true time.
    pub trace: String,
    /// How much time passed in the run.
    pub simulated: Duration,
    /// How many executions of tasks ran.
    pub runs: usize,
    pub dials: usize,
}

impl fmt::Display for Report {
    /// Of a run that found something: what, how to see it again, and the last lines of what happened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violations, trace, simulated, runs, dials } = self;
        writeln!(f, "seed {seed}: {simulated:?}, {runs} runs, {dials} dials, {} violations", violations.len())?;
        if !violations.is_empty() {
            let lines: Vec<&str> = trace.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(150)).try_for_each(|line| writeln!(f, "{line}"))?;
            violations.iter().try_for_each(|violation| writeln!(f, "violated: {violation}"))?;
            writeln!(f, "again: cargo run -p oz-worker-simulator -- --seed {seed}")?;
        }
        Ok(())
    }
}

/// How fast seeds were run.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub seeds: u64,
    /// How much time passed in their runs.
    pub simulated: Duration,
    /// How many executions of tasks ran.
    pub runs: usize,
    /// How long that took here.
    pub took: Duration,
}

impl fmt::Display for Pace {
    #[allow(clippy::cast_precision_loss)] // a pace, not an account
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, simulated, runs, took } = self;
        let (took, hours) = (took.as_secs_f64(), simulated.as_secs_f64() / 3600.0);
        write!(
            f,
            "{seeds} seeds, {hours:.0} simulated hours, {runs} tasks run in {took:.1} s: {:.0} seeds a minute, \
             {:.0} simulated hours a second",
            *seeds as f64 * 60.0 / took,
            hours / took
        )
    }
}

/// A seed that no run has had: the time.
pub fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() << 20
}

/// One run: a worker, a server, and whatever the seed has in store.
pub fn simulate(seed: u64, options: Options) -> Report {
    let longest = Duration::from_secs(30 * 24 * 3600);
    let draw = if options.cluster { Operator::on_a_cluster } else { Operator::draw };
    // Of two neighbouring seeds one has a second worker.
    let overlaps = options.cluster && !seed.is_multiple_of(2);
    let stage = |executor: &Executor| Scene::new(executor, Operator { overlaps, ..draw(executor) });
    run(seed, longest, stage, |scene| storm::drive(scene, options))
}

/// Runs what `drive` does with the scene that `stage` makes, for at most `longest`.
pub fn run<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    longest: Duration,
    stage: impl FnOnce(&Executor) -> Scene,
    drive: impl FnOnce(Scene) -> F,
) -> Report {
    // The jitter of the worker's pauses.
    fastrand::seed(seed);
    let executor = Executor::new(seed);
    let scene = stage(&executor);
    let driven = drive(scene.clone());
    let listener = scene.listener();
    let ended = tracing::subscriber::with_default(listener, || {
        catch_unwind(AssertUnwindSafe(|| executor.run(longest, driven)))
    });
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(stuck)) => scene.watch.violate(format!("the run is stuck: {stuck:?}")),
        Err(_) => scene.watch.violate("something panicked".to_owned()),
    }
    let report = Report {
        seed,
        violations: scene.violations(),
        trace: scene.journal.take(),
        simulated: executor.now(),
        runs: scene.runs(),
        dials: scene.network.dials().len(),
    };
    scene.close();
    report
}
