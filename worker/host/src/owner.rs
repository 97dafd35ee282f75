//! This process as the owner of what it makes.

use std::fs;

use oz_worker_runtime::Owner;

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
