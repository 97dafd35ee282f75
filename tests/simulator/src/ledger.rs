//! The reference model: what a server may see of one worker, whatever happens in between.
//!
//! It hears the worker's messages as they arrive and knows what it sent itself. One property of WebSocket carries it:
//! frames arrive in order, and what the worker sends again on a new connection comes before anything newer. So the tasks
//! whose claim arrived and whose end did not are exactly those that hold a slot at the worker when the next message was
//! sent, and every rejection for lack of a slot can be judged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The server's view of one worker.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Debug, Default)]
pub struct Ledger {
    /// `--max-concurrent-tasks`; 0 means any number.
    limit: usize,
    /// Whether tasks are handed on and report their end themselves. Their slots cannot be seen from here then.
    dispatches: bool,
    /// Whether the worker was asked to stop.
    pub stopping: bool,
    /// Whether everything that the worker sent again on this connection has arrived.
    settled: bool,
    tasks: BTreeMap<String, Vec<Execution>>,
    /// Those of them that are not over, or that another worker has taken up: a run may have ten thousand that are, and each
    /// message is judged by the others.
    open: BTreeSet<String>,
    /// Every task that was ever cancelled: whoever takes it up may hear of it.
    cancelled: BTreeSet<String>,
}

/// One execution of a task, as far as the server has heard of it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Execution {
    id: String,
    /// Whether it can be understood.
    sound: bool,
    cancelled: bool,
    /// Whether another worker has taken it up meanwhile: this one may not have noticed, and hold a slot for it.
    taken: bool,
    /// Whether the worker was killed since it was assigned: nothing but its container can know of it then.
    killed: bool,
    state: State,
    /// The message that ended it; what comes again must be the same.
    end: Option<String>,
}

