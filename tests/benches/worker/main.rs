//! How fast and how small the worker is, each figure beside what this machine can do at all, measured in the same run.
//!
//! `cargo bench -p oz-worker-tests` builds the release worker and measures everything; `-- --quick` takes fewer samples,
//! subjects named behind `--` are measured alone, and `--runtime async-std` measures the other build. `--against PATH`
//! measures another worker beside this one: the two take turns, and the ratio of this one's figures to that one's is
//! printed, which other work on the machine moves least. It reports and never fails: a clock is no test. Other work
//! spoils the figures, so the load is printed above them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // measures what it started itself
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // figures for people

mod allocations;
mod alone;
mod bare;
mod burst;
mod claim;
mod cluster;
mod core;
mod docker;
mod endurance;
mod http;
mod idle;
mod kubernetes;
mod memory;
mod pods;
mod proc;
mod record;
mod report;
mod scene;
mod scrape;
mod start;
mod tasks;
mod wire;

use std::{fs, path::PathBuf};

use argh::FromArgs;
use oz_worker_tests::binary::{Build, worker_binary};
use report::Report;

/// Measure the worker.
#[derive(FromArgs)]
struct Flags {
    /// fewer samples and a shorter flood: for a first look
    #[argh(switch)]
    quick: bool,
    /// seconds for which a task floods its output (default: 60, quick: 5)
    #[argh(option)]
    flood_secs: Option<u64>,
    /// which build of the worker: smol (default) or async-std
    #[argh(option, default = "Build::chosen()", from_str_fn(Build::on))]
    runtime: &'static Build,
    /// another worker's program to measure beside this one, round by round: claim, alone, tasks, start
    #[argh(option)]
    against: Option<PathBuf>,
    /// cargo passes it
    #[argh(switch, hidden_help)]
    #[allow(dead_code)]
    bench: bool,
    /// what to measure: core, record, claim, alone, tasks, burst, start, scrape, idle, memory, flood, endurance, kubernetes,
    /// pods and docker, which start a cluster and an engine (default: everything)
    #[argh(positional)]
    subjects: Vec<String>,
}

#[derive(Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// `full`, or `quick` when a first look is enough.
    fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() {
    let flags: Flags = argh::from_env();
    let effort = Effort { quick: flags.quick };
    let flood_secs = flags.flood_secs.unwrap_or(effort.pick(60, 5));
    let wanted = |subject: &str| flags.subjects.is_empty() || flags.subjects.iter().any(|name| name == subject);
    let mut report = Report::default();

    println!("{} processors, load {}", proc::processors(), fs::read_to_string("/proc/loadavg").unwrap().trim());
    if wanted("core") {
        core::measure(&mut report, effort);
    }
    if wanted("record") {
        record::measure(&mut report, effort);
    }
    if !flags.subjects.is_empty() && flags.subjects.iter().all(|subject| subject == "core" || subject == "record") {
        return report.sum_up();
    }
    flags.runtime.choose();
    let worker = worker_binary().unwrap_or_else(|error| panic!("no worker to measure: {error}"));
    println!("\n{}", worker.display());
    // The figures are the first one's; a second is only there for the ratio.
    let workers: Vec<PathBuf> = [worker.clone()].into_iter().chain(flags.against).collect();
    proc::raise_file_limit();
    if wanted("claim") {
        claim::measure(&mut report, effort, &workers);
    }
    if wanted("alone") {
        alone::measure(&mut report, effort, &workers);
    }
    if wanted("tasks") {
        tasks::measure(&mut report, effort, &workers);
    }
    if wanted("burst") {
        burst::measure(&mut report, effort);
    }
    if wanted("start") {
        start::measure(&mut report, effort, &workers);
    }
    if wanted("scrape") {
        scrape::measure(&mut report, effort);
    }
    if wanted("idle") {
        idle::measure(&mut report, effort, &worker);
        idle::measure_pushing(&mut report, effort);
    }
    if wanted("memory") {
        memory::measure_tasks(&mut report, effort);
    }
    if wanted("flood") {
        memory::measure_flood(&mut report, flood_secs);
    }
    if wanted("endurance") {
        endurance::measure(&mut report, effort);
    }
    if wanted("kubernetes") {
        kubernetes::measure(&mut report, effort);
    }
    if wanted("pods") {
        pods::measure(&mut report, effort);
    }
    if wanted("docker") {
        docker::measure(&mut report, effort);
    }
    report.sum_up();
}
