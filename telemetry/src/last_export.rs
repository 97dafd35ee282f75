//! The last export of a signal, when the worker leaves: the SDK takes its time, the worker does not.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use tracing::warn;

/// The last export of one signal, which runs.
pub(crate) struct LastExport {
    signal: &'static str,
    finished: Receiver<()>,
}

impl LastExport {
    /// Shuts a provider of `signal` down, on a thread of its own.
    pub(crate) fn begin<P: Clone + Send + 'static>(
        signal: &'static str,
        provider: P,
        shut_down: impl FnOnce(&P) + Send + 'static,
    ) -> Self {
        let (done, finished) = channel();
        let kept = provider.clone();
        let run = move || {
            shut_down(&provider);
            let _ = done.send(());
        };
        if thread::Builder::new().name(format!("{signal}-exit")).spawn(run).is_err() {
            // Dropping the last handle would shut down here and now, for as long as that takes.
            std::mem::forget(kept);
        }
        Self { signal, finished }
    }

    /// Waits for the end of it; leaves the thread behind when that does not come in time.
    pub(crate) fn wait_until(self, deadline: Instant) {
        if self.finished.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            warn!("the last export of {} did not end in time", self.signal);
        }
    }
}
