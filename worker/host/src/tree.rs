//! All processes of one task, however they detached themselves: how they are found, and ended.
//!
//! Three nets, each for what slips through the one before:
//! - the process groups of what was started in the tree;
//! - a cgroup, where there can be one: nobody leaves it but who may write the cgroup file system;
//! - orphans. This process adopts them, so whatever survives its parent is our own child, or hangs below one. A token in
//!   the environment says which task it belongs to, and so does a [tag](crate::tag) that no process can hide; so does the
//!   group or session that it shares with one that has either.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;

use super::cgroup::{Cgroup, Lease};
use super::proc::{self, Stat, TOKEN_VARIABLE, kill_process};
use super::shared::Shared;
use super::tag::Tag;
use oz_worker_runtime::{self as runtime, Owner};

/// All processes of one task. As long as its process groups matter (a descendant without the token may still be in
/// one), drop no [`Child`](super::Child) of it before it [is empty](runtime::Tree::is_empty).
#[derive(Debug)]
pub struct Tree {
    number: u64,
    token: String,
    tag: Option<Tag>,
    /// The last one is open to more processes, unless it was killed.
    cgroups: Mutex<Vec<Lease>>,
    shared: Arc<Shared>,
}

impl Tree {
    pub(super) fn new(number: u64, shared: Arc<Shared>) -> Self {
        let owner = shared.owner.get();
        let token = format!("{}.{number}", owner.map_or("unowned", Owner::mark));
        let tag = owner.and_then(|owner| Tag::new(owner.key(), owner.start(), number));
        let tree = Self { number, token, tag, cgroups: Mutex::default(), shared };
        // Now, so that the task does not wait for one to be made when it starts.
        drop(tree.cgroup());
        tree
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn token(&self) -> &OsStr {
        OsStr::new(&self.token)
    }

    pub(super) fn tag(&self) -> Option<Tag> {
        self.tag
    }

    /// The cgroup for one more process, if there can be any.
    pub(super) fn cgroup(&self) -> Option<Arc<Cgroup>> {
        let mut cgroups = self.cgroups();
        if !cgroups.last().is_some_and(|cgroup| cgroup.is_open()) {
            cgroups.push(self.shared.lease()?);
        }
        cgroups.last().map(Lease::cgroup)
    }

    fn cgroups(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living orphans that neither bear the tag nor the token of another tree of this worker.
    fn orphans(&self) -> Vec<i32> {
        let mut orphans = self.shared.orphans();
        orphans.retain(|pid| match Stat::of(*pid).and_then(|stat| Tag::of(&stat)) {
            // (A worker that ran in the task has left its own.)
            Some(tag) if self.tag.is_some_and(|own| own.has_worker_of(tag)) => self.tag == Some(tag),
            _ => proc::variable(*pid, TOKEN_VARIABLE).is_none_or(|token| !self.is_anothers(&token)),
        });
        orphans
    }

    /// Whether `token` is that of another tree of this worker.
    fn is_anothers(&self, token: &[u8]) -> bool {
        let mark = self.token.rsplit_once('.').map(|(mark, _)| mark);
        let number = mark.and_then(|mark| token.strip_prefix(mark.as_bytes())?.strip_prefix(b"."));
        number.is_some() && token != self.token.as_bytes()
    }

    /// The living descendants of this process that belong to the tree, as far as they hang below an orphan, or below a
    /// child of the tree.
    fn members(&self, orphans: &[i32], children: &[(Pid, bool)]) -> Vec<Stat> {
        let family = Family::read();
        let mut known = Known { token: &self.token, tag: self.tag, groups: BTreeSet::new(), sessions: BTreeSet::new() };
        // Each leads a group and a session.
        let led = children.iter().map(|(pid, _)| pid.as_raw_nonzero().get());
        known.groups.extend(led.clone());
        known.sessions.extend(led);

        let mut members = Vec::new();
        for (child, _) in children {
            members.extend(family.below(child.as_raw_nonzero().get()));
        }
        let mut unknown = Vec::new();
        for orphan in orphans {
            let branch = family.below(*orphan);
            if branch.iter().any(|stat| known.is_known(stat)) {
                members.extend(branch);
            } else {
                unknown.push(branch);
            }
        }
        known.learn(&members);
        members.extend(unknown.into_iter().filter(|branch| branch.iter().any(|stat| known.is_related(stat))).flatten());
        members
    }
}

impl runtime::Tree for Tree {
    fn is_empty(&self) -> bool {
        if self.cgroups().iter().any(|cgroup| cgroup.is_populated()) {
            return false;
        }
        let children = self.shared.children_of(self.number);
        if children.iter().any(|(_, running)| *running) {
            return false;
        }
        let orphans = self.orphans();
        // The usual case ends here: reading through all processes is only for when there may be something to find.
        orphans.is_empty() || self.members(&orphans, &children).is_empty()
    }

    fn kill(&self) {
        // Only what holds something: a killed cgroup cannot be used again.
        self.cgroups().iter().filter(|cgroup| cgroup.is_populated()).for_each(|cgroup| cgroup.kill());
        // What hangs below the children that are killed here becomes an orphan, which the next round finds. Reading
        // through all processes at once for every one of a thousand tasks would take longer.
        let orphans = self.orphans();
        let members =
            if orphans.is_empty() { Vec::new() } else { self.members(&orphans, &self.shared.children_of(self.number)) };
        self.shared.kill_groups_of(self.number);
        members.iter().for_each(kill_process);
    }
}

/// How a process of a tree is known.
struct Known<'a> {
    token: &'a str,
    tag: Option<Tag>,
    groups: BTreeSet<i32>,
    sessions: BTreeSet<i32>,
}

impl Known<'_> {
    fn is_known(&self, stat: &Stat) -> bool {
        let has_token = || proc::variable(stat.pid, TOKEN_VARIABLE).is_some_and(|token| token == self.token.as_bytes());
        self.tag.is_some() && Tag::of(stat) == self.tag || has_token()
    }

    /// From now on the groups and sessions of `members` are the tree's, save those that the worker itself is in.
    fn learn(&mut self, members: &[Stat]) {
        let own = Stat::of(rustix::process::getpid().as_raw_nonzero().get());
        let is_ours = |id: i32| own.is_some_and(|own| own.group == id || own.session == id);
        self.groups.extend(members.iter().map(|stat| stat.group).filter(|id| !is_ours(*id)));
        self.sessions.extend(members.iter().map(|stat| stat.session).filter(|id| !is_ours(*id)));
    }

    fn is_related(&self, stat: &Stat) -> bool {
        self.groups.contains(&stat.group) || self.sessions.contains(&stat.session)
    }
}

/// Every process by its parent.
struct Family {
    processes: BTreeMap<i32, Stat>,
    children: BTreeMap<i32, Vec<i32>>,
}

impl Family {
    fn read() -> Self {
        let processes: BTreeMap<i32, Stat> = proc::all().filter_map(Stat::of).map(|stat| (stat.pid, stat)).collect();
        let mut children = BTreeMap::<i32, Vec<i32>>::new();
        for stat in processes.values() {
            children.entry(stat.parent).or_default().push(stat.pid);
        }
        Self { processes, children }
    }

    /// A process and all its descendants, those that live.
    fn below(&self, pid: i32) -> Vec<Stat> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![pid];
        while let Some(pid) = open.pop() {
            // What was read while it changed may hold a circle.
            if seen.insert(pid) {
                found.extend(self.processes.get(&pid).filter(|stat| !stat.has_ended()));
                open.extend(self.children.get(&pid).into_iter().flatten());
            }
        }
        found
    }
}
