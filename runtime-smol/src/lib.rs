//! [`Tasks`] on smol: the default build of the worker.
//!
//! The run loop has the calling thread for itself and waits on the reactor there ([`Smol::drive`]), so that a frame from
//! the server reaches it without a change of threads. Tasks run on two threads of their own, whatever their number.

mod relay;

use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use atomic_waker::AtomicWaker;
use futures_lite::future::block_on;
use oz_worker_reactor::{Stream, Tasks};
use oz_worker_runtime::Address;
use relay::Relayed;
use smol::{Async, Executor};

/// The threads that run tasks: one that is busy starting a process must not hold up all others.
const THREADS: usize = 2;
/// Enough for the deepest future of the worker many times over.
const STACK: usize = 512 << 10;

/// Tasks on smol's executor. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Smol {
    executor: Arc<Executor<'static>>,
    run_loop: Arc<AtomicWaker>,
}

impl Smol {
    /// Starts the threads that run tasks.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new() -> io::Result<Self> {
        Ok(Self { executor: start_threads("oz-tasks", THREADS)?, run_loop: Arc::default() })
    }
}

impl Tasks for Smol {
    type Stream = Stream<Async<TcpStream>, Async<UnixStream>>;

    /// The calling thread waits on the reactor for everybody meanwhile.
    fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        relay::block_on(&self.run_loop, future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(Relayed::new(Box::pin(task), Arc::clone(&self.run_loop))).detach();
    }

    async fn connect(&self, address: &Address) -> io::Result<Self::Stream> {
        Ok(match address {
            Address::Tcp(address) => {
                let stream = Async::<TcpStream>::connect(*address).await?;
                stream.get_ref().set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(Async::<UnixStream>::connect(path).await?),
        })
    }
}

/// An executor, and the threads that run it.
fn start_threads(name: &str, count: usize) -> io::Result<Arc<Executor<'static>>> {
    let executor = Arc::new(Executor::new());
    for number in 1..=count {
        let executor = Arc::clone(&executor);
        // Parks instead of waiting on the reactor: that is the calling thread's, see `Smol::drive`. A task that panics
        // takes no other with it.
        let run = move || {
            while catch_unwind(AssertUnwindSafe(|| block_on(executor.run(std::future::pending::<()>())))).is_err() {}
        };
        thread::Builder::new().name(format!("{name}-{number}")).stack_size(STACK).spawn(run)?;
    }
    Ok(executor)
}
