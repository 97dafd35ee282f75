//! [`Tasks`] on smol: the default build of the worker.
//!
//! The run loop has the calling thread for itself and waits for its connection there ([`Smol::drive`]), so that a frame
//! from the server reaches it without a change of threads. Tasks run on one thread, whatever their number, and that thread
//! waits on the reactor for their processes: nothing that blocks runs there, and a second one would be woken at every step of
//! every task, in case there is more to do.

#![forbid(unsafe_code)]

mod run_loop;

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use oz_worker_reactor::{Stream, Tasks, set_up};
use oz_worker_runtime::Address;
pub use run_loop::LoopSocket;
use run_loop::LoopThread;
use smol::{Async, Executor};

/// Enough for the deepest future of the worker many times over.
const STACK: usize = 512 << 10;

/// Tasks on smol's executor. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Smol {
    executor: Arc<Executor<'static>>,
    run_loop: Arc<LoopThread>,
}

impl Smol {
    /// Starts the thread that runs tasks.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new() -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        let own = Arc::clone(&executor);
        // A task that panics takes no other with it.
        let run = move || {
            while catch_unwind(AssertUnwindSafe(|| smol::block_on(own.run(std::future::pending::<()>())))).is_err() {}
        };
        thread::Builder::new().name("oz-tasks".to_owned()).stack_size(STACK).spawn(run)?;
        Ok(Self { executor, run_loop: Arc::new(LoopThread::new()?) })
    }
}

impl Tasks for Smol {
    type Stream = Stream<LoopSocket, Async<UnixStream>>;

    fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        self.run_loop.block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(task).detach();
    }

    async fn connect(&self, address: &Address) -> io::Result<Self::Stream> {
        Ok(match address {
            Address::Tcp(address) => {
                let socket = LoopSocket::connect(*address).await?;
                set_up(socket.get_ref())?;
                Stream::Tcp(socket)
            }
            Address::Unix(path) => Stream::Unix(Async::<UnixStream>::connect(path).await?),
        })
    }
}
