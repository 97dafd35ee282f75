//! Who owns a process or a directory: the worker that made it, known by a mark that outlives a crash.

/// A worker on its host. Two workers are the same owner when worker id, user and host name are the same, so that a worker
/// that starts again knows what the crashed one left behind. The host name is part of it because the workspace root may
/// be shared with other hosts, whose processes cannot be seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    key: String,
    mark: String,
}

impl Owner {
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark<'a> {
    /// [`Owner::key`].
    pub key: &'a str,
    /// The number of the process, above 0.
    pub pid: i32,
    /// When it began, in clock ticks: together with the number it names a process for good.
    pub start: u64,
}

impl<'a> Mark<'a> {
    /// The parts of [`Owner::mark`]; nothing of any other text.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('.');
        let (key, pid, start) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if parts.next().is_some() || !digits(pid) || !digits(start) || !is_key(key) {
            return None;
        }
        Some(Self { key, pid: pid.parse().ok().filter(|pid| *pid > 0)?, start: start.parse().ok()? })
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
    use super::*;

    #[test]
    fn hashes_as_the_authors_of_fnv_do() {
        assert_eq!(fnv1a(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn only_complete_marks_are_understood() {
        let key = "0123456789abcdef";
        assert_eq!(Mark::parse(&format!("{key}.12.34")), Some(Mark { key, pid: 12, start: 34 }));
        let owner = Owner::of_process("w", 0, b"host", 7, 9);
        assert_eq!(Mark::parse(owner.mark()), Some(Mark { key: owner.key(), pid: 7, start: 9 }));
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
