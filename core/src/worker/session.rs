//! A connection and its session, as the worker knows them, and the times that hold there.

use core::time::Duration;

use crate::time::Instant;

// The times of `docs/protocol.md`.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(45);
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// A connection that lasted so long was good, whatever it brought.
pub(super) const LASTING: Duration = Duration::from_secs(60);

/// The connection, as the worker knows it.
#[derive(Debug)]
pub(super) enum Connection {
    /// None; the next dial is due at this moment.
    Waiting(Instant),
    /// Being dialled until this moment.
    Dialing(Instant),
    /// Established.
    Open(Session),
    /// Closing at the worker's end, until this moment.
    Closing(Instant),
}

/// An established connection.
#[derive(Debug)]
pub(super) struct Session {
    since: Instant,
    /// Whether it brought a message, or has lasted: the next dial need not wait.
    pub(super) is_good: bool,
    pub(super) last_received: Instant,
    pub(super) next_ping: Instant,
    /// Until when what was handed out must be written, when something is still unwritten.
    pub(super) write_limit: Option<Instant>,
}

impl Session {
    /// A connection that is established at `now`.
    pub(super) fn new(now: Instant) -> Self {
        let next_ping = now.plus(PING_INTERVAL);
        Self { since: now, is_good: false, last_received: now, next_ping, write_limit: None }
    }

    /// Whether it has lasted if it was alive until this moment.
    pub(super) fn has_lasted(&self, until: Instant) -> bool {
        until >= self.since.plus(LASTING)
    }

    /// When something is due on it.
    pub(super) fn deadline(&self) -> Instant {
        let silence = self.last_received.plus(SILENCE_LIMIT);
        self.write_limit.map_or(silence, |limit| limit.min(silence)).min(self.next_ping)
    }
}
