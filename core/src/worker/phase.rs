//! How far a worker is.

use crate::time::Instant;

/// How far the worker is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not at all.
    Running,
    /// Tasks may go on until then.
    Draining(Instant),
    /// Tasks have been asked to stop and may take until then.
    Stopping(Instant),
    /// All tasks ended; their reports may take until then.
    Reporting(Instant),
    /// Nothing is left but to close the connection.
    Leaving,
    /// [`Output::Exit`](super::io::Output::Exit) was given.
    Gone,
}
