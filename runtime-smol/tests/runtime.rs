//! The contract of a runtime, kept by smol.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../worker/tests/contract/mod.rs"]
mod contract;

use oz_worker::reactor::OnReactor;
use oz_worker_runtime_smol::{Smol, Stream};

fn runtime() -> OnReactor<Smol> {
    OnReactor::new(Smol::new().unwrap())
}

fn has_nodelay(stream: &Stream) -> bool {
    stream.get_ref().nodelay().unwrap()
}
