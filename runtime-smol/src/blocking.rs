//! Threads for work that may block, in the order in which it comes.
//!
//! Not an executor: whoever takes work from one of smol's wakes the next thread too, in case there is more, and here a wake
//! for nothing costs more than most of the work.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

type Work = Box<dyn FnOnce() + Send>;

/// A handle to the threads.
#[derive(Clone)]
pub(crate) struct Blocking(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    /// Threads that sleep.
    idle: usize,
    /// How many of those have been woken and are not awake yet.
    called: usize,
}

impl Blocking {
    /// Starts `count` threads.
    pub(crate) fn start(count: usize, stack: usize) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        for number in 1..=count {
            let shared = Arc::clone(&shared);
            let name = format!("oz-blocking-{number}");
            thread::Builder::new().name(name).stack_size(stack).spawn(move || shared.run())?;
        }
        Ok(Self(shared))
    }

    /// Does `work` on one of them. When nobody waits for it any more by the time its turn comes, it is left undone.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let (done, result) = async_channel::bounded(1);
        self.0.push(Box::new(move || {
            if !done.is_closed() {
                let _ = done.try_send(catch_unwind(AssertUnwindSafe(work)));
            }
        }));
        async move {
            match result.recv().await {
                Ok(Ok(output)) => output,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // No thread ends, and none drops work that somebody waits for.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}

impl Shared {
    fn push(&self, work: Work) {
        let mut queue = self.lock();
        queue.waiting.push_back(work);
        let call = queue.idle > queue.called;
        queue.called += usize::from(call);
        drop(queue);
        if call {
            self.filled.notify_one();
        }
    }

    fn run(&self) {
        loop {
            let mut queue = self.lock();
            let work = loop {
                if let Some(work) = queue.waiting.pop_front() {
                    break work;
                }
                queue.idle += 1;
                queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
                queue.called = queue.called.saturating_sub(1);
            };
            drop(queue);
            work();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
