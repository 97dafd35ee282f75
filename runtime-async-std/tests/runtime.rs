//! The contract of a runtime, kept by async-std.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../worker/tests/contract/mod.rs"]
mod contract;

use async_std::net::TcpStream;
use oz_worker::reactor::OnReactor;
use oz_worker_runtime_async_std::AsyncStd;

fn runtime() -> OnReactor<AsyncStd> {
    OnReactor::new(AsyncStd::new())
}

fn has_nodelay(stream: &TcpStream) -> bool {
    stream.nodelay().unwrap()
}
