//! Processes as the operating system shows them: alive or gone, whose child, with which arguments and environment.

use std::{
    fs,
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// A process held by a descriptor: its number cannot come to mean another one meanwhile.
pub struct Watch {
    /// The process id.
    pub pid: i32,
    descriptor: Option<OwnedFd>,
}

impl Watch {
    /// Watches a process, which may be gone already.
    pub fn new(pid: i32) -> Self {
        let descriptor = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { pid, descriptor }
    }

    /// Waits until the process has ended. False when it still runs after `bound`.
    pub fn ends_within(&self, bound: Duration) -> bool {
        let Some(descriptor) = &self.descriptor else { return true };
        let deadline = Instant::now() + bound;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("a bound of seconds");
            match poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(_) => {}
            }
        }
    }

    /// Whether it runs now.
    pub fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }
}

/// Every descendant of a process, nearest first.
pub fn descendants(pid: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = all().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&of) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// The directory of the cgroup (version 2) that a process is in.
pub fn cgroup_of(pid: i32) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (at, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then_some(at)
    })?;
    let own = String::from_utf8_lossy(&read(pid, "cgroup")).into_owned();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

/// Removes the cgroups that a worker which was killed had made below its own, once nothing is left in them.
pub fn remove_cgroups_of(pid: i32) {
    let Some(own) = cgroup_of(std::process::id().cast_signed()) else { return };
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // `oz-agent-worker.<key>.<host>.<boot>.<namespace>.<pid>.<start>.<number>`
        if name.to_str().and_then(|name| name.strip_prefix("oz-agent-worker.")?.split('.').nth(4)?.parse().ok())
            == Some(pid)
        {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Every process whose environment at its start held this text.
pub fn with_environment(text: &str) -> Vec<i32> {
    all().into_iter().filter(|pid| contains(&read(*pid, "environ"), text)).collect()
}

/// A process's arguments, NUL-separated; empty when it is gone.
pub fn arguments(pid: i32) -> Vec<u8> {
    read(pid, "cmdline")
}

/// A process's environment at its start, NUL-separated; empty when it is gone.
pub fn environment(pid: i32) -> Vec<u8> {
    read(pid, "environ")
}

/// Whether bytes hold a text.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Runs a command that reads this.
pub fn with_input(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    // It may have ended without reading: what it says then tells more.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("an own child")
}

/// Sends a signal to a process that the test knows to be its own.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // One that is gone already is as good as signalled.
        let _ = kill_process(pid, signal);
    }
}

/// Every process there is.
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Who started this process: its id, and when it was started (in ticks since boot). No two processes have both.
pub(crate) fn parent_of_this() -> (i32, u64) {
    let pid = rustix::process::getppid().map_or(0, Pid::as_raw_pid);
    (pid, stat(pid, 19).unwrap_or_default())
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid, 1)
}

/// A field of `/proc/PID/stat`, counted from the process's state. (Before it is the program's name in parentheses, which
/// may hold anything.)
fn stat<T: FromStr>(pid: i32, field: usize) -> Option<T> {
    let stat = String::from_utf8_lossy(&read(pid, "stat")).into_owned();
    stat.rsplit_once(')')?.1.split_whitespace().nth(field)?.parse().ok()
}

fn read(pid: i32, file: &str) -> Vec<u8> {
    fs::read(PathBuf::from(format!("/proc/{pid}/{file}"))).unwrap_or_default()
}
