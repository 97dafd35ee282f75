//! The bounded queue between those who log and the thread that writes.

use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What may be queued altogether, in bytes, including what is being written.
pub const CAPACITY: usize = 1024 * 1024;
/// What all tasks' output together may take of that; the rest is the worker's own.
const OUTPUT_CAPACITY: usize = CAPACITY / 4 * 3;
/// What one task's output may take of that, in bytes: half of it waiting and half of it being written.
pub const TASK_SHARE: u32 = 64 * 1024;
/// How long lines may gather after a batch before they are written. A write for every line takes longer than all else that
/// is done for the line, and so does waking the thread that writes.
const GATHER: Duration = Duration::from_millis(1);
/// How many bytes are worth a write at once: half of what a task may have waiting before it is held up.
const GATHERED: usize = TASK_SHARE as usize / 16;
/// Buffers above this size are given back once they are written.
const KEPT: usize = 16 * 1024;

/// How much of the log's queue one task's output holds, and how many of its lines were dropped. A few bytes and no
/// allocation.
#[derive(Debug, Default)]
pub struct OutputBudget(Mutex<Share>);

#[derive(Debug, Default)]
struct Share {
    /// The batch that `used` is about.
    batch: u64,
    /// Bytes in it.
    used: u32,
    /// Lines dropped since this was last said in the log.
    dropped: u64,
}

impl OutputBudget {
    /// A task that has not written anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many lines were dropped since this was last said in the log; said now.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.share().dropped)
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that wait to be written, in batches: everything that came while the previous batch was written is the next one.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Something is waiting, or somebody is.
    filled: Condvar,
    /// Nothing is waiting, and nothing is being written.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that are being written.
    writing: usize,
    /// The writer sleeps until something waits.
    sleeps: bool,
    /// The writer lets lines gather.
    gathers: bool,
    /// Somebody waits for everything to be written.
    hurries: bool,
    batch: u64,
    /// Lines dropped since this was last logged; those of tasks are counted by their budgets.
    dropped: u64,
}

impl State {
    fn held(&self) -> usize {
        self.waiting.len() + self.writing
    }
}

impl Queue {
    /// Adds what `format` writes, one line or none, or drops it when there is no room.
    pub fn push(&self, format: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let before = state.waiting.len();
        if state.held() < CAPACITY {
            format(&mut state.waiting);
        }
        if state.held() >= CAPACITY {
            state.waiting.truncate(before);
            state.dropped += 1;
        }
        self.wake(state);
    }

    /// Adds what `format` writes for a task, or drops it when the task's share or the tasks' part is used up. `format` is
    /// told how many lines of the task were dropped before, and must say so.
    pub fn push_output(&self, budget: &OutputBudget, format: impl FnOnce(&mut Vec<u8>, u64)) {
        let mut share = budget.share();
        let mut state = self.lock();
        if share.batch != state.batch {
            (share.batch, share.used) = (state.batch, 0);
        }
        let before = state.waiting.len();
        if share.used < TASK_SHARE / 2 && state.held() < OUTPUT_CAPACITY {
            format(&mut state.waiting, share.dropped);
            let added = u32::try_from(state.waiting.len() - before).unwrap_or(u32::MAX);
            let used = share.used.saturating_add(added);
            if used <= TASK_SHARE / 2 && state.held() < OUTPUT_CAPACITY {
                (share.used, share.dropped) = (used, 0);
                self.wake(state);
                return;
            }
            state.waiting.truncate(before);
        }
        // The share counts as used up even if a shorter line would still fit: the log has one gap then and not many.
        share.used = TASK_SHARE / 2;
        share.dropped += 1;
    }

    /// Whether the next line of a task would be taken, or one before it was dropped already and nobody waits any more.
    pub fn has_room(&self, budget: &OutputBudget) -> bool {
        let share = budget.share();
        let state = self.lock();
        let used = if share.batch == state.batch { share.used } else { 0 };
        // A quarter of what may wait is left for the longest line there is.
        share.dropped > 0 || (used < TASK_SHARE / 8 && state.held() < OUTPUT_CAPACITY / 4 * 3)
    }

    /// Waits until everything is written, for at most `timeout`; false when it was not.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while state.held() > 0 {
            state.hurries = true;
            self.filled.notify_one();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.drained.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes batch after batch to `sink`, for ever. `note` writes the line that says how many lines were dropped.
    pub fn write_out(&self, mut sink: impl Write, note: impl Fn(&mut Vec<u8>, u64)) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() {
                state.sleeps = true;
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.sleeps = false;
            std::mem::swap(&mut batch, &mut state.waiting);
            state.batch += 1;
            state.writing = batch.len();
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);

            if dropped > 0 {
                note(&mut batch, dropped);
            }
            // Nobody can be told that standard error is gone.
            let _ = sink.write_all(&batch);
            batch.clear();
            if batch.capacity() > KEPT {
                batch = Vec::new();
            }

            let mut state = self.lock();
            state.writing = 0;
            if state.hurries && state.waiting.is_empty() {
                state.hurries = false;
                self.drained.notify_all();
            }
            state.gathers = state.waiting.len() < GATHERED;
            let gathers = |state: &mut State| state.gathers && !state.hurries;
            let (mut state, _) =
                self.filled.wait_timeout_while(state, GATHER, gathers).unwrap_or_else(PoisonError::into_inner);
            state.gathers = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the writer when it sleeps, or has let enough gather. Woken with the lock held it would at once wait for that,
    /// and whoever logs would wait for the processor.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waiting = state.waiting.len();
        let due = (state.sleeps && waiting > 0) || (state.gathers && waiting >= GATHERED);
        if due {
            // Once is enough.
            (state.sleeps, state.gathers) = (false, false);
        }
        drop(state);
        if due {
            self.filled.notify_one();
        }
    }
}
