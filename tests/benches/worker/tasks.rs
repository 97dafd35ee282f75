//! Tasks whose agent exits at once, eight at a time, beside the bare system calls that each of them needs: how many a
//! second, and how much processor time each.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Effort,
    bare::{self, Bare},
    proc,
    report::{self, Report, Row, median, micros, per_second},
    scene::{Agents, Launch, Scene},
    wire::{assignment_frames, is_claim, is_success},
};

/// Tasks that run at the same time.
pub const AT_ONCE: usize = 8;

pub fn measure(report: &mut Report, effort: Effort, workers: &[PathBuf]) {
    report::subject("trivial tasks, 8 at a time");
    let agents = Agents::new();
    against_bare(report, effort, workers, "agent: /bin/true", &agents.exits_at_once());
    match agents.least() {
        Ok(least) => against_bare(report, effort, workers, "agent: the least static program", &least),
        Err(error) => report::note(&format!("no static program to try as well: {error}")),
    }
}

/// The figures of one worker, or of the bare loop.
#[derive(Default)]
struct Figures {
    /// Tasks a second, per round.
    rates: Vec<f64>,
    /// Those by the bare loop's of the same round.
    shares: Vec<f64>,
    cpu: Duration,
}

fn against_bare(report: &mut Report, effort: Effort, workers: &[PathBuf], what: &str, agent: &Path) {
    let (rounds, tasks) = (effort.pick(15, 5), effort.pick(1000, 300));
    let launch = |worker| Launch::new(agent, AT_ONCE as u32).of(worker).start();
    let mut measured: Vec<(Scene, Figures)> =
        workers.iter().map(|worker| (launch(worker), Figures::default())).collect();
    let bare = Bare::new(agent);
    let mut bare_figures = Figures::default();
    // They take turns, so that all see the same machine; the first round warms up.
    for round in 0..=rounds {
        let took = bare.run(tasks, AT_ONCE).unwrap();
        let bare_rate = tasks as f64 / took.wall.as_secs_f64();
        if round > 0 {
            bare_figures.rates.push(bare_rate);
            bare_figures.cpu += took.cpu;
        }
        for (scene, figures) in &mut measured {
            let cpu_before = proc::cpu(scene.pid());
            let rate = run(scene, round * tasks, tasks);
            let cpu = proc::cpu(scene.pid()).saturating_sub(cpu_before);
            if round > 0 {
                figures.rates.push(rate);
                figures.shares.push(rate / bare_rate);
                figures.cpu += cpu;
            }
        }
    }
    let measured: Vec<Figures> = measured.into_iter().map(|(scene, figures)| stopped(scene, figures)).collect();

    let (this, bare_rate) = (&measured[0], median(&bare_figures.rates));
    let (rate, share) = (median(&this.rates), median(&this.shares));
    Row::new(what, per_second(rate))
        .beside(bare::NAME, &per_second(bare_rate), share)
        .at_least(share * 100.0, 90.0, " %")
        .print(report);
    let per_task = |figures: &Figures| figures.cpu / (rounds * tasks) as u32;
    let ratio = report::times(per_task(this), per_task(&bare_figures));
    Row::new("its processor time per task", micros(per_task(this)))
        .beside("the same, what is started not counted", &micros(per_task(&bare_figures)), ratio)
        .at_most(ratio, 1.6, " ×")
        .print(report);
    report::against("tasks a second", &measured, |figures| median(&figures.rates), per_second);
    report::against(
        "its processor time per task",
        &measured,
        |figures| per_task(figures).as_secs_f64(),
        report::in_micros,
    );
    report::note(&format!("{rounds} rounds of {tasks} each"));
}

fn stopped(scene: Scene, figures: Figures) -> Figures {
    scene.stop(|| ());
    figures
}

/// Tasks a second through the worker.
pub fn run(scene: &mut Scene, first: usize, count: usize) -> f64 {
    let frames = assignment_frames(first..first + count);
    let start = Instant::now();
    let mut next = frames.iter();
    for frame in next.by_ref().take(AT_ONCE) {
        scene.peer.write(frame);
    }
    let mut ended = 0;
    while ended < count {
        let text = scene.peer.text();
        if is_claim(text) {
            continue;
        }
        assert!(is_success(text), "not the end of a good task: {}", String::from_utf8_lossy(text));
        ended += 1;
        if let Some(frame) = next.next() {
            scene.peer.write(frame);
        }
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    scene.peer.sync();
    rate
}