impl Execution {
    fn new(id: &str, sound: bool) -> Self {
        Self {
            id: id.to_owned(),
            sound,
            cancelled: false,
            taken: false,
            killed: false,
            state: State::Unanswered,
            end: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unanswered,
    Rejected,
    Active,
    Ended,
}

impl Ledger {
    /// Of a worker with this `--max-concurrent-tasks`, whose backend is `command` or not.
    pub fn new(limit: usize, dispatches: bool) -> Self {
        Self { limit, dispatches, ..Self::default() }
    }

    /// The server assigns an execution, for the first time or again.
    pub fn assigned(&mut self, task: &str, execution: &str, sound: bool) {
        let executions = self.tasks.entry(task.to_owned()).or_default();
        match executions.iter_mut().find(|known| known.id == execution) {
            Some(known) if known.state == State::Rejected => known.state = State::Unanswered,
            Some(_) => {}
            None => executions.push(Execution::new(execution, sound)),
        }
        self.look_at(task);
    }

    /// Something has happened to a task: whether it is over may be another answer now.
    fn look_at(&mut self, task: &str) {
        let is_open = |one: &Execution| one.taken || matches!(one.state, State::Unanswered | State::Active);
        if self.tasks.get(task).into_iter().flatten().any(is_open) {
            self.open.insert(task.to_owned());
        } else {
            self.open.remove(task);
        }
    }

    /// The same of all of them.
    fn look_at_all(&mut self) {
        let tasks: Vec<String> = self.tasks.keys().cloned().collect();
        for task in tasks {
            self.look_at(&task);
        }
    }

    /// The server cancels a task: whichever execution of it that reaches.
    pub fn cancelled(&mut self, task: &str) {
        self.cancelled.insert(task.to_owned());
        for execution in self.tasks.get_mut(task).into_iter().flatten() {
            execution.cancelled |= execution.end.is_none();
        }
    }

    /// The worker is gone. What it had to say and did not is lost.
    pub fn killed(&mut self) {
        self.stopping = false;
        self.tasks.values_mut().flatten().for_each(|one| (one.killed, one.taken) = (true, false));
        self.look_at_all();
    }

    /// This worker takes up an execution that another one had, or it had itself before it was killed: it will say so.
    pub fn adopts(&mut self, task: &str, execution: &str) {
        let cancelled = self.cancelled.contains(task);
        let executions = self.tasks.entry(task.to_owned()).or_default();
        // What it says next of this task is about this one.
        if let Some(place) = executions.iter().position(|known| known.id == execution) {
            let known = executions.remove(place);
            executions.push(known);
        }
        match executions.iter_mut().find(|known| known.id == execution) {
            Some(known) if matches!(known.state, State::Ended | State::Rejected) => {
                (known.state, known.end, known.killed) = (State::Ended, None, true);
            }
            // What is taken up holds a slot, whether there is one or not.
            Some(known) => known.killed |= known.state == State::Unanswered,
            None => {
                let new = Execution { state: State::Ended, killed: true, cancelled, ..Execution::new(execution, true) };
                executions.push(new);
            }
        }
        self.look_at(task);
    }

    /// Another worker takes up an execution: this one is not to tell its end.
    pub fn loses(&mut self, task: &str, execution: &str) {
        for one in self.tasks.get_mut(task).into_iter().flatten().filter(|one| one.id == execution) {
            if matches!(one.state, State::Active | State::Unanswered) {
                (one.taken, one.killed, one.state) = (!one.killed, true, State::Ended);
            }
        }
        self.look_at(task);
    }

    /// The worker is gone for good: gives what it has not answered, for the server to hand to another one.
    pub fn gone(&mut self) -> Vec<(String, String)> {
        let unanswered = self.unanswered().map(|(task, id)| (task.to_owned(), id.to_owned())).collect();
        self.tasks.values_mut().flatten().filter(|one| one.state != State::Rejected).for_each(|one| {
            one.state = State::Ended;
        });
        self.look_at_all();
        unanswered
    }

    /// Another worker begins, and has taken up these executions and no other: nobody will tell the end of those.
    pub fn taken_up(&mut self, all: &[(String, String)]) {
        for (task, executions) in &mut self.tasks {
            for execution in executions {
                let is_taken = all.iter().any(|taken| taken.0 == *task && taken.1 == execution.id);
                match execution.state {
                    // Its container is there, although its end was told: it is told again.
                    State::Ended if is_taken => (execution.state, execution.end) = (State::Active, None),
                    State::Active if !is_taken => execution.state = State::Ended,
                    _ => {}
                }
            }
        }
        self.look_at_all();
    }

    /// A connection is established: what comes first on it may be old.
    pub fn connected(&mut self) {
        self.settled = false;
    }

    /// The worker answered a Ping: everything older than that has arrived.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Whether the server knows where it stands with the worker.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// A message arrived. `claimed` is the execution of its task that the worker claimed last, as its log says: messages
    /// carry no execution, so one that is sent again cannot be told apart otherwise.
    ///
    /// # Errors
    /// What must never happen, in words.
    pub fn heard(&mut self, text: &str, claimed: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let message: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let judged = self.judge(&message, text, claimed);
        self.look_at(message["data"]["task_id"].as_str().unwrap_or_default());
        judged
    }

    fn judge(&mut self, message: &Value, text: &str, claimed: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let field = |name: &str| message["data"][name].as_str().unwrap_or_default();
        let task = field("task_id");
        let kind = message["type"].as_str().unwrap_or_default();
        let (limit, dispatches, stopping) = (self.limit, self.dispatches, self.stopping);
        // Of a task that was assigned anew the worker may have let the old end go already.
        let (active, unsure) = (self.active().count(), self.active().filter(|(task, _)| self.awaits(task)).count());
        let taken = self.executions().filter(|(_, one)| one.taken).count();
        let (full, may_be_full) = (limit > 0 && active - unsure >= limit, limit > 0 && active + taken >= limit);
        let executions = self.tasks.get_mut(task).ok_or(format!("{kind} for {task}, which was never assigned"))?;
        let busy = executions.iter().any(|execution| execution.state == State::Active);
        let about = if self.settled { None } else { claimed(task) };
        let subject =
            subject(executions, kind, about.as_deref()).ok_or(format!("{kind} for no execution of {task}"))?;
        match kind {
            "task_claimed" => match subject.state {
                State::Rejected => Err(format!("{task} was claimed after it was rejected")),
                // What an earlier worker has claimed holds a slot whether there is one or not.
                State::Unanswered if full && !busy && !dispatches && !subject.killed => {
                    Err(format!("{task} was claimed although {active} of {limit} slots are taken"))
                }
                State::Unanswered if !subject.sound => Err(format!("{task} was claimed, and cannot be understood")),
                State::Unanswered => {
                    let id = subject.id.clone();
                    // The worker lets the end of an older execution go when it takes a new one.
                    let older = executions.iter_mut().filter(|other| other.state == State::Active && other.id != id);
                    older.for_each(|other| other.state = State::Ended);
                    executions.iter_mut().filter(|other| other.id == id).for_each(|own| own.state = State::Active);
                    Ok(())
                }
                // Its worker was killed, and another has taken it up.
                State::Ended if subject.killed && subject.end.is_none() => {
                    subject.state = State::Active;
                    Ok(())
                }
                State::Active | State::Ended => Ok(()),
            },
            "task_rejected" => {
                let reason = field("reason");
                let reject = |execution: &mut Execution| {
                    execution.state = State::Rejected;
                    Ok(())
                };
                match (reason, subject.state) {
                    (_, State::Active | State::Ended) => Err(format!("{task} was rejected after it was claimed")),
                    ("worker at maximum concurrency", _) if may_be_full || dispatches => reject(subject),
                    ("worker is shutting down", _) if stopping => reject(subject),
                    ("task is already running on this worker", _) if busy || dispatches => reject(subject),
                    // Some task that was claimed has not started in time.
                    ("worker is not ready", _) if active > 0 || dispatches => reject(subject),
                    // By the one that was killed, for reasons of its own.
                    _ if subject.killed => reject(subject),
                    _ => Err(format!("{task} was rejected ({reason}) with {active} of {limit} slots taken")),
                }
            }
            "task_completed" | "task_failed" => {
                if let Some(end) = &subject.end {
                    return if end == text || subject.killed {
                        Ok(())
                    } else {
                        Err(format!("{task} ended twice: {end} and {text}"))
                    };
                }
                if field("task_state") == "CANCELLED" && !subject.cancelled {
                    return Err(format!("{task} was cancelled by nobody"));
                }
                if field("failure_reason") == "graceful_shutdown" && !stopping && !subject.killed {
                    return Err(format!("{task} was stopped by a shutdown that nobody asked for"));
                }
                match (subject.state, subject.sound) {
                    (State::Active, true) | (State::Unanswered, false) => {}
                    _ if subject.killed => {}
                    _ => return Err(format!("{task} ended without having been claimed: {text}")),
                }
                (subject.state, subject.end) = (State::Ended, Some(text.to_owned()));
                Ok(())
            }
            _ => Err(format!("no message of the protocol: {text}")),
        }
    }

    /// The tasks that hold a slot, as far as the server can know, each with its execution.
    pub fn active(&self) -> impl Iterator<Item = (&str, &str)> {
        self.in_state(State::Active)
    }

    /// The last execution of each task whose end was not heard, and which nobody asked to stop.
    pub fn owed(&self) -> Vec<String> {
        let last = self.tasks.values().filter_map(|executions| executions.last()).filter(|_| !self.stopping);
        let owed = last.filter(|one| matches!(one.state, State::Active | State::Unanswered) && !one.cancelled);
        owed.map(|one| one.id.clone()).collect()
    }

    /// What the worker still owes an answer: task and execution.
    pub fn unanswered(&self) -> impl Iterator<Item = (&str, &str)> {
        self.in_state(State::Unanswered)
    }

    /// The tasks of which more than one execution was assigned.
    pub fn several(&self) -> impl Iterator<Item = &str> {
        self.tasks.iter().filter(|(_, executions)| executions.len() > 1).map(|(task, _)| task.as_str())
    }

    /// The tasks whose last execution has ended, or was rejected.
    pub fn over(&self) -> impl Iterator<Item = &str> {
        let over = |state| matches!(state, State::Ended | State::Rejected);
        self.tasks.iter().filter(move |(_, all)| all.iter().all(|one| over(one.state))).map(|(task, _)| task.as_str())
    }

    /// Whether this execution was claimed or rejected.
    pub fn is_answered(&self, task: &str, execution: &str) -> bool {
        self.state(task, execution).is_some_and(|state| state != State::Unanswered)
    }

    /// Whether this execution was claimed, whatever came of it since.
    pub fn is_claimed(&self, task: &str, execution: &str) -> bool {
        self.state(task, execution).is_some_and(|state| matches!(state, State::Active | State::Ended))
    }

    /// The number of executions that ended in this message's kind, as `result` of the metrics names it.
    pub fn ended_in(&self, result: &str) -> usize {
        let is = |end: &str| match result {
            "succeeded" => end.contains(r#""type":"task_completed""#) && !end.contains("CANCELLED"),
            "cancelled" => end.contains("CANCELLED"),
            _ => end.contains(r#""type":"task_failed""#),
        };
        let sound = self.tasks.values().flatten().filter(|execution| execution.sound);
        sound.filter(|execution| execution.end.as_deref().is_some_and(is)).count()
    }

    /// Whether an execution was replaced by a newer one before its end was heard.
    pub fn has_replaced(&self) -> bool {
        self.tasks.values().flatten().any(|execution| execution.state == State::Ended && execution.end.is_none())
    }

    /// Whether an execution of this task waits for its answer.
    fn awaits(&self, task: &str) -> bool {
        self.tasks.get(task).into_iter().flatten().any(|execution| execution.state == State::Unanswered)
    }

    fn state(&self, task: &str, execution: &str) -> Option<State> {
        self.tasks.get(task)?.iter().find(|one| one.id == execution).map(|one| one.state)
    }

    fn in_state(&self, wanted: State) -> impl Iterator<Item = (&str, &str)> {
        self.executions().filter(move |(_, one)| one.state == wanted).map(|(task, one)| (task, one.id.as_str()))
    }

    /// Every execution of a task that is not over.
    fn executions(&self) -> impl Iterator<Item = (&str, &Execution)> {
        let of = |task: &'_ String| self.tasks.get_key_value(task);
        self.open.iter().filter_map(of).flat_map(|(task, all)| all.iter().map(|one| (task.as_str(), one)))
    }
}

/// Which execution a message is about. `about` is known of messages that may have been sent again.
fn subject<'a>(executions: &'a mut [Execution], kind: &str, about: Option<&str>) -> Option<&'a mut Execution> {
    let last = |wanted: &dyn Fn(&Execution) -> bool| executions.iter().rposition(wanted);
    let index = match (kind, about) {
        ("task_rejected", _) => last(&|one| one.state == State::Unanswered),
        (_, Some(id)) => last(&|one| one.id == id),
        ("task_claimed", None) => {
            last(&|one| one.state == State::Unanswered).or(last(&|one| one.state != State::Rejected))
        }
        (_, None) => last(&|one| one.state == State::Active).or(last(&|one| one.end.is_some())),
    };
    let index = index.or(executions.iter().rposition(|_| true))?;
    executions.get_mut(index)
}
