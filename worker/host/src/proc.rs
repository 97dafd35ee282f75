//! What `/proc` says about processes (proc(5)).

use std::fs;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

/// Room for what most files of `/proc` say, in bytes.
const ROOM: usize = 4096;

/// The environment variable of every process in a tree: the mark of its worker and the number of the tree.
pub const TOKEN_VARIABLE: &str = "OZ_WORKER_TASK_TOKEN";

/// The part of `/proc/<pid>/stat` that identifies a process and its relations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub pid: i32,
    /// One letter: `R`, `S`, `Z`, …
    pub state: u8,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Clock ticks since the machine started. Together with the pid it names a process for good.
    pub start: u64,
    /// The soft limit of resident memory, in bytes.
    pub rss_limit: u64,
}

impl Stat {
    /// Of a process, unless there is none with this pid.
    pub fn of(pid: i32) -> Option<Self> {
        Self::parse(&read(&format!("/proc/{pid}/stat"))?)
    }

    /// From the file's content. The program's name stands in parentheses and may hold anything, spaces and parentheses
    /// included: what counts begins after the last one.
    fn parse(content: &[u8]) -> Option<Self> {
        let open = content.iter().position(|byte| *byte == b'(')?;
        let close = content.iter().rposition(|byte| *byte == b')')?;
        let pid = str::from_utf8(content.get(..open)?).ok()?.trim().parse().ok()?;
        // The first field here is number 3 of proc(5), the state.
        let mut fields = str::from_utf8(content.get(close + 1..)?).ok()?.split_ascii_whitespace();
        Some(Self {
            pid,
            state: *fields.next()?.as_bytes().first()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            session: fields.next()?.parse().ok()?,
            start: fields.nth(22 - 7)?.parse().ok()?,
            rss_limit: fields.nth(25 - 23)?.parse().ok()?,
        })
    }

    /// Whether it is a zombie, or about to vanish.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// What a file of `/proc` says. Not read by std, which begins with 32 bytes where a file does not tell its length, and asks for
/// that first: of all processes that is what takes the time.
pub(super) fn read(path: &str) -> Option<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut content = Vec::with_capacity(ROOM);
    loop {
        content.reserve(ROOM / 2);
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut content))) {
            Ok(0) => return Some(content),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// Every process there is.
pub(super) fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The deepest line of ancestors that is followed.
const MOST_ANCESTORS: usize = 4096;

/// Whether `is_it` says so of a living ancestor of a process. Who died on the way makes it look again; what cannot be known is
/// so.
pub(super) fn has_ancestor(pid: i32, is_it: impl Fn(&Stat) -> bool) -> bool {
    'again: for _ in 0..10 {
        let Some(mut stat) = Stat::of(pid) else { return true };
        for _ in 0..MOST_ANCESTORS {
            // The first process of a namespace has 0: its parent cannot be seen from inside.
            if stat.parent == 0 {
                return false;
            }
            match Stat::of(stat.parent) {
                Some(parent) if parent.has_ended() || parent.start > stat.start => continue 'again,
                Some(parent) if is_it(&parent) => return true,
                Some(parent) => stat = parent,
                // Of another user's, which is hidden from us: no worker with our key.
                None if stat.parent == 1 => return false,
                None => continue 'again,
            }
        }
    }
    true
}

/// The value of an environment variable that a process was started with, when it has one and we may look.
pub(super) fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    let environment = read(&format!("/proc/{pid}/environ"))?;
    value_of(&environment, name).map(<[u8]>::to_vec)
}

fn value_of<'a>(environment: &'a [u8], name: &str) -> Option<&'a [u8]> {
    environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Sends SIGKILL to exactly this process: through a pidfd that was found, after it was opened, to be its.
pub(super) fn kill_process(process: &Stat) {
    if let Some(pidfd) = open(process) {
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}

/// A pidfd of exactly this process, unless it is gone.
pub(super) fn open(process: &Stat) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    // The number may have been given to another process before it was opened; the start time tells.
    Stat::of(process.pid).filter(|now| now.start == process.start && !now.has_ended()).map(|_| pidfd)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_a_stat_line_whatever_the_program_is_called() {
        for name in ["cat", "a b", "x) R 1 1 1", "((", "))) ((", ") ", "\u{fffd}\n)"] {
            let line =
                format!("42 ({name}) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654321 1000 10 18446 1\n");
            let stat = Stat::parse(line.as_bytes());
            let expected =
                Stat { pid: 42, state: b'S', parent: 7, group: 42, session: 40, start: 987_654_321, rss_limit: 18446 };
            assert_eq!(stat, Some(expected), "{name:?}");
        }
    }

    #[test]
    fn a_torn_stat_line_is_no_stat() {
        let line = b"42 (cat) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9 1000 10 7";
        assert!(Stat::parse(line).is_some());
        for length in 0..line.len() - 1 {
            assert_eq!(Stat::parse(line.get(..length).unwrap()), None, "{length}");
        }
        assert_eq!(Stat::parse(b"42 )cat( S 7 42"), None);
    }

    #[test]
    fn finds_itself() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = Stat::of(pid).unwrap();
        assert_eq!(stat.pid, pid);
        assert!(!stat.has_ended());
        assert!(all().any(|other| other == pid));
    }

    #[test]
    fn a_variable_is_found_only_as_a_whole() {
        let environment = b"XTOKEN=1\0TOKENS=2\0A=TOKEN=3\0TOKEN=4=5\0";
        assert_eq!(value_of(environment, "TOKEN"), Some(&b"4=5"[..]));
        assert_eq!(value_of(b"TOKEN\0", "TOKEN"), None);
    }
}
