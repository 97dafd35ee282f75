//! Many tasks one after another: neither the number of series nor the memory grows with them.

use oz_worker_tests::{metrics::Scrape, worker::http_get};

use crate::{
    Effort, proc,
    report::{self, Report, Row, mebibytes, per_second},
    scene::{Agents, Launch, Scene},
    tasks::{AT_ONCE, run},
};

/// How many tasks are made known to the worker at once; its rate is taken of each such part.
const PART: usize = 5000;

pub fn measure(report: &mut Report, effort: Effort) {
    let parts = effort.pick(20, 4);
    report::subject(&format!("{} tasks, one after another", parts * PART));
    let agents = Agents::new();
    let agent = agents.least().unwrap_or_else(|_| agents.exits_at_once());
    let mut scene = Launch::new(&agent, AT_ONCE as u32).start();
    scene.peer.sync();
    let first = series(&scene);

    // The first quarter makes room that is kept: pieces of the heap that no task has fitted into yet become fewer and fewer.
    let mut rates = Vec::new();
    let mut before = proc::memory(scene.pid());
    for part in 0..parts {
        rates.push(run(&mut scene, part * PART, PART));
        if part + 1 == parts.div_ceil(4) {
            before = proc::memory(scene.pid());
        }
        series(&scene);
    }
    let last = series(&scene);
    let after = proc::memory(scene.pid());
    scene.stop(|| ());

    assert_eq!(last.value("oz_worker_tasks_claimed_total", &[]) as usize, parts * PART, "not every task was counted");
    let (first, last) = (first.series(), last.series());
    let changed = first.symmetric_difference(&last).count();
    Row::new("series that came or went since the first scrape", changed.to_string())
        .at_most(changed as f64, 0.0, "")
        .print(report);
    report::note(&format!("{} series", last.len()));
    let grown = after.rss - before.rss;
    Row::new("resident memory more than after a quarter of them", mebibytes(grown))
        .at_most(grown / 1024.0, 128.0, " KiB")
        .print(report);
    let anonymous = after.anonymous - before.anonymous;
    report::note(&format!("not backed by a file: {} more; in all {}", mebibytes(anonymous), mebibytes(after.rss)));
    let rate = |rate: Option<&f64>| per_second(rate.copied().unwrap_or_default());
    report::note(&format!("tasks: {} in the first {PART}, {} in the last", rate(rates.first()), rate(rates.last())));
}

fn series(scene: &Scene) -> Scrape {
    Scrape::parse(&http_get(&scene.metrics, "/metrics").1)
}
