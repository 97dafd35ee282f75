//! What running tasks cost: memory and threads of many, memory of one that floods its output.

use std::{
    io::{self, Read},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::BOUND;

use crate::{
    Effort, proc,
    report::{self, Report, Row, mebibytes},
    scene::{Agents, Launch},
    wire::{assignment_frames, is_claim},
};

const TASKS: usize = 1000;
const KIBIBYTE: f64 = 1024.0;

pub fn measure_tasks(report: &mut Report, effort: Effort) {
    let tasks = effort.pick(TASKS, TASKS / 4);
    report::subject(&format!("{tasks} running tasks"));
    let agents = Agents::new();
    let mut scene = Launch::new(&agents.script("sleeps", "exec sleep 100000"), 0).start();
    scene.peer.sync();
    let pid = scene.pid();
    let idle = proc::memory(pid);
    let mut threads = proc::threads(pid);

    scene.peer.write(&assignment_frames(0..tasks).concat());
    for _ in 0..tasks {
        assert!(is_claim(scene.peer.text()), "no claim came");
        threads = threads.max(proc::threads(pid));
    }
    let deadline = Instant::now() + BOUND;
    while proc::children(pid).len() < tasks {
        assert!(Instant::now() < deadline, "only {} of {tasks} agents run", proc::children(pid).len());
        scene.peer.idle(Duration::from_millis(20));
        threads = threads.max(proc::threads(pid));
    }
    scene.peer.idle(Duration::from_secs(1));
    let running = proc::memory(pid);
    let before = proc::cpu(pid);
    scene.peer.idle(Duration::from_secs(5));
    let cpu = proc::cpu(pid).saturating_sub(before).as_secs_f64() * 1e3 / 5.0;
    let start = Instant::now();
    scene.stop(|| threads = threads.max(proc::threads(pid)));
    let stopping = start.elapsed();

    let per_task = (running.rss - idle.rss) / tasks as f64;
    Row::new("resident memory per task", format!("{:.1} KiB", per_task / KIBIBYTE))
        .at_most(per_task / KIBIBYTE, 12.0, " KiB")
        .print(report);
    let anonymous = (running.anonymous - idle.anonymous) / tasks as f64 / KIBIBYTE;
    report::note(&format!("not backed by a file: {anonymous:.1} KiB; in all {}", mebibytes(running.rss)));
    Row::new("threads at most, start and stop included", threads.to_string())
        // Five that are always there, and three for each lane that running tasks keep busy.
        .at_most(threads as f64, 14.0, "")
        .print(report);
    report::note(&format!("processor time per second while they run {cpu:.3} ms; all stopped after {stopping:.1?}"));
}

pub fn measure_flood(report: &mut Report, seconds: u64) {
    report::subject(&format!("a task that writes as fast as it can for {seconds} s"));
    let agents = Agents::new();
    // A reader of the log that keeps up, as fast as a pipe can be.
    let (log, into_log) = io::pipe().unwrap();
    let logged = Arc::new(AtomicU64::new(0));
    let reader = thread::spawn({
        let logged = Arc::clone(&logged);
        move || drain(log, |length| _ = logged.fetch_add(length, Ordering::Relaxed))
    });
    let mut scene = Launch::new(&agents.script("floods", "exec yes"), 0).start_logging_to(into_log.into());
    scene.peer.sync();
    let pid = scene.pid();
    let idle = proc::resident(pid);
    let cpu_before = proc::cpu(pid);
    scene.peer.write(&assignment_frames(0..1)[0]);
    assert!(is_claim(scene.peer.text()), "no claim came");

    let start = Instant::now();
    let mut most = idle;
    while start.elapsed() < Duration::from_secs(seconds) {
        scene.peer.idle(Duration::from_millis(50));
        most = most.max(proc::resident(pid));
    }
    let took = start.elapsed().as_secs_f64();
    let rate = proc::children(pid).into_iter().map(proc::written).sum::<f64>() / took;
    let cpu = proc::cpu(pid).saturating_sub(cpu_before).as_secs_f64() / took;
    let logged = logged.load(Ordering::Relaxed) as f64 / took;
    scene.stop(|| ());
    reader.join().unwrap();

    let added = most - idle;
    Row::new("resident memory added, at most", mebibytes(added))
        .at_most(added / f64::from(1 << 20), 4.0, " MiB")
        .print(report);
    let bare = bare_flood(Duration::from_secs(seconds.min(3)));
    Row::new("output taken", format!("{}/s", mebibytes(rate)))
        .beside("`yes` into a pipe that is only read", &format!("{}/s", mebibytes(bare)), rate / bare)
        .print(report);
    report::note(&format!("written to the log {}/s; processor time per second {:.0} ms", mebibytes(logged), cpu * 1e3));
}

/// Bytes a second of the same program when somebody does nothing but read.
fn bare_flood(duration: Duration) -> f64 {
    let mut child = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (start, mut bytes, mut chunk) = (Instant::now(), 0, vec![0; 64 << 10]);
    while start.elapsed() < duration {
        bytes += output.read(&mut chunk).unwrap();
    }
    let rate = bytes as f64 / start.elapsed().as_secs_f64();
    child.kill().unwrap();
    child.wait().unwrap();
    rate
}

fn drain(mut from: impl Read, mut took: impl FnMut(u64)) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        took(length as u64);
    }
}
