//! The contract of a runtime, kept by smol.
#![allow(clippy::unwrap_used)]

#[path = "../../worker/reactor/tests/contract/mod.rs"]
mod contract;

use oz_worker_reactor::{OnReactor, Stream};
use oz_worker_runtime_smol::{LoopSocket, Smol};
use rustix::net::sockopt;

fn runtime() -> OnReactor<Smol> {
    OnReactor::new(Smol::new().unwrap())
}

fn send_buffer_and_nodelay<U>(stream: &Stream<LoopSocket, U>) -> (usize, bool) {
    match stream {
        Stream::Tcp(stream) => {
            let stream = stream.get_ref();
            (sockopt::socket_send_buffer_size(stream).unwrap(), stream.nodelay().unwrap())
        }
        Stream::Unix(_) => panic!("not over TCP"),
    }
}
