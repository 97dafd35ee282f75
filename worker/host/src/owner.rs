//! This process as the owner of what it makes.

use std::fs;

use oz_worker_runtime::{Mark, Owner};

use crate::proc::Stat;

/// The running process as the worker `worker_id`.
pub fn owner(worker_id: &str) -> Owner {
    let user = rustix::process::geteuid().as_raw();
    // Where it cannot be read every boot looks like this one, and the locks decide alone.
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let start = Stat::of(pid).map_or(0, |stat| stat.start);
    Owner::of_process(worker_id, user, &boot, pid, start)
}

/// Whether `mark` was made by a worker with the key of `owner` that is no longer alive.
pub(crate) fn is_stale(owner: &Owner, mark: &str) -> bool {
    let Some(mark) = Mark::parse(mark) else { return false };
    let is_alive = || Stat::of(mark.pid).is_some_and(|stat| stat.start == mark.start && !stat.has_ended());
    mark.key == owner.key() && owner.is_of_this_boot(&mark) && Stat::of(1).is_some() && !is_alive()
}
