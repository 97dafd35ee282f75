//! Tells the exporters that the worker leaves: who waits for a collector stops waiting.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shared by whoever leaves and by those who wait. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closing(Arc<(Mutex<Option<Instant>>, Condvar)>);

impl Closing {
    /// The worker leaves, and exports may take until `deadline`.
    pub(crate) fn begin(&self, deadline: Instant) {
        *self.lock() = Some(deadline);
        self.0.1.notify_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.lock().is_some()
    }

    /// `deadline`, or the worker's own if it leaves before.
    pub(super) fn earlier(&self, deadline: Instant) -> Instant {
        self.lock().map_or(deadline, |closing| closing.min(deadline))
    }

    /// Waits this long. Says whether it did: not when the worker leaves, unless it did so `already` when the export began,
    /// which then is the last one.
    pub(super) fn wait(&self, time: Duration, already: bool) -> bool {
        let unchanged = |closing: &mut Option<Instant>| closing.is_some() == already;
        let waited = self.0.1.wait_timeout_while(self.lock(), time, unchanged);
        waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
