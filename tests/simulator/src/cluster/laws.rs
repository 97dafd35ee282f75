//! What must hold on a cluster: a result is the true end of the task, by the table of the verdicts; one Job a task; what has
//! ended never starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::plan::Trouble;
use crate::executor::Machine;
use crate::journal::Journal;
use crate::watch::Judge;

/// A moment that an object shows is one of whole seconds: two within this may be told in either order.
const SAME_MOMENT: Duration = Duration::from_secs(1);

/// After how long the end of a task is surely seen that nothing disturbs.
const SEEN: Duration = Duration::from_secs(15);
/// How soon nothing is told to be out of reach: a call is repeated for two minutes.
const IMPATIENT: Duration = Duration::from_secs(50);
/// How long after the last fault what was asked for amid faults may still be tried again.
const AFTERMATH: Duration = Duration::from_secs(200);

/// What really became of each execution. A clone is another handle to the same.
#[derive(Clone)]
pub struct Truths {
    journal: Journal,
    all: Arc<Mutex<BTreeMap<String, Truth>>>,
    /// Until when whatever is asked may fail.
    stormy_until: Arc<Mutex<Duration>>,
}

/// What really became of one execution.
#[derive(Debug, Default, Clone)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Truth {
    /// The UID of the Job that was made last: what becomes of the Pod of one before, which somebody deleted, is no end of it.
    pub job: String,
    /// How many Jobs were made for it, and how often its task was started.
    pub jobs: u32,
    pub starts: u32,
    /// When its task was started last.
    pub started: Option<Duration>,
    /// When the task's container ended, with which code, and whether for lack of memory.
    pub end: Option<(Duration, i32, bool)>,
    /// The code of an init container that failed.
    pub init: Option<i32>,
    /// When the cluster took its Pod away.
    pub disrupted: Option<Duration>,
    /// Whether the cluster said that it would take its Pod away, and did not.
    pub is_threatened: bool,
    /// Whether somebody who is no worker deleted its Job or Pod.
    pub is_removed: bool,
    /// Whether its Pod was gone a moment after it was made.
    pub is_brief: bool,
    /// Whether its Job was removed, since it had finished for long.
    pub is_expired: bool,
    /// When its Job had taken longer than it may.
    pub deadline: Option<Duration>,
    /// Whether its Job says that it failed.
    pub has_failed: bool,
    /// What was in the way of its Pod last.
    pub trouble: Option<Trouble>,
    /// Whether there was no Pod, or no node for it, at any time.
    pub is_unplaced: bool,
    /// Whether a request about it failed, or a watch did.
    pub is_disturbed: bool,
    /// Whether the worker that made its Job was killed, or left.
    pub is_orphan: bool,
    /// Whether another worker has taken it up: it says so a moment later.
    pub is_taken_up: bool,
    /// Which worker has it: who made its Job or took that up; before, who claimed it first.
    pub holder: Option<Machine>,
    /// The workers that have claimed it, and live: the server gave it to them.
    pub given: BTreeSet<Machine>,
    /// Whether the server ever gave it to two at once: both may tell its end then.
    pub is_shared: bool,
    /// Whether somebody else's Job has the name that its own would have.
    pub is_name_taken: bool,
    /// When its end was told, and by which reason.
    pub told: Option<(Duration, String)>,
    /// When its Pods were read last.
    pub looked: Option<Duration>,
    /// When a worker claimed it first, and how many requests about it came since.
    pub claimed: Option<Duration>,
    pub requests: u32,
}

impl Truths {
    pub fn new(journal: &Journal) -> Self {
        Self { journal: journal.clone(), all: Arc::default(), stormy_until: Arc::default() }
    }

    pub fn note<T>(&self, execution: &str, what: impl FnOnce(&mut Truth) -> T) -> T {
        let is_disturbed = *self.stormy_until.lock().unwrap() > self.journal.now();
        let new = || Truth { is_disturbed, ..Truth::default() };
        what(self.all.lock().unwrap().entry(execution.to_owned()).or_insert_with(new))
    }

    pub fn of(&self, execution: &str) -> Truth {
        self.all.lock().unwrap().get(execution).cloned().unwrap_or_default()
    }

    /// Whether whatever is asked may fail from now on. It disturbs everything whose end is not told.
    pub fn disturb(&self, is_stormy: bool) {
        let mut until = self.stormy_until.lock().unwrap();
        *until = match (is_stormy, until.is_zero()) {
            (true, _) => Duration::MAX,
            (false, true) => Duration::ZERO,
            (false, false) => self.journal.now() + AFTERMATH,
        };
        drop(until);
        self.all.lock().unwrap().values_mut().filter(|truth| truth.told.is_none()).for_each(|truth| {
            truth.is_disturbed = true;
        });
    }

    /// A worker is gone. Of what it had, ends that it may not have told are told again: of those executions.
    pub fn orphan(&self, machine: Machine, untold: &BTreeSet<String>) {
        for (execution, truth) in self.all.lock().unwrap().iter_mut() {
            truth.given.remove(&machine);
            if truth.holder.is_none_or(|holder| holder == machine) {
                (truth.is_orphan, truth.is_disturbed) = (true, true);
                truth.told.take_if(|_| untold.contains(execution));
            }
        }
    }
}

