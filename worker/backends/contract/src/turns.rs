//! So many at once, and no more: whoever comes then waits in line. A thousand calls that are under way together cost as much
//! memory as a thousand tasks, and no server does them sooner.
//!
//! Only the like of each other share a line, so that what hangs holds up nothing else. Time in line is no fault of whoever is
//! asked: a limit on it is for a line that stands still.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt;
use oz_worker_core::time::Instant;
use oz_worker_runtime::Runtime;

/// A line, and so many who can have their turn at once. What one is done with and the next can use, such as a connection, is
/// handed on; nothing is kept while nobody waits.
pub struct Turns<T>(Arc<Shared<T>>);

struct Shared<T> {
    /// The turns that nobody has, with what is handed on.
    free: Receiver<Option<T>>,
    back: Sender<Option<T>>,
    waiting: AtomicUsize,
    /// When somebody who had a turn got an answer last.
    moved: Mutex<Option<Instant>>,
}

/// Somebody's turn. It is over when this is dropped.
pub struct Turn<T> {
    line: Arc<Shared<T>>,
    handed: Option<T>,
}

/// Somebody who waits.
struct Waiting<'a, T>(&'a Shared<T>);

impl<T> Turns<T> {
    /// At most so many turns at once.
    pub fn new(most: usize) -> Self {
        let (back, free) = async_channel::bounded(most);
        for _ in 0..most {
            let _ = back.try_send(None);
        }
        Self(Arc::new(Shared { free, back, waiting: AtomicUsize::new(0), moved: Mutex::new(None) }))
    }

    /// Waits in line: who came first goes first, and whoever stops waiting is not in it any more. None: for so long nobody who
    /// had a turn got an answer.
    pub async fn next<R: Runtime>(&self, runtime: &R, patience: Duration) -> Option<Turn<T>> {
        let shared = &*self.0;
        let turn = |handed| Some(Turn { line: Arc::clone(&self.0), handed });
        if let Ok(handed) = shared.free.try_recv() {
            return turn(handed);
        }
        let begun = runtime.now();
        let _waiting = Waiting::new(shared);
        let mut free = pin!(shared.free.recv());
        loop {
            let until = shared.moved().map_or(begun, |moved| moved.max(begun)).plus(patience);
            let free = async { Some(free.as_mut().await) };
            let late = async {
                runtime.sleep_until(until).await;
                None
            };
            if let Some(handed) = free.or(late).await {
                return turn(handed.ok().flatten());
            }
            if shared.moved().is_none_or(|moved| moved.max(begun).plus(patience) <= until) {
                return None;
            }
        }
    }
}

impl<T> Turn<T> {
    /// What the one before was done with.
    pub fn handed(&mut self) -> Option<T> {
        self.handed.take()
    }

    /// Hands this on to the next, if somebody waits.
    pub fn hand_on(&mut self, handed: T) {
        self.handed = Some(handed);
    }

    /// There was an answer, whatever it says: the line moves.
    pub fn is_answered(&self, now: Instant) {
        *self.line.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        let handed = self.handed.take().filter(|_| self.line.waiting.load(Ordering::SeqCst) > 0);
        let _ = self.line.back.try_send(handed);
    }
}

impl<T> Shared<T> {
    fn moved(&self) -> Option<Instant> {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a, T> Waiting<'a, T> {
    fn new(line: &'a Shared<T>) -> Self {
        line.waiting.fetch_add(1, Ordering::SeqCst);
        Self(line)
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nobody is left whom something could be handed on to.
            for _ in 0..self.0.free.len() {
                if let Ok(handed) = self.0.free.try_recv() {
                    drop(handed);
                    let _ = self.0.back.try_send(None);
                }
            }
        }
    }
}
