//! Runs seeds: `cargo run --release -p oz-worker-simulator -- --count 1000000`, or one again: `-- --seed 42`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use argh::FromArgs;
use oz_worker_simulator::{Options, simulate};

/// Runs the worker in the simulator, seed by seed, until one finds something.
#[derive(FromArgs)]
struct Args {
    /// one seed, whose whole trace is printed
    #[argh(option)]
    seed: Option<u64>,
    /// the first of many seeds; drawn from the time when absent
    #[argh(option)]
    from: Option<u64>,
    /// how many seeds
    #[argh(option, default = "10_000")]
    count: u64,
    /// of those seeds only the ones whose worker has this backend
    #[argh(option)]
    backend: Option<String>,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    if let Some(seed) = args.seed {
        let report = simulate(seed, Options::default());
        print!("{}", report.trace);
        println!("{report}");
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let from = args.from.unwrap_or_else(oz_worker_simulator::fresh_seed);
    let (started, mut simulated, mut runs) = (Instant::now(), Duration::ZERO, 0);
    for (done, seed) in (1..=args.count).zip(from..) {
        if args.backend.as_ref().is_some_and(|backend| oz_worker_simulator::backend(seed) != backend) {
            continue;
        }
        let report = simulate(seed, Options::default());
        simulated += report.simulated;
        runs += report.runs;
        if !report.violations.is_empty() {
            println!("{report}");
            return ExitCode::FAILURE;
        }
        if done.is_power_of_two() || done == args.count {
            println!("{}", oz_worker_simulator::Pace { seeds: done, simulated, runs, took: started.elapsed() });
        }
    }
    ExitCode::SUCCESS
}
