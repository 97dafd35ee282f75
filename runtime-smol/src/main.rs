//! `oz-agent-worker`, the default build: the worker over smol.

use std::process::ExitCode;

use oz_worker_reactor::OnReactor;
use oz_worker_runtime_smol::Smol;

fn main() -> ExitCode {
    oz_worker::main("smol", || Smol::new().map(OnReactor::new), |runtime, worker| runtime.drive(worker))
}
