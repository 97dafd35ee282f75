//! What the operating system says about processes.

use std::{fs, path::Path, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use crate::report::median;

/// Steps that are timed at once.
const BATCH: u32 = 10_000;

/// Memory of a process, in bytes.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Resident in all.
    pub rss: f64,
    /// The most that ever was.
    pub peak: f64,
    /// Resident and not backed by a file.
    pub anonymous: f64,
    /// Resident, shared pages counted in part.
    pub proportional: f64,
}

pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// As many open files as allowed, here and in every process started from here.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

pub fn memory(pid: u32) -> Memory {
    let proportional = field(&read(pid, "smaps_rollup"), "Pss:") * 1024.0;
    let status = read(pid, "status");
    let kibibytes = |name| field(&status, name) * 1024.0;
    Memory { rss: kibibytes("VmRSS:"), peak: kibibytes("VmHWM:"), anonymous: kibibytes("RssAnon:"), proportional }
}

/// How much of a process's own program is code, and how much of that is resident, in bytes.
pub fn code(pid: u32) -> (f64, f64) {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let smaps = read(pid, "smaps");
    let start = smaps.lines().position(|line| line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy()));
    let of_code: Vec<&str> = smaps.lines().skip(start.map_or(usize::MAX, |line| line + 1)).take(4).collect();
    let of_code = of_code.join("\n");
    (field(&of_code, "Size:") * 1024.0, field(&of_code, "Rss:") * 1024.0)
}

/// Resident memory alone, which is cheap to read.
pub fn resident(pid: u32) -> f64 {
    field(&read(pid, "status"), "VmRSS:") * 1024.0
}

pub fn threads(pid: u32) -> usize {
    field(&read(pid, "status"), "Threads:") as usize
}

/// Processor time of all the threads that a process has now.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().map(|task| cpu_in(&task.path().join("schedstat"))).sum()
}

/// Processor time of the calling thread.
pub fn cpu_of_this_thread() -> Duration {
    cpu_in(Path::new("/proc/thread-self/schedstat"))
}

/// Nanoseconds of one step, the median of some rounds; `run` does as many steps as it is told.
pub fn nanos(rounds: u32, mut run: impl FnMut(u32)) -> f64 {
    run(BATCH);
    // Time on the processor, not on the wall: whoever else computes meanwhile is not measured.
    let clock = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let round = |_| {
        let start = clock();
        run(BATCH);
        clock().saturating_sub(start).as_nanos() as f64 / f64::from(BATCH)
    };
    median(&(0..rounds).map(round).collect::<Vec<_>>())
}

/// The first number is nanoseconds on a processor; a thread that has ended has none.
fn cpu_in(schedstat: &Path) -> Duration {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// A process's children.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.collect::<String>().split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Bytes that a process has written so far.
pub fn written(pid: u32) -> f64 {
    field(&read(pid, "io"), "wchar:")
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}
