//! The bugs: what is right, what is planted in its place, who must find it, and the law that is broken then.

/// Who finds a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finder {
    /// Core's property tests.
    Properties,
}

impl Finder {
    pub const ALL: [Self; 1] = [Self::Properties];

    pub fn package(self) -> &'static str {
        match self {
            Self::Properties => "oz-worker-core",
        }
    }

    pub fn test(self) -> &'static str {
        match self {
            Self::Properties => "session",
        }
    }
}

/// One bug.
pub struct Bug {
    pub name: &'static str,
    pub file: &'static str,
    pub good: &'static str,
    pub bad: &'static str,
    pub finder: Finder,
    pub law: &'static str,
}

const fn in_core(
    name: &'static str,
    law: &'static str,
    file: &'static str,
    good: &'static str,
    bad: &'static str,
) -> Bug {
    Bug { name, file, good, bad, finder: Finder::Properties, law }
}

/// Every bug, in the order in which `docs/guarantees.md` lists them.
pub const BUGS: &[Bug] = &[
    in_core(
        "lost outbox entry: a proof takes an end with it that is newer",
        "nothing is lost, doubled or out of order",
        "core/src/outbox.rs",
        "entry.serial <= serial)",
        "entry.serial <= serial || entry.is_end())",
    ),
    in_core(
        "the first unproven message is not sent again",
        "nothing is lost, doubled or out of order",
        "core/src/worker/connection.rs",
        "self.outbox.messages().map(",
        "self.outbox.messages().skip(1).map(",
    ),
    in_core(
        "result sent before its claim on the next connection",
        "nothing is lost, doubled or out of order",
        "core/src/outbox.rs",
        "self.entries.iter().map(|entry| &entry.message)",
        "self.entries.iter().rev().map(|entry| &entry.message)",
    ),
    in_core(
        "an old end outlives the assignment of a new execution",
        "nothing is lost, doubled or out of order",
        "core/src/worker.rs",
        "        if ended == Some(false) {\n",
        "        if false {\n",
    ),
    in_core(
        "Pong accepted for a Ping that was not sent",
        "nothing is lost, doubled or out of order",
        "core/src/outbox.rs",
        "if !self.awaiting || serial != self.pinged {",
        "if serial > self.pinged {",
    ),
    in_core(
        "no Ping asks for the proof of an end",
        "a Ping asks for the proof",
        "core/src/outbox.rs",
        "self.end_unpinged |= entry.is_end();",
        "",
    ),
    in_core(
        "double claim: an active task that is assigned again is started again",
        "no task runs twice",
        "core/src/worker.rs",
        "            return if task.execution_id.as_deref() == execution_id {\n                self.claim_again(now, task_id, execution_id);",
        "            return if task.execution_id.as_deref() == execution_id {\n                self.start(now, assignment, text);",
    ),
    in_core(
        "task started before its claim is sent",
        "a task is claimed before it starts",
        "core/src/worker.rs",
        "        self.post(now, spec.execution_id.as_deref(), claimed);\n        self.runs += 1;",
        "        self.runs += 1;",
    ),
    in_core(
        "capacity off by one",
        "never more at once than the limit",
        "core/src/worker.rs",
        "self.tasks.len() >= limit",
        "self.tasks.len() > limit",
    ),
    in_core(
        "claim after SIGTERM",
        "after a signal nothing is claimed",
        "core/src/worker.rs",
        "if self.phase != Phase::Running {",
        "if self.phase == Phase::Gone {",
    ),
    in_core(
        "slot leak: a cancelled task keeps its slot",
        "a slot is free as soon as its task has ended",
        "core/src/worker.rs",
        "        if result == TaskResult::Dispatched {\n",
        "        if result == TaskResult::Cancelled {\n            self.tasks.insert(task_id.to_owned(), task);\n        } else if result == TaskResult::Dispatched {\n",
    ),
    in_core(
        "counter off by one: a claim that is repeated is counted again",
        "active = claimed - completed",
        "core/src/worker.rs",
        "    fn claim_again(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>) {\n",
        "    fn claim_again(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>) {\n        self.metric(MetricEvent::TaskClaimed);\n",
    ),
    in_core(
        "a cancellation is lost on a task that shutdown is stopping",
        "nothing is lost, doubled or out of order",
        "core/src/worker.rs",
        "let asked_before = task.stopping.replace(StopCause::User);",
        "let asked_before = task.stopping;\n            task.stopping.get_or_insert(StopCause::User);",
    ),
    in_core(
        "a task is asked to stop twice",
        "stops a task once",
        "core/src/worker.rs",
        "            if asked_before.is_none() {\n",
        "            if asked_before.is_some() || asked_before.is_none() {\n",
    ),
    in_core(
        "timer never re-armed after a Ping",
        "the next timer lies in the future",
        "core/src/worker/connection.rs",
        "session.next_ping = now.plus(PING_INTERVAL);",
        "",
    ),
    in_core(
        "a write that hangs is noticed late",
        "the next timer is the next thing due",
        "core/src/worker/connection.rs",
        "self.write_limit.map_or(silence, |limit| limit.min(silence)).min(self.next_ping)",
        "silence.min(self.next_ping)",
    ),
    in_core(
        "backoff without jitter",
        "a fleet does not come back in lockstep",
        "core/src/backoff.rs",
        "half + Duration::from_nanos(u64::try_from(drawn).unwrap_or(u64::MAX))",
        "{ let _ = drawn; step }",
    ),
    in_core(
        "backoff that a connection does not reset",
        "the wait before a dial is 50 to 100 % of its step",
        "core/src/worker/connection.rs",
        "        self.backoff.reset();\n        self.connection =",
        "        self.connection =",
    ),
    in_core(
        "drain that never ends",
        "the next timer lies in the future",
        "core/src/worker/shutdown.rs",
        "        if let Phase::Draining(until) = self.phase\n            && now >= until\n",
        "        if let Phase::Draining(until) = self.phase\n            && now >= until\n            && self.tasks.is_empty()\n",
    ),
    in_core(
        "worker that waits for a proof for ever",
        "the next timer lies in the future",
        "core/src/worker/shutdown.rs",
        "&& (self.outbox.is_empty() || now >= until)",
        "&& self.outbox.is_empty()",
    ),
    in_core(
        "a dial is counted after the exit",
        "nothing comes after the exit",
        "core/src/worker/connection.rs",
        "        if self.phase == Phase::Gone {\n            return;\n        }\n        match &mut self.connection {",
        "        match &mut self.connection {",
    ),
];
