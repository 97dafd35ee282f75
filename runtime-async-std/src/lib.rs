//! [`Tasks`] on async-std: the alternative build of the worker.
//!
//! Everything here is async-std's own: its executor, its pool for work that may block, its sockets. The run loop has the
//! calling thread; which thread waits on the reactor is async-std's affair, so a frame from the server may take a change
//! of threads to reach the run loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_global_executor::GlobalExecutorConfig;
use async_lock::Semaphore;
use async_std::net::TcpStream;
use async_std::task;
use oz_worker::reactor::Tasks;

/// The threads that run tasks: one that is busy starting a process must not hold up all others.
const THREADS: usize = 2;
/// The threads for work that may block; async-std's pool for it would grow to 500.
const BLOCKING: usize = 2;

/// Tasks on async-std's executor, of which a process has one. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct AsyncStd {
    blocking: Arc<Semaphore>,
}

impl AsyncStd {
    /// Starts the threads that run tasks, unless they run already.
    ///
    /// # Panics
    /// When the operating system gives no thread: async-std's way.
    pub fn new() -> Self {
        // Without this, async-std starts as many as there are processors.
        let config = GlobalExecutorConfig::default().with_min_threads(THREADS).with_max_threads(THREADS);
        async_global_executor::init_with_config(config.with_thread_name_fn(|| "oz-tasks".to_owned()));
        Self { blocking: Arc::new(Semaphore::new(BLOCKING)) }
    }
}

impl Default for AsyncStd {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks for AsyncStd {
    type Stream = TcpStream;

    fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        task::block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(task::spawn(task));
    }

    fn unblock<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let turn = self.blocking.acquire_arc();
        task::spawn(async move {
            let _turn = turn.await;
            task::spawn_blocking(work).await
        })
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
