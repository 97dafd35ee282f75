//! Tasks whose agent exits at once, eight at a time, beside the bare system calls that each of them needs.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr,
    time::Instant,
};

use crate::{
    Effort, proc,
    report::{self, Report, Row, median, per_second},
    scene::{Agents, Launch, Scene},
    wire::{assignment_frames, is_claim, is_success},
};

/// Tasks that run at the same time.
pub const AT_ONCE: usize = 8;

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("trivial tasks, 8 at a time");
    let agents = Agents::new();
    against_bare(report, effort, "agent: /bin/true", &agents.exits_at_once());
    match agents.least() {
        Ok(least) => against_bare(report, effort, "agent: the least static program", &least),
        Err(error) => report::note(&format!("no static program to try as well: {error}")),
    }
}

fn against_bare(report: &mut Report, effort: Effort, what: &str, agent: &Path) {
    let (rounds, tasks) = (effort.pick(15, 5), effort.pick(1000, 300));
    let mut scene = Launch::new(agent, AT_ONCE as u32).start();
    let root = tempfile::tempdir().unwrap();
    let (mut worker, mut bare, mut ratios, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    // The two take turns, so that both see the same machine; the first round warms up.
    for round in 0..=rounds {
        let cpu_before = proc::cpu(scene.pid());
        let worker_rate = run(&mut scene, round * tasks, tasks);
        let cpu_of_round = proc::cpu(scene.pid()).saturating_sub(cpu_before);
        let bare_rate = run_bare(root.path(), agent, tasks).unwrap();
        if round > 0 {
            worker.push(worker_rate);
            bare.push(bare_rate);
            ratios.push(worker_rate / bare_rate);
            cpu += cpu_of_round.as_secs_f64();
        }
    }
    scene.stop(|| ());
    let ratio = median(ratios) * 100.0;
    Row::new(what, per_second(median(worker)))
        .beside("mkdir, posix_spawn, wait, rmdir", &per_second(median(bare)), ratio / 100.0)
        .at_least(ratio, 75.0, " %")
        .print(report);
    let per_task = cpu * 1e6 / (rounds * tasks) as f64;
    report::note(&format!("{rounds} rounds of {tasks} each; processor time of the worker {per_task:.0} µs a task"));
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

/// Tasks a second when nothing is done but what the operating system has to do for each.
fn run_bare(root: &Path, agent: &Path, count: usize) -> io::Result<f64> {
    let program = CString::new(agent.as_os_str().as_bytes())?;
    let start = Instant::now();
    let mut running: Vec<(libc::pid_t, PathBuf)> = Vec::with_capacity(AT_ONCE);
    for number in 0..count {
        if running.len() == AT_ONCE {
            end_one(&mut running)?;
        }
        let workspace = root.join(number.to_string());
        fs::create_dir(&workspace)?;
        running.push((spawn(&program)?, workspace));
    }
    while !running.is_empty() {
        end_one(&mut running)?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn end_one(running: &mut Vec<(libc::pid_t, PathBuf)>) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: `status` lives through the call. The worker is a child too, but one that does not end meanwhile.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
    let ended = running.iter().position(|(running, _)| *running == pid).ok_or_else(io::Error::last_os_error)?;
    fs::remove_dir(running.swap_remove(ended).1)
}

fn spawn(program: &CString) -> io::Result<libc::pid_t> {
    let arguments = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let environment = [c"PATH=/usr/bin:/bin".as_ptr().cast_mut(), c"HOME=/".as_ptr().cast_mut(), ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: the program and both arrays, each ended by a null pointer, live through the call.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            ptr::null(),
            ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
}
