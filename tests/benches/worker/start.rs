//! From the start of the process to its upgrade request.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    Effort,
    report::{self, Report, Row, Samples, millis, times},
    scene::{Agents, Launch},
};

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("start");
    let agents = Agents::new();
    let agent = agents.exits_at_once();
    let (mut starts, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..effort.pick(40, 20) {
        let mut scene = Launch::new(&agent, 0).start();
        starts.push(scene.to_request);
        // One that is stopped before it has read the answer to its request hangs up.
        scene.peer.sync();
        scene.stop(|| ());
        bare.push(run_true());
    }
    let (start, bare) = (Samples::new(starts).median(), Samples::new(bare).median());
    Row::new("to the upgrade request, p50", millis(start))
        .beside("/bin/true started and awaited", &millis(bare), times(start, bare))
        .at_most(start.as_secs_f64() * 1e3, 15.0, " ms")
        .print(report);
}

fn run_true() -> Duration {
    let start = Instant::now();
    Command::new("/bin/true").status().unwrap();
    start.elapsed()
}
