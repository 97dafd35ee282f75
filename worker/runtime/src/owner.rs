//! Who owns a process or a directory: the worker that made it, known by a mark that outlives it.

/// A worker, as the owner of what it makes. Two workers have the same key when worker id and user are the same, so that a worker
/// that starts again knows what the crashed one left behind, whatever its host or container is called by then. Whether the
/// maker of something still lives is not for the mark to say: numbers of processes mean something else in every container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    key: String,
    host: String,
    boot: String,
    space: u64,
    pid: i32,
    start: u64,
    mark: String,
}

impl Owner {
    /// The worker `worker_id` of `user` on the host that is called `host`, as the process `pid`, which began at `start` (in the
    /// clock ticks of `proc_pid_stat(5)`).
    pub fn of_process(worker_id: &str, user: u32, host: &[u8], pid: i32, start: u64) -> Self {
        let key = format!("{:016x}", fnv1a(&[worker_id.as_bytes(), b"\0", &user.to_le_bytes()]));
        let host = format!("{:016x}", fnv1a(&[host]));
        Self { key, host, boot: String::new(), space: 0, pid, start, mark: String::new() }.under(b"", 0)
    }

    /// The same, under a certain boot of its machine and in the namespace of processes that has this number.
    #[must_use]
    pub fn under(self, boot: &[u8], space: u64) -> Self {
        let boot = format!("{:016x}", fnv1a(&[boot]));
        let Self { key, host, pid, start, .. } = &self;
        let mark = format!("{key}.{host}.{boot}.{space}.{pid}.{start}");
        Self { boot, space, mark, ..self }
    }

    /// What all workers with this id and user have in common: 16 hex digits.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// When it began, in clock ticks of its machine.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// This very process: `<key>.<host>.<boot>.<namespace>.<pid>.<start>`. Only hex digits and dots: fit for a file name.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Whether the maker of `mark` ran under this very boot of this very machine.
    pub fn is_of_this_boot(&self, mark: &Mark<'_>) -> bool {
        self.boot == mark.boot
    }

    /// Whether the host of the maker of `mark` was called as this one is.
    pub fn is_of_this_host(&self, mark: &Mark<'_>) -> bool {
        self.host == mark.host
    }

    /// Whether the numbers of processes mean the same to the maker of `mark`, while it lives, as they do here.
    pub fn sees_the_processes_of(&self, mark: &Mark<'_>) -> bool {
        self.is_of_this_boot(mark) && self.space == mark.space
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark<'a> {
    /// [`Owner::key`].
    pub key: &'a str,
    /// The name of its host: 16 hex digits.
    pub host: &'a str,
    /// Which boot of which machine: 16 hex digits.
    pub boot: &'a str,
    /// In which namespace of processes it ran.
    pub space: u64,
    /// The number of the process there, above 0. In another namespace it is another's.
    pub pid: i32,
    /// When it began, in clock ticks of its machine.
    pub start: u64,
}

impl<'a> Mark<'a> {
    /// The parts of [`Owner::mark`]; nothing of any other text.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('.');
        let (key, host, boot) = (parts.next()?, parts.next()?, parts.next()?);
        let (space, pid, start) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let are_numbers = [space, pid, start].into_iter().all(digits);
        if parts.next().is_some() || !are_numbers || ![key, host, boot].into_iter().all(is_key) {
            return None;
        }
        let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
        Some(Self { key, host, boot, space: space.parse().ok()?, pid, start: start.parse().ok()? })
    }
}

/// Splits `<mark>.<n>` into the mark and the number.
pub fn split_numbered(text: &str) -> Option<(&str, u64)> {
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
    fn only_complete_marks_are_understood() {
        let key = "0123456789abcdef";
        let (host, boot) = ("0123456789abcdee", "fedcba9876543210");
        let parsed = Mark { key, host, boot, space: 5, pid: 12, start: 34 };
        assert_eq!(Mark::parse(&format!("{key}.{host}.{boot}.5.12.34")), Some(parsed));
        let owner = Owner::of_process("w", 0, b"host", 7, 9).under(b"boot", 5);
        let mark = Mark::parse(owner.mark()).unwrap();
        assert_eq!((mark.key, mark.space, mark.pid, mark.start), (owner.key(), 5, 7, 9));
        assert!(owner.is_of_this_boot(&mark) && owner.is_of_this_host(&mark) && owner.sees_the_processes_of(&mark));
        let other = Owner::of_process("w", 0, b"another", 7, 9).under(b"boot", 6);
        assert!(other.is_of_this_boot(&mark) && !other.is_of_this_host(&mark) && !other.sees_the_processes_of(&mark));
        assert_eq!(other.key(), owner.key());
        assert!(!owner.clone().under(b"another", 5).is_of_this_boot(&mark));
        for bad in [
            "",
            key,
            "0123456789abcdef.fedcba9876543210.fedcba9876543210.5.12",
            "0123456789abcdef.fedcba9876543210.fedcba9876543210.5.12.34.5",
            "0123456789abcdef.fedcba9876543210.fedcba9876543210.5.+12.34",
            "0123456789abcdef.fedcba9876543210.fedcba9876543210.5.0.34",
            "0123456789ABCDEF.fedcba9876543210.fedcba9876543210.5.12.34",
            "0123456789abcdef.123.fedcba9876543210.5.12.34",
            "0123456789abcdef.fedcba9876543210.fedcba9876543210.5.12.",
            "0123456789abcdef.fedcba9876543210.fedcba9876543210.5.99999999999.1",
            "0123456789abcdef.kept",
        ] {
            assert_eq!(Mark::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_number_may_follow_a_mark() {
        let mark = "0123456789abcdef.fedcba9876543210.fedcba9876543210.5.12.34";
        assert_eq!(split_numbered(&format!("{mark}.5")), Some((mark, 5)));
        assert_eq!(split_numbered(mark), None);
        assert_eq!(split_numbered(&format!("{mark}.x")), None);
    }
}
