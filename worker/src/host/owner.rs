//! Who owns a process or a directory: the worker that made it, known by a mark that outlives a crash.

use super::proc::{self, Stat};

/// A worker on this host. Two workers are the same owner when worker id, user and host name are the same, so that a worker
/// that starts again knows what the crashed one left behind. The host name is part of it because the workspace root may
/// be shared with other hosts, whose processes cannot be seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    key: String,
    mark: String,
}

impl Owner {
    /// The running process as the worker `worker_id`.
    pub fn new(worker_id: &str) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let host = rustix::system::uname();
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let start = Stat::of(pid).map_or(0, |stat| stat.start);
        Self::of_process(worker_id, user, host.nodename().to_bytes(), pid, start)
    }

    /// The worker `worker_id` of `user` on `host` as the process `pid`, which began at `start` (in the clock ticks of
    /// `proc_pid_stat(5)`).
    pub fn of_process(worker_id: &str, user: u32, host: &[u8], pid: i32, start: u64) -> Self {
        let hash = fnv1a(&[worker_id.as_bytes(), b"\0", &user.to_le_bytes(), host]);
        let key = format!("{hash:016x}");
        let mark = format!("{key}.{pid}.{start}");
        Self { key, mark }
    }

    /// What all workers with this id and user have in common: 16 hex digits.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// This very process: `<key>.<pid>.<start time>`. Only hex digits and dots: fit for a file name.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Whether `mark` was made by a worker with the same key that is no longer alive.
    ///
    /// The start time tells a living worker from another process that has got the same pid since. Where `/proc` cannot be
    /// read nothing is stale, because nothing is known.
    pub fn is_stale(&self, mark: &str) -> bool {
        let Some(mark) = Mark::parse(mark) else { return false };
        mark.key == self.key && proc::is_readable() && !mark.is_alive()
    }
}

/// The parts of a mark.
#[derive(Debug, PartialEq, Eq)]
struct Mark<'a> {
    key: &'a str,
    pid: i32,
    start: u64,
}

impl<'a> Mark<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('.');
        let (key, pid, start) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if parts.next().is_some() || !digits(pid) || !digits(start) || !is_key(key) {
            return None;
        }
        Some(Self { key, pid: pid.parse().ok().filter(|pid| *pid > 0)?, start: start.parse().ok()? })
    }

    fn is_alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.start == self.start && !stat.has_ended())
    }
}

/// Splits `<mark>.<n>` into the mark and the number.
pub(super) fn split_numbered(text: &str) -> Option<(&str, u64)> {
    let (mark, number) = text.rsplit_once('.')?;
    Mark::parse(mark)?;
    Some((mark, number.parse().ok()?))
}

/// Whether `text` has the form of [`Owner::key`].
fn is_key(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same in every build, which std's hasher does not
/// promise.
fn fnv1a(parts: &[&[u8]]) -> u64 {
    parts
        .iter()
        .copied()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hashes_as_the_authors_of_fnv_do() {
        assert_eq!(fnv1a(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_running_worker_is_not_stale() {
        let owner = Owner::new("worker");
        assert!(!owner.is_stale(owner.mark()));
        assert_eq!(Mark::parse(owner.mark()).unwrap().key, owner.key());
    }

    #[test]
    fn another_start_time_or_no_such_process_is_stale() {
        let owner = Owner::new("worker");
        let pid = std::process::id();
        assert!(owner.is_stale(&format!("{}.{pid}.1", owner.key())));
        assert!(owner.is_stale(&format!("{}.2147483647.1", owner.key())));
    }

    #[test]
    fn another_worker_is_never_stale() {
        let (owner, other) = (Owner::new("worker"), Owner::new("worker2"));
        assert_ne!(owner.key(), other.key());
        assert!(!owner.is_stale(&format!("{}.2147483647.1", other.key())));
    }

    #[test]
    fn a_zombie_is_stale() {
        let owner = Owner::new("worker");
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mark = format!("{}.{pid}.{}", owner.key(), Stat::of(pid).unwrap().start);
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(pid).unwrap());
        rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT)
            .unwrap();
        assert!(owner.is_stale(&mark));
        child.wait().unwrap();
    }

    #[test]
    fn only_complete_marks_are_understood() {
        let key = "0123456789abcdef";
        assert_eq!(Mark::parse(&format!("{key}.12.34")), Some(Mark { key, pid: 12, start: 34 }));
        for bad in [
            "",
            key,
            "0123456789abcdef.12",
            "0123456789abcdef.12.34.5",
            "0123456789abcdef.+12.34",
            "0123456789abcdef.0.34",
            "0123456789ABCDEF.12.34",
            "123.12.34",
            "0123456789abcdef.12.",
            "0123456789abcdef.99999999999.1",
            "0123456789abcdef.kept",
        ] {
            assert_eq!(Mark::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_number_may_follow_a_mark() {
        assert_eq!(split_numbered("0123456789abcdef.12.34.5"), Some(("0123456789abcdef.12.34", 5)));
        assert_eq!(split_numbered("0123456789abcdef.12.34"), None);
        assert_eq!(split_numbered("0123456789abcdef.12.34.x"), None);
    }
}
