//! SIGTERM and SIGINT, awaited on the reactor.

use std::io;

use async_signal::Signal;
use futures_lite::StreamExt;

use crate::runtime::StopSignals;

/// The signals that ask the worker to stop.
#[derive(Debug)]
pub struct Signals(async_signal::Signals);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(async_signal::Signals::new([Signal::Term, Signal::Int])?))
    }
}

impl StopSignals for Signals {
    async fn next(&mut self) -> &'static str {
        match self.0.next().await {
            Some(Ok(Signal::Int)) => "SIGINT",
            Some(Ok(_)) => "SIGTERM",
            // The pipe behind it broke, which the kernel does not do; asking again would spin.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }
}
