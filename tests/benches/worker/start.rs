//! From the start of the process to its upgrade request, and from SIGTERM to its end when it has nothing to do.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    Effort,
    report::{self, Report, Row, Samples, millis, times},
    scene::{Agents, Launch},
};

/// The samples of one worker.
#[derive(Default)]
struct Figures {
    starts: Vec<Duration>,
    stops: Vec<Duration>,
}

pub fn measure(report: &mut Report, effort: Effort, workers: &[PathBuf]) {
    report::subject("start and stop");
    let agents = Agents::new();
    let agent = agents.exits_at_once();
    let mut measured: Vec<Figures> = workers.iter().map(|_| Figures::default()).collect();
    let mut bare = Vec::new();
    for _ in 0..effort.pick(40, 20) {
        for (worker, figures) in workers.iter().zip(&mut measured) {
            let mut scene = Launch::new(&agent, 0).of(worker).start();
            figures.starts.push(scene.to_request);
            // One that is stopped before it has read the answer to its request hangs up.
            scene.peer.sync();
            figures.stops.push(scene.stop(|| ()));
        }
        bare.push(run_true());
    }
    let medians = |(starts, stops)| (Samples::new(starts).median(), Samples::new(stops).median());
    let measured: Vec<_> = measured.into_iter().map(|figures| medians((figures.starts, figures.stops))).collect();
    let ((start, stop), bare) = (measured[0], Samples::new(bare).median());
    Row::new("to the upgrade request, p50", millis(start))
        .beside("/bin/true started and awaited", &millis(bare), times(start, bare))
        .at_most(start.as_secs_f64() * 1e3, 15.0, " ms")
        .print(report);
    Row::new("SIGTERM to the end when idle, p50", millis(stop))
        .at_most(stop.as_secs_f64() * 1e3, 5.0, " ms")
        .print(report);
    report::against("to the upgrade request", &measured, |medians| medians.0.as_secs_f64(), report::in_micros);
    report::against("SIGTERM to the end", &measured, |medians| medians.1.as_secs_f64(), report::in_micros);
}

fn run_true() -> Duration {
    let start = Instant::now();
    Command::new("/bin/true").status().unwrap();
    start.elapsed()
}
