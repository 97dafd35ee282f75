//! `oz-agent-worker`, the default build: the worker over smol.

use std::process::ExitCode;

use oz_worker_runtime_smol::Smol;

fn main() -> ExitCode {
    oz_worker::main("smol", Smol::new, |smol, worker| smol.drive(worker))
}
