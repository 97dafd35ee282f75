//! Nothing is lost: what the server must learn is kept until it is known to have arrived.
//!
//! WebSocket acknowledges nothing, but frames arrive in order. After a message that ends a task the worker sends a Ping
//! with the serial number of the last message before it; the Pong that echoes it proves that everything up to that
//! number arrived. What is unproven when a connection ends is sent again on the next one, in order, before anything
//! newer. One such Ping is under way at a time, so the cost is bounded by round trips, not by messages.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use crate::message::WorkerMessage;

/// How many proven ends are remembered; the oldest is forgotten first. An assignment that crosses the proof on its way is a
/// round trip late and not an hour.
const TOLD_LIMIT: usize = 256;

/// A message on its way to the server.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Numbers the messages in their order; never used twice.
    serial: u64,
    pub(crate) task_id: String,
    pub(crate) execution_id: Option<String>,
    /// Whether it ends its task.
    pub(crate) is_end: bool,
    /// The frame, exactly as it is sent.
    pub(crate) text: String,
}

impl Entry {
    pub(crate) fn new(execution_id: Option<&str>, message: &WorkerMessage) -> Self {
        let (task_id, is_end) = (message.task_id().into(), message.is_end());
        Self { serial: 0, task_id, execution_id: execution_id.map(Into::into), is_end, text: message.encode() }
    }

    /// The end of a task, worded before.
    pub(crate) const fn end(task_id: String, execution_id: Option<String>, text: String) -> Self {
        Self { serial: 0, task_id, execution_id, is_end: true, text }
    }
}

/// The messages that are not known to have arrived, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    /// The serial of the newest entry ever made.
    last: u64,
    /// The serial of the newest Ping on this connection.
    pinged: u64,
    /// Whether that Ping's Pong is still to come.
    awaiting: bool,
    /// Whether an end of a task was pushed since that Ping.
    end_unpinged: bool,
    /// The last ends that were proven, oldest first.
    told: VecDeque<Entry>,
}

impl Outbox {
    /// Keeps a message until it is proven; it is to be sent now if there is a connection.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.last += 1;
        self.end_unpinged |= entry.is_end;
        self.entries.push_back(Entry { serial: self.last, ..entry });
    }

    /// A connection is established: no Ping of an earlier one counts any more. Everything here is to be sent again.
    pub(crate) fn reconnected(&mut self) {
        // Entries may be numbered below a Ping of the last connection, so the proof starts from nothing.
        self.pinged = 0;
        self.awaiting = false;
        self.end_unpinged = self.entries.iter().any(|entry| entry.is_end);
    }

    /// The serial to send a Ping with, when one is due: no other is under way, and what was sent since the last one ends
    /// a task (or is anything at all, when `all` is asked for). Everything in the outbox must have been sent.
    pub(crate) fn ping_due(&self, all: bool) -> Option<u64> {
        let any_unpinged = || self.entries.back().is_some_and(|entry| entry.serial > self.pinged);
        (!self.awaiting && (self.end_unpinged || (all && any_unpinged()))).then_some(self.last)
    }

    /// The serial to put into a Ping that is sent in any case. While a Pong is still to come it is asked for once more:
    /// a newer serial could put off the proof for ever on a connection that is slower than the Pings.
    pub(crate) const fn any_serial(&self) -> u64 {
        if self.awaiting { self.pinged } else { self.last }
    }

    /// A Ping with this serial was sent.
    pub(crate) const fn pinged(&mut self, serial: u64) {
        self.end_unpinged &= self.awaiting;
        self.pinged = serial;
        self.awaiting = true;
    }

    /// A Pong with this serial arrived: gives the ends that it proves. One that no Ping asked for proves nothing.
    pub(crate) fn proven(&mut self, serial: u64) -> Vec<Entry> {
        let mut ends = Vec::new();
        if !self.awaiting || serial != self.pinged {
            return ends;
        }
        self.awaiting = false;
        while self.entries.front().is_some_and(|entry| entry.serial <= serial)
            && let Some(entry) = self.entries.pop_front()
        {
            if entry.is_end {
                ends.push(entry);
            }
        }
        ends
    }

    /// Remembers an end that the server is known to have.
    pub(crate) fn remember(&mut self, end: Entry) {
        self.told.push_back(end);
        if self.told.len() > TOLD_LIMIT {
            self.told.pop_front();
        }
    }

    /// How the last execution of a task ended that is one of these, when that was proven lately.
    pub(crate) fn told(&self, task_id: &str, is_one: impl Fn(Option<&str>) -> bool) -> Option<&Entry> {
        let is_it = |entry: &&Entry| entry.task_id == task_id && is_one(entry.execution_id.as_deref());
        self.told.iter().rev().find(is_it)
    }

    /// Drops everything that belongs to a task.
    pub(crate) fn forget(&mut self, task_id: &str) {
        self.entries.retain(|entry| entry.task_id != task_id);
    }

    /// The end of a task that is not proven yet, when there is one.
    pub(crate) fn end_of(&self, task_id: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.is_end && entry.task_id == task_id)
    }

    /// Whether anything is kept for a task.
    pub(crate) fn holds(&self, task_id: &str) -> bool {
        self.entries.iter().any(|entry| entry.task_id == task_id)
    }

    /// The messages, oldest first.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Whether everything is proven.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of ends of tasks that are not proven.
    pub(crate) fn unproven_ends(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_end).count()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn claim(execution_id: &str) -> Entry {
        Entry::new(Some(execution_id), &WorkerMessage::TaskClaimed { task_id: "T".into(), worker_id: "w".into() })
    }

    fn end(execution_id: &str) -> Entry {
        Entry::new(Some(execution_id), &WorkerMessage::succeeded("T"))
    }

    fn told(outbox: &Outbox, execution_id: &str) -> bool {
        outbox.told("T", |told| told == Some(execution_id)).is_some()
    }

    fn prove(outbox: &mut Outbox) {
        let serial = outbox.any_serial();
        outbox.pinged(serial);
        for end in outbox.proven(serial) {
            outbox.remember(end);
        }
    }

    #[test]
    fn as_many_proven_ends_are_remembered_as_there_are_to_be_and_no_more() {
        let mut outbox = Outbox::default();
        for n in 0..TOLD_LIMIT {
            outbox.push(end(&format!("e{n}")));
        }
        prove(&mut outbox);
        assert!(told(&outbox, "e0"));
        outbox.push(end("another"));
        prove(&mut outbox);
        assert!(!told(&outbox, "e0"));
        assert!(told(&outbox, "e1"));
    }

    #[test]
    fn only_an_end_is_remembered_as_one() {
        let mut outbox = Outbox::default();
        outbox.push(claim("e"));
        prove(&mut outbox);
        assert!(outbox.is_empty() && !told(&outbox, "e"));
    }
}
