//! One trivial task alone: from its assignment's last byte written to its end read, beside the bare system calls of one.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    Effort,
    bare::{self, Bare},
    report::{self, Report, Row, Samples, micros, times},
    scene::{Agents, Launch, Scene},
    wire::{assignment_frames, is_claim, is_success},
};

/// Each worker's tasks and the bare loop take turns, so that all see the same machine.
const PER_TURN: usize = 25;

pub fn measure(report: &mut Report, effort: Effort, workers: &[PathBuf]) {
    report::subject("one trivial task alone");
    let agents = Agents::new();
    let agent = agents.exits_at_once();
    let launch = |worker| Launch::new(&agent, 0).of(worker).start();
    let mut scenes: Vec<Scene> = workers.iter().map(|worker| launch(worker)).collect();
    let mut samples = vec![Vec::new(); scenes.len()];
    let (bare, mut bare_samples) = (Bare::new(&agent), Vec::new());
    for turn in 0..=effort.pick(40, 8) {
        let one_bare = |_| bare.run(1, 1).unwrap().wall;
        let new_bare: Vec<Duration> = (0..PER_TURN).map(one_bare).collect();
        let new: Vec<Vec<Duration>> = scenes.iter_mut().map(|scene| tasks(scene, turn * PER_TURN)).collect();
        // The first turn warms up.
        if turn > 0 {
            bare_samples.extend(new_bare);
            samples.iter_mut().zip(new).for_each(|(samples, new)| samples.extend(new));
        }
    }
    for scene in scenes {
        scene.stop(|| ());
    }

    let samples: Vec<Samples> = samples.into_iter().map(Samples::new).collect();
    let (one, bare) = (samples[0].median(), Samples::new(bare_samples).median());
    Row::new("assignment written, end read, p50", micros(one))
        .beside(bare::NAME, &micros(bare), times(one, bare))
        .print(report);
    report::against("the same", &samples, |samples| samples.median().as_secs_f64(), report::in_micros);
}

/// Times some tasks, each when nothing is left to do for the one before.
fn tasks(scene: &mut Scene, first: usize) -> Vec<Duration> {
    let one = |frame: Vec<u8>| {
        let start = Instant::now();
        scene.peer.write(&frame);
        assert!(is_claim(scene.peer.text()), "no claim came");
        assert!(is_success(scene.peer.text()), "the task did not end well");
        let took = start.elapsed();
        scene.peer.settle();
        took
    };
    assignment_frames(first..first + PER_TURN).into_iter().map(one).collect()
}
