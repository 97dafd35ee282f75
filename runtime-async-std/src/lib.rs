//! [`Tasks`] on async-std: the alternative build of the worker.
//!
//! Everything here is async-std's own: its executor and its sockets. The run loop has the
//! calling thread; which thread waits on the reactor is async-std's affair, so a frame from the server may take a change
//! of threads to reach the run loop.

#![forbid(unsafe_code)]

use std::future::Future;
use std::io;

use async_global_executor::GlobalExecutorConfig;
use async_std::net::TcpStream;
use async_std::os::unix::net::UnixStream;
use async_std::task;
use oz_worker_reactor::{Stream, Tasks, set_up};
use oz_worker_runtime::Address;

/// The threads that run tasks. Nothing that blocks runs there.
const THREADS: usize = 1;

/// Tasks on async-std's executor, of which a process has one. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct AsyncStd;

impl AsyncStd {
    /// Starts the thread that runs tasks, unless it runs already.
    ///
    /// # Panics
    /// When the operating system gives no thread: async-std's way.
    pub fn new() -> Self {
        // Without this, async-std starts as many as there are processors.
        let config = GlobalExecutorConfig::default().with_min_threads(THREADS).with_max_threads(THREADS);
        async_global_executor::init_with_config(config.with_thread_name_fn(|| "oz-tasks".to_owned()));
        Self
    }
}

impl Default for AsyncStd {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks for AsyncStd {
    type Stream = Stream<TcpStream, UnixStream>;

    fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        task::block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(task::spawn(task));
    }

    async fn connect(&self, address: &Address) -> io::Result<Self::Stream> {
        Ok(match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                set_up(&stream)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        })
    }
}
