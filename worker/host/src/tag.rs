//! A number that every process of a task bears and that none can hide: the soft limit of resident memory.
//!
//! A process may clear its environment, and one that is not dumpable (`ssh-agent`) shows it to nobody. Its limits it inherits
//! whatever it does, and `/proc/<pid>/stat` shows this one to everybody. Linux has not enforced it since 2.4.30
//! (getrlimit(2)), and every value here is above what any machine has: nobody is limited by it. Who sets this limit anew is
//! known by the other nets only.

use rustix::process::Resource;

use crate::proc::Stat;

/// What the values begin with: 4 EiB, which no limit of anybody else's says.
const BASE: u64 = 1 << 62;

/// A tree of a worker: 16 bits of the worker's key, 30 of the moment when it began, 16 of the tree's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u64);

impl Tag {
    /// The tag of the tree `number` of the worker that has this key and began at `start`. None where the limit cannot be set
    /// so: somebody has lowered it for good.
    pub fn new(key: &str, start: u64, number: u64) -> Option<Self> {
        let key = u64::from_str_radix(key.get(..4)?, 16).ok()?;
        rustix::process::getrlimit(Resource::Rss)
            .maximum
            .is_none()
            .then_some(Self(BASE | key << 46 | (start & 0x3fff_ffff) << 16 | number & 0xffff))
    }

    /// As a process has it; none of one that bears no tag.
    pub fn of(stat: &Stat) -> Option<Self> {
        Self::in_limit(stat.rss_limit)
    }

    fn in_limit(limit: u64) -> Option<Self> {
        (limit & (0b11 << 62) == BASE).then_some(Self(limit))
    }

    /// As the process with this number has it. Asked for directly, which takes a tenth of reading what `/proc` says; not
    /// everybody tells us that.
    pub fn asked_of(pid: i32) -> Option<Self> {
        // SAFETY: a `rlimit` is two numbers; no limit is set, and the kernel writes one to where there is room for it.
        let (asked, limit) = unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            (libc::prlimit(pid, libc::RLIMIT_RSS, std::ptr::null(), &raw mut limit), limit.rlim_cur)
        };
        if asked == 0 { Self::in_limit(limit) } else { Stat::of(pid).as_ref().and_then(Self::of) }
    }

    /// Whether both are trees of one worker.
    pub fn has_worker_of(self, other: Self) -> bool {
        self.0 >> 16 == other.0 >> 16
    }

    /// Whether a worker with this key made the tree.
    pub fn has_key(self, key: &str) -> bool {
        key.get(..4).and_then(|key| u64::from_str_radix(key, 16).ok()).is_some_and(|key| key == self.0 >> 46 & 0xffff)
    }

    /// Whether a process that began at `start` can be the worker that made the tree.
    pub fn is_of_worker_since(self, start: u64) -> bool {
        start & 0x3fff_ffff == self.0 >> 16 & 0x3fff_ffff
    }

    /// As the limit that a child gets.
    pub fn limit(self) -> libc::rlimit {
        libc::rlimit { rlim_cur: self.0, rlim_max: libc::RLIM_INFINITY }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tag_says_whose_tree_it_is_and_is_no_limit_of_anybody_elses() {
        let tag = Tag::new("abcd0123456789ef", 987_654_321, 70_000).unwrap();
        let stat =
            Stat { pid: 1, state: b'S', parent: 1, group: 1, session: 1, start: 1, rss_limit: tag.limit().rlim_cur };
        assert_eq!(Tag::of(&stat), Some(tag));
        assert!(tag.has_key("abcd0123456789ef") && !tag.has_key("abce0123456789ef"));
        assert!(tag.is_of_worker_since(987_654_321) && !tag.is_of_worker_since(987_654_322));
        assert!(tag.has_worker_of(Tag::new("abcd0123456789ef", 987_654_321, 1).unwrap()));
        assert!(!tag.has_worker_of(Tag::new("abcd0123456789ef", 987_654_320, 70_000).unwrap()));
        assert_eq!(Tag::asked_of(std::process::id().cast_signed()), None, "no limit of ours is one");
        for rss_limit in [u64::MAX, 0, 1 << 40, u64::MAX >> 1 << 1, (1 << 62) - 1, 1 << 63] {
            assert_eq!(Tag::of(&Stat { rss_limit, ..stat }), None, "{rss_limit}");
        }
    }
}
