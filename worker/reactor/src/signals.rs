//! The signals that ask the worker to stop, awaited on the reactor.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_signal::Signal;
use futures_core::Stream;
use oz_worker_host::ignores_hangup;
use oz_worker_runtime::StopSignals;

/// The signals that ask the worker to stop.
#[derive(Debug)]
pub struct Signals(async_signal::Signals);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let hangup = (!ignores_hangup()).then_some(Signal::Hup);
        Ok(Self(async_signal::Signals::new([Signal::Term, Signal::Int, Signal::Quit].into_iter().chain(hangup))?))
    }
}

impl StopSignals for Signals {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        match Pin::new(&mut self.0).poll_next(cx) {
            Poll::Ready(Some(Ok(Signal::Int))) => Poll::Ready("SIGINT"),
            Poll::Ready(Some(Ok(Signal::Quit))) => Poll::Ready("SIGQUIT"),
            Poll::Ready(Some(Ok(Signal::Hup))) => Poll::Ready("SIGHUP"),
            Poll::Ready(Some(Ok(_))) => Poll::Ready("SIGTERM"),
            // The pipe behind it broke, which the kernel does not do; asking again would spin.
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => Poll::Pending,
        }
    }
}
