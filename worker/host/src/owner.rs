//! This process as the owner of what it makes, and whether another owner is still alive.

use oz_worker_runtime::{Mark, Owner};

use crate::proc::{self, Stat};

/// The running process as the worker `worker_id`.
pub fn owner(worker_id: &str) -> Owner {
    let user = rustix::process::geteuid().as_raw();
    let host = rustix::system::uname();
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let start = Stat::of(pid).map_or(0, |stat| stat.start);
    Owner::of_process(worker_id, user, host.nodename().to_bytes(), pid, start)
}

/// Whether `mark` was made by a worker with the key of `owner` that is no longer alive.
///
/// The start time tells a living worker from another process that has got the same pid since. Where `/proc` cannot be
/// read nothing is stale, because nothing is known.
pub(crate) fn is_stale(owner: &Owner, mark: &str) -> bool {
    let Some(mark) = Mark::parse(mark) else { return false };
    mark.key == owner.key() && proc::is_readable() && !is_alive(&mark)
}

fn is_alive(mark: &Mark<'_>) -> bool {
    Stat::of(mark.pid).is_some_and(|stat| stat.start == mark.start && !stat.has_ended())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_running_worker_is_not_stale() {
        let owner = owner("worker");
        assert!(!is_stale(&owner, owner.mark()));
        assert_eq!(Mark::parse(owner.mark()).unwrap().key, owner.key());
    }

    #[test]
    fn another_start_time_or_no_such_process_is_stale() {
        let owner = owner("worker");
        let pid = std::process::id();
        assert!(is_stale(&owner, &format!("{}.{pid}.1", owner.key())));
        assert!(is_stale(&owner, &format!("{}.2147483647.1", owner.key())));
    }

    #[test]
    fn another_worker_is_never_stale() {
        let (first, other) = (owner("worker"), owner("worker2"));
        assert_ne!(first.key(), other.key());
        assert!(!is_stale(&first, &format!("{}.2147483647.1", other.key())));
    }

    #[test]
    fn a_zombie_is_stale() {
        let owner = owner("worker");
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mark = format!("{}.{pid}.{}", owner.key(), Stat::of(pid).unwrap().start);
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(pid).unwrap());
        rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT)
            .unwrap();
        assert!(is_stale(&owner, &mark));
        child.wait().unwrap();
    }
}
