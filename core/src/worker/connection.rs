//! The connection: dialling, backoff, keepalive, and what is sent again on the next one.

use alloc::vec::Vec;

use super::Worker;
use super::io::{Frame, Output};
use super::phase::Phase;
use super::session::{Connection, DIAL_TIMEOUT, PING_INTERVAL, SILENCE_LIMIT, Session, WRITE_LIMIT};
use crate::metrics::{MetricEvent, ReconnectReason};
use crate::notice::{Cause, Notice};
use crate::outbox::Entry;
use crate::time::Instant;

impl Worker {
    pub(super) fn on_connected(&mut self, now: Instant) {
        if !matches!(self.connection, Connection::Dialing(_)) {
            return;
        }
        self.connection = Connection::Open(Session::new(now));
        self.metric(MetricEvent::Connected);
        let unproven_ends = self.outbox.unproven_ends();
        self.notice(Notice::Connected { unproven_ends, is_repeated: self.is_fruitless });
        self.outbox.reconnected();
        let again: Vec<Frame> = self.outbox.messages().map(|entry| Frame::Text(entry.text.clone())).collect();
        for frame in again {
            self.send(now, frame);
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Instant, cause: Cause) {
        let wait = self.backoff.next();
        self.connection = Connection::Waiting(now.plus(wait));
        self.metric(MetricEvent::Reconnect(ReconnectReason::DialFailed));
        self.notice(Notice::DialFailed { cause, retry_in: wait });
    }

    pub(super) fn on_disconnected(&mut self, now: Instant, cause: Cause) {
        match &self.connection {
            Connection::Open(session) => {
                // One that the worker itself takes for dead was alive until something was received last.
                let has_lasted = matches!(cause, Cause::Outside(_)) && session.has_lasted(now);
                self.is_fruitless = !(session.is_good || has_lasted);
                let wait = if self.is_fruitless { self.backoff.next() } else { self.backoff.soon() };
                self.connection = Connection::Waiting(now.plus(wait));
                self.metric(MetricEvent::Disconnected);
                self.metric(MetricEvent::Reconnect(ReconnectReason::RemoteClose));
                self.notice(Notice::Disconnected { cause, retry_in: wait });
            }
            Connection::Closing(_) => self.exit(),
            Connection::Waiting(_) | Connection::Dialing(_) => {}
        }
    }

    /// The connection is worth something. A person hears of it if the one before was not.
    pub(super) fn on_good(&mut self) {
        let Connection::Open(session) = &mut self.connection else { return };
        session.is_good = true;
        if core::mem::take(&mut self.is_fruitless) {
            self.notice(Notice::ConnectionStays);
        }
    }

    pub(super) const fn on_written(&mut self) {
        if let Connection::Open(session) = &mut self.connection {
            session.write_limit = None;
        }
    }

    /// Anything that arrives proves life. Gives whether there is a connection on which it can have arrived.
    pub(super) const fn on_received(&mut self, now: Instant) -> bool {
        let Connection::Open(session) = &mut self.connection else { return false };
        session.last_received = now;
        true
    }

    /// What was in the way of a write moves: whoever takes it is alive.
    pub(super) fn on_taken(&mut self, now: Instant) {
        if let Connection::Open(session) = &mut self.connection
            && let Some(limit) = &mut session.write_limit
        {
            *limit = now.plus(WRITE_LIMIT);
            session.last_received = now;
        }
    }

    pub(super) fn check_connection(&mut self, now: Instant) {
        if self.phase == Phase::Gone {
            return;
        }
        match &mut self.connection {
            Connection::Waiting(until) if now >= *until => {
                self.connection = Connection::Dialing(now.plus(DIAL_TIMEOUT));
                self.outputs.push_back(Output::Dial);
            }
            Connection::Dialing(until) if now >= *until => {
                self.outputs.push_back(Output::Drop);
                self.on_dial_failed(now, Cause::DialTimedOut(DIAL_TIMEOUT));
            }
            Connection::Open(session) => {
                if session.write_limit.is_some_and(|limit| now >= limit) {
                    self.outputs.push_back(Output::Drop);
                    self.on_disconnected(now, Cause::WriteStalled(WRITE_LIMIT));
                } else if now >= session.last_received.plus(SILENCE_LIMIT) {
                    self.outputs.push_back(Output::Drop);
                    self.on_disconnected(now, Cause::Silent(SILENCE_LIMIT));
                } else {
                    let (has_lasted, is_ping_due) =
                        (session.has_lasted(session.last_received), now >= session.next_ping);
                    if has_lasted {
                        self.on_good();
                    }
                    if is_ping_due {
                        self.keep_alive(now);
                    }
                }
            }
            Connection::Closing(until) if now >= *until => self.exit(),
            _ => {}
        }
    }

    fn keep_alive(&mut self, now: Instant) {
        if let Connection::Open(session) = &mut self.connection {
            session.next_ping = now.plus(PING_INTERVAL);
            let serial = self.outbox.any_serial();
            self.ping(now, serial);
        }
    }

    pub(super) fn send(&mut self, now: Instant, frame: Frame) {
        if let Connection::Open(session) = &mut self.connection {
            session.write_limit.get_or_insert(now.plus(WRITE_LIMIT));
            self.outputs.push_back(Output::Send(frame));
        }
    }

    pub(super) fn ping(&mut self, now: Instant, serial: u64) {
        self.outbox.pinged(serial);
        self.send(now, Frame::Ping(serial.to_be_bytes()));
    }

    /// Asks the server to prove what it was sent, when there is something worth it.
    pub(super) fn prove(&mut self, now: Instant) {
        if self.is_connected()
            && let Some(serial) = self.outbox.ping_due(self.phase != Phase::Running)
        {
            self.ping(now, serial);
        }
    }

    /// Sends a message, and keeps it until it is proven.
    pub(super) fn post(&mut self, now: Instant, entry: Entry) {
        if self.is_connected() {
            self.send(now, Frame::Text(entry.text.clone()));
        }
        self.outbox.push(entry);
    }
}
