//! The contract of a runtime, kept by smol.
#![allow(clippy::unwrap_used)]

#[path = "../../worker/reactor/tests/contract/mod.rs"]
mod contract;

use oz_worker_reactor::{OnReactor, Stream};
use oz_worker_runtime_smol::{LoopSocket, Smol};

fn runtime() -> OnReactor<Smol> {
    OnReactor::new(Smol::new().unwrap())
}

fn has_nodelay<U>(stream: &Stream<LoopSocket, U>) -> bool {
    match stream {
        Stream::Tcp(stream) => stream.get_ref().nodelay().unwrap(),
        Stream::Unix(_) => false,
    }
}
