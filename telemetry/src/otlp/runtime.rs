//! What a dial asks of a runtime, for the length of one export and on the exporter's own thread.
//!
//! Nothing of it outlives the export: no connection has to be kept alive between two of them, noticed to be dead or spread
//! over the collectors behind a name. But a name that is looked up cannot be called off: [`Lookup`] says what becomes of it.

use std::future::{Future, poll_fn, ready};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use oz_worker_core::time::Instant;
use oz_worker_runtime::{Address, Lane, Runtime, StopSignals};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::otlp::failure::ExportFailure;

/// The runtime of one exporter.
#[derive(Debug, Clone)]
pub(super) struct ExportRuntime {
    begun: std::time::Instant,
    lookup: Lookup,
}

impl ExportRuntime {
    pub(super) fn new() -> Self {
        Self { begun: std::time::Instant::now(), lookup: Lookup::default() }
    }

    /// Runs one export on the calling thread, for `time` at most.
    ///
    /// # Errors
    /// Its own, or that the time is over.
    pub(super) fn run<T>(
        time: Duration,
        export: impl Future<Output = Result<T, ExportFailure>>,
    ) -> Result<T, ExportFailure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(ExportFailure::Io)?;
        let ended = runtime.block_on(async { tokio::time::timeout(time, export).await });
        ended.unwrap_or(Err(ExportFailure::Timeout))
    }
}

impl Runtime for ExportRuntime {
    type Stream = Compat<TcpStream>;
    type StopSignals = NoSignals;

    fn now(&self) -> Instant {
        Instant::new(self.begun.elapsed())
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static {
        Box::pin(tokio::time::sleep(at.since(self.now())))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(tokio::spawn(task));
    }

    /// Here and now: nothing else waits on this thread.
    fn unblock<T: Send + 'static>(
        &self,
        _: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        ready(work())
    }

    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send {
        let (lookup, host) = (self.lookup.clone(), host.to_owned());
        poll_fn(move |cx| lookup.poll(cx, || (host.clone(), port)))
    }

    async fn connect(&self, address: &Address) -> io::Result<Self::Stream> {
        let Address::Tcp(address) = address else { return Err(io::ErrorKind::Unsupported.into()) };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream.compat())
    }

    fn stop_signals(&self) -> io::Result<NoSignals> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Signals are for the worker.
pub(super) enum NoSignals {}

impl StopSignals for NoSignals {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<&'static str> {
        match *self {}
    }
}

/// Looks up the one name that an exporter dials, one lookup at a time: a resolver that does not answer holds one thread and
/// not one more with every export. Whoever gives up waiting leaves the answer to the next export.
#[derive(Debug, Clone, Default)]
struct Lookup(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
enum Asked {
    #[default]
    Nobody,
    Resolver(Option<Waker>),
    Answered(io::Result<Vec<SocketAddr>>),
}

impl Lookup {
    fn poll(&self, cx: &mut Context<'_>, name: impl FnOnce() -> (String, u16)) -> Poll<io::Result<Vec<SocketAddr>>> {
        let mut asked = self.lock();
        match std::mem::take(&mut *asked) {
            Asked::Answered(answer) => return Poll::Ready(answer),
            Asked::Nobody => {
                let (lookup, name) = (self.clone(), name());
                let ask = move || lookup.answer(name.to_socket_addrs().map(Iterator::collect));
                if let Err(error) = thread::Builder::new().name("otlp-resolve".to_owned()).spawn(ask) {
                    return Poll::Ready(Err(error));
                }
            }
            Asked::Resolver(_) => {}
        }
        *asked = Asked::Resolver(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn answer(&self, answer: io::Result<Vec<SocketAddr>>) {
        let before = std::mem::replace(&mut *self.lock(), Asked::Answered(answer));
        if let Asked::Resolver(Some(waker)) = before {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, TcpListener, TcpStream as Socket};

    use oz_worker_net::url::Url;
    use oz_worker_net::{Destination, Remote, dial};

    use super::*;

    /// An address at which nobody answers: its queue is full.
    struct Dead {
        address: SocketAddr,
        _held: Vec<Socket>,
        _listener: TcpListener,
    }

    impl Dead {
        fn new() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let address = listener.local_addr().unwrap();
            let fill = || Socket::connect_timeout(&address, Duration::from_millis(200));
            let held = std::iter::from_fn(|| fill().ok()).collect();
            Self { address, _held: held, _listener: listener }
        }
    }

    #[test]
    fn addresses_at_which_nobody_answers_hold_up_the_next_for_a_quarter_of_a_second_each() {
        let (dead, listener) = ([Dead::new(), Dead::new(), Dead::new()], TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = dead.iter().map(|dead| dead.address).chain([listener.local_addr().unwrap()]).collect();
        let runtime = ExportRuntime::new();
        *runtime.lookup.lock() = Asked::Answered(Ok(addresses));
        let url = Url::parse("http://collector.test", &["http"]).unwrap();
        let destination = Destination::Host(Box::new(Remote { url, proxy: None, tls: Arc::default(), http2: false }));
        let begun = std::time::Instant::now();
        ExportRuntime::run(Duration::from_secs(60), async { Ok(dial(&runtime, &destination).await?) }).unwrap();
        // It is the living one: nobody else accepts.
        listener.accept().unwrap();
        // Three quarters of a second; the operating system itself would try each for minutes.
        let took = begun.elapsed();
        assert!((Duration::from_millis(700)..Duration::from_secs(20)).contains(&took), "{took:?}");
    }

    #[test]
    fn a_name_that_is_still_looked_up_is_not_looked_up_once_more() {
        let lookup = Lookup::default();
        let mut cx = Context::from_waker(Waker::noop());
        *lookup.lock() = Asked::Resolver(None);
        for _ in 0..3 {
            assert!(lookup.poll(&mut cx, || unreachable!("asked again")).is_pending());
        }
        lookup.answer(Ok(vec![([10, 0, 0, 1], 1).into()]));
        assert!(matches!(lookup.poll(&mut cx, || unreachable!("asked again")), Poll::Ready(Ok(_))));
        // What was answered is used once: the next export asks anew.
        assert!(matches!(*lookup.lock(), Asked::Nobody));
    }

    #[test]
    fn a_name_is_looked_up_beside_the_export() {
        let lookup = ExportRuntime::new();
        let name = |host: &'static str| {
            ExportRuntime::run(Duration::from_secs(60), async { Ok(lookup.resolve(host, 7).await) })
        };
        assert!(
            name("localhost").unwrap().unwrap().iter().all(|address| address.port() == 7 && address.ip().is_loopback())
        );
        assert!(name("no-such-host.invalid").unwrap().is_err());
    }
}
