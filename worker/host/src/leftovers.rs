//! Ends what the tasks of a crashed worker left running.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

use oz_worker_runtime::{Owner, split_numbered};

use super::cgroup;
use super::owner;
use super::proc::{self, Stat, TOKEN_VARIABLE};

/// How often to look again for what was started while we looked.
const ROUNDS: usize = 10;

/// How long to wait for a killed process to be gone.
const WAIT_AFTER_KILL: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Ends the processes in the cgroups, and those with the token, of workers with the key of `owner` that are no longer
/// alive. Nothing else is touched. Gives the number of processes.
pub(super) fn end(owner: &Owner) -> usize {
    let mut ended: BTreeSet<i32> = cgroup::end_leftovers(owner).into_iter().collect();
    for _ in 0..ROUNDS {
        let found: Vec<(i32, OwnedFd)> =
            proc::all().filter_map(|pid| Some((pid, open_leftover(owner, pid)?))).collect();
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

/// A pidfd of the process, if it bears the token of a crashed worker and is not we ourselves.
fn open_leftover(owner: &Owner, pid: i32) -> Option<OwnedFd> {
    // Who starts a worker from inside a task does not want it to end itself.
    if pid == rustix::process::getpid().as_raw_nonzero().get() || !is_leftover(owner, pid) {
        return None;
    }
    let pidfd = proc::open(&Stat::of(pid)?)?;
    // Asked again of the process that is now held fast: the number might have been another's before.
    is_leftover(owner, pid).then_some(pidfd)
}

fn is_leftover(owner: &Owner, pid: i32) -> bool {
    let token = proc::variable(pid, TOKEN_VARIABLE).and_then(|token| String::from_utf8(token).ok());
    token.as_deref().and_then(split_numbered).is_some_and(|(mark, _)| owner::is_stale(owner, mark))
}
