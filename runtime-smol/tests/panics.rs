//! What a bug in a backend leaves of a task, on smol.

#![allow(clippy::unwrap_used)]

#[path = "../../worker/backends/tests/panics/mod.rs"]
mod panics;

use oz_worker_reactor::OnReactor;
use oz_worker_runtime_smol::Smol;

fn runtime() -> OnReactor<Smol> {
    OnReactor::new(Smol::new().unwrap())
}
