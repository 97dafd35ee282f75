//! Ends what the tasks of a dead worker left running.
//!
//! A living worker adopts whatever its tasks leave, so every process of its tasks has it among its ancestors, in whatever
//! container it runs. That alone decides whose worker is dead: its number may be another's in another namespace.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

use oz_worker_runtime::{Mark, Owner, split_numbered};

use super::cgroup;
use super::proc::{self, Stat, TOKEN_VARIABLE};
use super::tag::Tag;

/// How often to look again for what was started while we looked.
const ROUNDS: usize = 10;

/// How long to wait for a killed process to be gone.
const WAIT_AFTER_KILL: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Ends the processes in the cgroups, and those with the token or the tag, of workers with the key of `owner` that are no
/// longer alive. Nothing else is touched. Gives the number of processes.
pub(super) fn end(owner: &Owner) -> usize {
    let mut ended: BTreeSet<i32> = cgroup::end_leftovers(owner).into_iter().collect();
    let search = Search { key: owner.key(), own: Maker::of(rustix::process::getpid().as_raw_nonzero().get()) };
    for _ in 0..ROUNDS {
        let found: Vec<(i32, OwnedFd)> = proc::all().filter_map(|pid| Some((pid, search.open(pid)?))).collect();
        if found.is_empty() {
            break;
        }
        for (pid, pidfd) in &found {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
            ended.insert(*pid);
        }
        for (_, pidfd) in &found {
            let _ = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&WAIT_AFTER_KILL));
        }
    }
    ended.len()
}

/// Which worker's task a process is of, as far as the process tells.
#[derive(Debug, PartialEq, Eq)]
struct Maker {
    /// The key and the start of its worker, from its environment.
    token: Option<(String, u64)>,
    tag: Option<Tag>,
}

impl Maker {
    /// None of a process that is of no task.
    fn of(pid: i32) -> Option<Self> {
        let tag = Tag::asked_of(pid);
        let token = proc::variable(pid, TOKEN_VARIABLE).and_then(|token| String::from_utf8(token).ok());
        let mark = token.as_deref().and_then(split_numbered).and_then(|(mark, _)| Mark::parse(mark));
        let token = mark.map(|mark| (mark.key.to_owned(), mark.start));
        (token.is_some() || tag.is_some()).then_some(Self { token, tag })
    }

    fn has_key(&self, key: &str) -> bool {
        match &self.token {
            Some((own, _)) => own == key,
            None => self.tag.is_some_and(|tag| tag.has_key(key)),
        }
    }

    /// Whether a process that began at `start` can be the worker.
    fn began_at(&self, start: u64) -> bool {
        self.token.as_ref().is_some_and(|(_, own)| *own == start)
            || self.tag.is_some_and(|tag| tag.is_of_worker_since(start))
    }

    fn is_of_worker_of(&self, other: &Self) -> bool {
        let same = |tag: Tag| other.tag.is_some_and(|other| tag.has_worker_of(other));
        self.token.is_some() && self.token == other.token || self.tag.is_some_and(same)
    }
}

/// What is looked for.
struct Search<'a> {
    key: &'a str,
    /// The task that this very worker runs in, if it runs in one: whose worker may be out of sight.
    own: Option<Maker>,
}

impl Search<'_> {
    /// A pidfd of the process, if it is a leftover.
    fn open(&self, pid: i32) -> Option<OwnedFd> {
        if !self.is_leftover(pid) {
            return None;
        }
        let pidfd = proc::open(&Stat::of(pid)?)?;
        // Asked again of the process that is now held fast: the number might have been another's before.
        self.is_leftover(pid).then_some(pidfd)
    }

    fn is_leftover(&self, pid: i32) -> bool {
        Maker::of(pid).is_some_and(|maker| {
            maker.has_key(self.key)
                && !self.own.as_ref().is_some_and(|own| maker.is_of_worker_of(own))
                && !proc::has_ancestor(pid, |ancestor| maker.began_at(ancestor.start))
        })
    }
}
