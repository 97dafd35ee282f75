//! `oz-agent-worker-async-std`, the alternative build: the worker over async-std.

use std::process::ExitCode;

use oz_worker_reactor::OnReactor;
use oz_worker_runtime_async_std::AsyncStd;

fn main() -> ExitCode {
    oz_worker::main("async-std", || Ok(OnReactor::new(AsyncStd::new())), |runtime, worker| runtime.drive(worker))
}
