//! The threads of a machine for work that may block: as few as the real ones, and held up by chance.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use oz_worker_reactor::MOST_THREADS;
use oz_worker_runtime::Lane;

use crate::executor::{Executor, Machine};
use crate::journal::Journal;
use crate::watch::Watch;

/// What takes longer than this is held up; a disk that is well does everything in time.
const USUAL: Duration = Duration::from_millis(50);

/// The lanes of one machine. A clone is another handle to the same.
#[derive(Clone)]
pub struct Lanes {
    executor: Executor,
    journal: Journal,
    watch: Watch,
    machine: Machine,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    faulty: bool,
    /// Until when each thread of a lane is busy.
    busy: BTreeMap<Lane, Vec<Duration>>,
}

impl Lanes {
    /// The idle threads of a machine.
    pub fn new(executor: &Executor, journal: &Journal, watch: &Watch, machine: Machine) -> Self {
        let (executor, journal, watch) = (executor.clone(), journal.clone(), watch.clone());
        Self { executor, journal, watch, machine, state: Arc::default() }
    }

    /// Whether work is held up by chance from now on.
    pub fn set_faulty(&self, faulty: bool) {
        self.lock().faulty = faulty;
    }

    /// The process whose threads they are is gone, and another one has its own.
    pub fn clear(&self) {
        self.lock().busy.clear();
    }

    /// Holds up every thread of a lane for so long, as a file system does that does not answer.
    pub fn hold_up(&self, lane: Lane, length: Duration) {
        self.journal.note(|| format!("lanes: all of {} is held up for {length:?}", lane.name()));
        self.watch.held_up(lane);
        let until = self.executor.now() + length;
        self.lock().busy.insert(lane, vec![until; MOST_THREADS]);
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
        // A dial that hangs has a limit of its own, which other faults try.
        let hangs = state.faulty && lane != Lane::Dial && self.executor.chance(2);
        let longest = if hangs { Duration::from_secs(90) } else { USUAL };
        let takes = self.executor.duration(Duration::from_micros(1), longest);
        if takes > USUAL {
            self.journal.note(|| format!("lanes: something on {} takes {takes:?}", lane.name()));
            self.watch.held_up(lane);
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
