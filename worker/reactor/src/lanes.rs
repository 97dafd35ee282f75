//! Threads for work that may block: few for each [`Lane`], each lane with a queue of its own.
//!
//! The pools of smol and async-std are one queue for everything and grow to 500 threads. Here a lane whose threads are all
//! held up holds up its own work and no other. Threads come when there is work and go when there has been none for a while.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use oz_worker_runtime::Lane;

/// The most threads of one lane: a few pieces of work that hang must not be all that a lane can do.
pub const MOST_THREADS: usize = 3;
/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(30);
/// Enough for the deepest work of the worker (a name look-up, a start) many times over.
const STACK: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// All lanes. A clone is another handle to the same.
#[derive(Clone, Default)]
pub(crate) struct Lanes(Arc<[Queue; Lane::ALL.len()]>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// The threads that wait for a job, those included that were just told of one.
    idle: usize,
}

impl Lanes {
    /// Runs `work` on a thread of `lane`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let (done, result) = oneshot::channel();
        self.push(
            lane,
            Box::new(move || {
                if !done.is_canceled() {
                    // Nobody may be left to hear of it by then: the result is dropped here.
                    let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
                }
            }),
        );
        async move {
            match result.await {
                Ok(Ok(value)) => value,
                Ok(Err(panic)) => resume_unwind(panic),
                // The operating system gave no thread for it.
                Err(_) => resume_unwind(Box::new("no thread for work that may block") as Box<dyn Any + Send>),
            }
        }
    }

    fn push(&self, lane: Lane, job: Job) {
        let Some(queue) = self.0.get(lane as usize) else { return };
        let mut state = queue.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            drop(state);
            queue.more.notify_one();
        } else if state.threads < MOST_THREADS {
            state.threads += 1;
            let name = format!("oz-{}-{}", lane.name(), state.threads);
            drop(state);
            let lanes = self.clone();
            let thread = thread::Builder::new().name(name).stack_size(STACK);
            if thread.spawn(move || lanes.work(lane)).is_err() {
                let mut state = queue.lock();
                state.threads -= 1;
                // Where another thread of the lane is busy, it will come to the job; else nobody would.
                if state.threads == 0 {
                    state.jobs.clear();
                }
            }
        }
    }

    fn work(&self, lane: Lane) {
        let Some(queue) = self.0.get(lane as usize) else { return };
        let mut state = queue.lock();
        loop {
            while let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = queue.lock();
            }
            state.idle += 1;
            let (woken, waited) = queue
                .more
                .wait_timeout_while(state, IDLE, |state| state.jobs.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
