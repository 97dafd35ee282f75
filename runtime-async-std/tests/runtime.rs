//! The contract of a runtime, kept by async-std.
#![allow(clippy::unwrap_used)]

#[path = "../../worker/reactor/tests/contract/mod.rs"]
mod contract;

use async_std::net::TcpStream;
use async_std::os::unix::net::UnixStream;
use oz_worker_reactor::{OnReactor, Stream};
use oz_worker_runtime_async_std::AsyncStd;
use rustix::net::sockopt;

fn runtime() -> OnReactor<AsyncStd> {
    OnReactor::new(AsyncStd::new())
}

fn send_buffer_and_nodelay(stream: &Stream<TcpStream, UnixStream>) -> (usize, bool) {
    match stream {
        Stream::Tcp(stream) => (sockopt::socket_send_buffer_size(stream).unwrap(), stream.nodelay().unwrap()),
        Stream::Unix(_) => panic!("not over TCP"),
    }
}
