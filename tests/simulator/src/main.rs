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
    /// tasks run on a cluster
    #[argh(switch)]
    cluster: bool,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let options = Options { cluster: args.cluster, ..Options::default() };
    if let Some(seed) = args.seed {
        let report = simulate(seed, options);
        print!("{}", report.trace);
        println!("{report}");
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let from = args.from.unwrap_or_else(oz_worker_simulator::fresh_seed);
    let (started, mut simulated, mut runs) = (Instant::now(), Duration::ZERO, 0);
    for (done, seed) in (1..=args.count).zip(from..) {
        let report = simulate(seed, options);
        simulated += report.simulated;
        runs += report.runs;
        if !report.violations.is_empty() {
            println!("{report}");
            if args.cluster {
                println!("with --cluster");
            }
            return ExitCode::FAILURE;
        }
        if done.is_power_of_two() || done == args.count {
            println!("{}", oz_worker_simulator::Pace { seeds: done, simulated, runs, took: started.elapsed() });
        }
    }
    ExitCode::SUCCESS
}
