//! This process as the owner of what it makes, and what can be known of another.

use std::fs;
use std::os::unix::fs::MetadataExt;

use oz_worker_runtime::{Mark, Owner};

use crate::proc::Stat;

/// The running process as the worker `worker_id`.
pub fn owner(worker_id: &str) -> Owner {
    let user = rustix::process::geteuid().as_raw();
    let host = rustix::system::uname();
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let start = Stat::of(pid).map_or(0, |stat| stat.start);
    // Where they cannot be read every boot and every namespace looks like this one, and the locks decide alone.
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    Owner::of_process(worker_id, user, host.nodename().to_bytes(), pid, start).under(&boot, space)
}

/// Whether `mark` was made by a worker with the key of `owner` that is known to be dead, as far as that can be known without a
/// lock of its own: among the processes that are seen from here, or under an earlier boot of a host that is called as this one is.
pub(crate) fn is_stale(owner: &Owner, mark: &str) -> bool {
    let Some(mark) = Mark::parse(mark).filter(|mark| mark.key == owner.key()) else { return false };
    if owner.is_of_this_boot(&mark) {
        // Where `/proc` cannot be read nothing is stale, because nothing is known.
        let is_readable = fs::exists("/proc/self/stat").unwrap_or(false);
        owner.sees_the_processes_of(&mark) && is_readable && !is_alive(&mark)
    } else {
        owner.is_of_this_host(&mark)
    }
}

fn is_alive(mark: &Mark<'_>) -> bool {
    Stat::of(mark.pid).is_some_and(|stat| stat.start == mark.start && !stat.has_ended())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOST: usize = 1;
    const BOOT: usize = 2;
    const SPACE: usize = 3;
    const PID: usize = 4;
    const START: usize = 5;

    /// A mark with one of its pieces replaced.
    fn changed(mark: &str, piece: usize, text: &str) -> String {
        let pieces = mark.split('.').enumerate().map(|(at, old)| if at == piece { text } else { old });
        pieces.collect::<Vec<_>>().join(".")
    }

    #[test]
    fn only_what_is_known_to_be_dead_is_stale() {
        let (owner, another) = (owner("worker"), "0123456789abcdef");
        let living = owner.mark();
        let dead = changed(living, PID, "2147483647");
        assert!(!is_stale(&owner, living), "it runs");
        assert!(is_stale(&owner, &changed(living, START, "1")), "another process has its number now");
        assert!(is_stale(&owner, &dead), "no process has its number");
        assert!(is_stale(&owner, &changed(living, BOOT, another)), "it ran before the last boot");
        assert!(!is_stale(&owner, &changed(&dead, 0, another)), "another worker's");
        assert!(!is_stale(&owner, &changed(&dead, SPACE, "5")), "its number means nothing here");
        let elsewhere = changed(&changed(living, BOOT, another), HOST, another);
        assert!(!is_stale(&owner, &elsewhere), "another host's, whose boots are not ours");
    }

    #[test]
    fn a_zombie_is_stale() {
        let owner = owner("worker");
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = Stat::of(pid).unwrap().start;
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(pid).unwrap());
        rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT)
            .unwrap();
        let mark = changed(&changed(owner.mark(), PID, &pid.to_string()), START, &start.to_string());
        assert!(is_stale(&owner, &mark));
        child.wait().unwrap();
    }
}
