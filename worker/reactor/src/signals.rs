//! The signals that ask the worker to stop, awaited on the reactor.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use async_signal::Signal;
use futures_core::Stream;
use oz_worker_host::ignores_hangup;
use oz_worker_runtime::StopSignals;

/// The signals that ask the worker to stop.
#[derive(Debug)]
pub struct Signals {
    signals: async_signal::Signals,
    bell: Arc<Bell>,
}

/// Rings when there may be a signal. Who waits for much else too asks often, and each look takes a system call.
#[derive(Debug)]
struct Bell {
    rang: AtomicBool,
    hears: Mutex<Waker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::SeqCst);
        self.hears.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let hangup = (!ignores_hangup()).then_some(Signal::Hup);
        let signals = async_signal::Signals::new([Signal::Term, Signal::Int, Signal::Quit].into_iter().chain(hangup))?;
        let bell = Bell { rang: AtomicBool::new(true), hears: Mutex::new(Waker::noop().clone()) };
        Ok(Self { signals, bell: Arc::new(bell) })
    }
}

impl StopSignals for Signals {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        self.bell.hears.lock().unwrap_or_else(PoisonError::into_inner).clone_from(cx.waker());
        if !self.bell.rang.swap(false, Ordering::SeqCst) {
            return Poll::Pending;
        }
        let bell = Waker::from(Arc::clone(&self.bell));
        let polled = Pin::new(&mut self.signals).poll_next(&mut Context::from_waker(&bell));
        // There may be another behind it.
        self.bell.rang.fetch_or(polled.is_ready(), Ordering::SeqCst);
        match polled {
            Poll::Ready(Some(Ok(Signal::Int))) => Poll::Ready("SIGINT"),
            Poll::Ready(Some(Ok(Signal::Quit))) => Poll::Ready("SIGQUIT"),
            Poll::Ready(Some(Ok(Signal::Hup))) => Poll::Ready("SIGHUP"),
            Poll::Ready(Some(Ok(_))) => Poll::Ready("SIGTERM"),
            // The pipe behind it broke, which the kernel does not do; asking again would spin.
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => Poll::Pending,
        }
    }
}
