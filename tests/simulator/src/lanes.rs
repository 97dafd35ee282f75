//! The threads of a machine for work that may block: as few as the real ones, and some of the work takes its time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use oz_worker_reactor::MOST_THREADS;
use oz_worker_runtime::Lane;

use crate::executor::{Executor, Machine};
use crate::journal::Journal;

/// The lanes of one machine. A clone is another handle to the same.
#[derive(Clone)]
pub struct Lanes {
    executor: Executor,
    journal: Journal,
    machine: Machine,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    faulty: bool,
    /// Whether anything was ever held up for long.
    held_up: bool,
    /// Until when each thread of a lane is busy.
    busy: BTreeMap<Lane, Vec<Duration>>,
}

impl Lanes {
    /// The idle threads of a machine.
    pub fn new(executor: &Executor, journal: &Journal, machine: Machine) -> Self {
        Self { executor: executor.clone(), journal: journal.clone(), machine, state: Arc::default() }
    }

    /// Whether work is held up for long by chance from now on.
    pub fn set_faulty(&self, faulty: bool) {
        self.lock().faulty = faulty;
    }

    /// Whether any work was ever held up for longer than a machine usually takes.
    pub fn were_held_up(&self) -> bool {
        self.lock().held_up
    }

    /// Holds up every thread of a lane, until this time.
    pub fn hold_up(&self, lane: Lane, until: Duration) {
        let mut state = self.lock();
        state.held_up = true;
        state.busy.insert(lane, vec![until; MOST_THREADS]);
    }

    /// Runs `work` on a thread of `lane`. As on a real one it is left undone when nobody waits for it any more by
    /// the time that its turn is over.
    pub fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let until = self.book(lane);
        let (done, result) = async_channel::bounded(1);
        let executor = self.executor.clone();
        self.executor.spawn(self.machine, async move {
            executor.sleep_until(until).await;
            if !done.is_closed() {
                let _ = done.try_send(work());
            }
        });
        async move {
            match result.recv().await {
                Ok(value) => value,
                // It panicked, and the run is over.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Takes the next free thread of a lane for one piece of work, and gives when that is done.
    fn book(&self, lane: Lane) -> Duration {
        let now = self.executor.now();
        let mut state = self.lock();
        let hangs = state.faulty && self.executor.chance(2);
        let longest = if hangs { Duration::from_secs(90) } else { Duration::from_millis(50) };
        let takes = self.executor.duration(Duration::from_micros(1), longest);
        if takes > Duration::from_secs(1) {
            state.held_up = true;
            self.journal.note(|| format!("lanes: something on {} takes {takes:?}", lane.name()));
        }
        let threads = state.busy.entry(lane).or_insert_with(|| vec![Duration::ZERO; MOST_THREADS]);
        let mut ends = now + takes;
        if let Some(first) = threads.iter_mut().min() {
            *first = now.max(*first) + takes;
            ends = *first;
        }
        ends
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
