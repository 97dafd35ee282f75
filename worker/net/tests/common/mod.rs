//! A runtime whose network is a script: who answers at which address, and what.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, dead_code)]

use std::future::{Future, pending};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;

use async_io::{Async, Timer};
use oz_worker_core::time::Instant;
use oz_worker_runtime::{Address, Lane, Runtime, StopSignals};

/// What happens to whoever connects.
pub enum Plan {
    Hangs,
    Refuses,
    /// This runs on a thread of its own, with the other end.
    Serves(fn(UnixStream)),
}

type Script = dyn Fn(&Address) -> Plan + Send + Sync;

/// The runtime of a test.
#[derive(Clone)]
pub struct Scripted {
    script: Arc<Script>,
    addresses: Arc<Vec<SocketAddr>>,
    pub tried: Arc<Mutex<Vec<String>>>,
    begun: std::time::Instant,
}

impl Scripted {
    /// Every name has these addresses.
    pub fn new(addresses: &[&str], script: impl Fn(&Address) -> Plan + Send + Sync + 'static) -> Self {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Self {
            script: Arc::new(script),
            addresses: Arc::new(addresses),
            tried: Arc::default(),
            begun: std::time::Instant::now(),
        }
    }

    /// One address, and one who answers there.
    pub fn serving(serve: fn(UnixStream)) -> Self {
        Self::new(&["10.0.0.1:80"], move |_| Plan::Serves(serve))
    }
}

/// No signal ever comes.
pub struct NoSignals;

impl StopSignals for NoSignals {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<&'static str> {
        Poll::Pending
    }
}

impl Runtime for Scripted {
    type Stream = Async<UnixStream>;
    type StopSignals = NoSignals;

    fn now(&self) -> Instant {
        Instant::new(self.begun.elapsed())
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static {
        let timer = Timer::after(at.since(self.now()));
        Box::pin(async move {
            timer.await;
        })
    }

    fn spawn(&self, _: impl Future<Output = ()> + Send + 'static) {
        unimplemented!("nothing of net runs beside its caller")
    }

    fn unblock<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        assert_eq!(lane, Lane::Dial);
        async move { work() }
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.tried.lock().unwrap().push(format!("{host}:{port}"));
        Ok(self.addresses.to_vec())
    }

    async fn connect(&self, address: &Address) -> io::Result<Self::Stream> {
        self.tried.lock().unwrap().push(match address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => path.display().to_string(),
        });
        match (self.script)(address) {
            Plan::Hangs => pending().await,
            Plan::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
            Plan::Serves(serve) => {
                let (ours, theirs) = UnixStream::pair()?;
                thread::spawn(move || serve(theirs));
                Async::new(ours)
            }
        }
    }

    fn stop_signals(&self) -> io::Result<NoSignals> {
        Ok(NoSignals)
    }
}

/// A request's head, in lower case.
pub fn head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
        head.extend(byte);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}