impl Truth {
    /// Whether this is its end: `reason` is that of a failure, and empty of a success.
    fn is_end(&self, now: Duration, woken: Option<Duration>, reason: &str, exit_code: i64) -> bool {
        // What is given up may start between the last look and the deletion.
        let was_idle = self.started.is_none_or(|started| self.looked.is_some_and(|looked| looked <= started));
        let ended_by = |code: i64, oom| {
            self.end.is_some_and(|(at, own, is_oom)| {
                let is_first = |other: Option<Duration>| other.is_none_or(|other| at <= other + SAME_MOMENT);
                i64::from(own) == code && is_oom == oom && is_first(self.disrupted) && is_first(self.deadline)
            })
        };
        let came_first = |moment: Option<Duration>| {
            moment.is_some_and(|moment| self.end.is_none_or(|(at, code, _)| code != 0 && moment <= at + SAME_MOMENT))
        };
        let waits_for = |reasons: &[&str]| reasons.contains(&reason);
        // A machine that slept has seen as little meanwhile as one whose watches fail.
        let has_slept = woken.is_some_and(|woken| self.claimed.is_none_or(|claimed| claimed <= woken));
        let is_disturbed = self.is_disturbed || has_slept;
        match reason {
            "" => self.end.is_some_and(|(_, code, _)| code == 0),
            "cancelled" => !self.end.is_some_and(|(at, code, _)| code == 0 && !is_disturbed && at + SEEN < now),
            // 143 stands for what nobody saw the end of.
            "container_exit" => {
                let is_gone = self.disrupted.is_some() || self.is_expired;
                let is_unseen = self.is_removed || (is_gone && is_disturbed);
                ended_by(exit_code, false) || (exit_code == 143 && is_unseen && self.starts > 0)
            }
            "container_oom" => ended_by(exit_code, true),
            "init_container" => self.init.map(i64::from) == Some(exit_code),
            "evicted" => {
                // Of a Pod whose end nobody saw only this is known.
                let is_unseen = self.disrupted.is_some() && is_disturbed;
                let is_threatened = self.is_threatened && (self.is_removed || self.deadline.is_some());
                came_first(self.disrupted) || is_unseen || is_threatened
            }
            // Of a Pod whose end nobody saw only this is known.
            "active_deadline" => came_first(self.deadline) || (self.deadline.is_some() && is_disturbed),
            "unschedulable" => was_idle && self.is_unplaced,
            // What Jobs say of themselves stands for what cannot be seen of their Pods.
            "job_failed" => {
                let is_unseen = is_disturbed || self.is_removed || self.is_brief;
                self.trouble == Some(Trouble::Refused) || (self.has_failed && is_unseen)
            }
            // Of one whose answer was lost nobody knows; it is deleted later.
            "job_create" => {
                // By a worker's clock that did not stand still while its machine slept.
                let was_awake = woken.is_none_or(|woken| woken + IMPATIENT < now);
                let is_soon = was_awake && self.claimed.is_some_and(|claimed| claimed + IMPATIENT > now);
                self.is_name_taken || (is_disturbed && !is_soon)
            }
            "job_watch" => self.is_removed || is_disturbed,
            _ => was_idle && self.trouble.is_some_and(|trouble| waits_for(trouble.reasons())),
        }
    }
}

/// What one worker tells, held against what is true.
pub struct Eye {
    pub truths: Truths,
    /// Where the worker runs.
    pub machine: Machine,
}

impl Judge for Eye {
    fn claimed(&self, execution: &str) {
        let now = self.truths.journal.now();
        self.truths.note(execution, |truth| {
            truth.claimed.get_or_insert(now);
            truth.given.insert(self.machine);
            truth.is_shared |= truth.given.len() > 1;
            if truth.is_orphan || truth.holder.is_none() {
                truth.holder = Some(self.machine);
            }
        });
    }

    fn judge(&self, execution: &str, reason: &str, exit_code: i64) -> Option<String> {
        let (journal, machine) = (&self.truths.journal, self.machine);
        let (now, woken) = (journal.now(), journal.executor().last_woken(machine));
        self.truths.note(execution, |truth| {
            let told = if reason.is_empty() { "success" } else { reason };
            let is_true = truth.is_end(now, woken, reason, exit_code);
            let seen = format!("{truth:?}");
            let before = truth.told.replace((now, told.to_owned()));
            // Law: only who has it tells how it ended.
            if truth.holder.is_some_and(|holder| holder != machine) && !truth.given.contains(&machine) {
                return Some(format!("{execution} is told to have ended by {told}, by a worker that does not have it"));
            }
            if let Some((_, before)) = before.filter(|_| !truth.is_orphan && !truth.is_shared) {
                return Some(format!("{execution} is told to have ended by {told}, and was by {before}"));
            }
            (!is_true).then(|| format!("{execution} is told to have ended by {told} {exit_code}, but {seen}"))
        })
    }
}
