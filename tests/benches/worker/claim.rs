//! From an assignment's last byte written to its claim read, beside a round trip on the same kind of socket.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Effort,
    report::{self, Report, Row, Samples, micros, times},
    scene::{Agents, Launch, Scene},
    wire::{assignment_frames, is_claim, is_success},
};

/// Bytes there and back: about an assignment.
const ECHOED: usize = 512;
/// Claims and round trips take turns, so that both see the same machine.
const PER_TURN: usize = 25;

pub fn measure(report: &mut Report, effort: Effort, workers: &[PathBuf]) {
    report::subject("claim: assignment written, claim read");
    let agents = Agents::new();
    let launch = |worker| Launch::new(&agents.exits_at_once(), 0).of(worker).start();
    let mut scenes: Vec<Scene> = workers.iter().map(|worker| launch(worker)).collect();
    let mut echo = echo().unwrap();
    let turns = effort.pick(40, 8);
    let (mut claims, mut trips, mut cold) = (vec![Vec::new(); scenes.len()], Vec::new(), Vec::new());
    for turn in 0..=turns {
        let mut new_cold = Vec::new();
        let new_claims: Vec<Vec<Duration>> = scenes
            .iter_mut()
            .map(|scene| claim(scene, turn * PER_TURN, || new_cold.push(round_trip(&mut echo).unwrap())))
            .collect();
        let new_trips = (0..PER_TURN).map(|_| round_trip(&mut echo).unwrap());
        // The first turn warms up.
        if turn > 0 {
            claims.iter_mut().zip(new_claims).for_each(|(claims, new)| claims.extend(new));
            trips.extend(new_trips);
            cold.extend(new_cold);
        }
    }
    for scene in scenes {
        scene.stop(|| ());
    }

    let (claims, trips) = (claims.into_iter().map(Samples::new).collect::<Vec<_>>(), Samples::new(trips));
    let trip = trips.median();
    for (percent, limit) in [(50, 1.8), (99, 5.0)] {
        let claim = claims[0].percentile(percent);
        let ratio = times(claim, trip);
        Row::new(&format!("p{percent}"), micros(claim))
            .beside("p50 of a 512-byte TCP round trip", &micros(trip), ratio)
            .at_most(ratio, limit, " ×")
            .print(report);
        let figure = |claims: &Samples| claims.percentile(percent).as_secs_f64();
        report::against(&format!("p{percent}"), &claims, figure, report::in_micros);
    }
    let (p99, cold) = (trips.percentile(99), Samples::new(cold));
    report::note(&format!("{} samples each; p99 of the round trip {}", turns * PER_TURN, micros(p99)));
    report::note(&format!(
        "a round trip that comes, as a claim does, after a task: p50 {}, p99 {}",
        micros(cold.median()),
        micros(cold.percentile(99))
    ));
}

/// Times some claims, each when nothing is left to do for the task before. `afterwards` is called after each task.
fn claim(scene: &mut Scene, first: usize, mut afterwards: impl FnMut()) -> Vec<Duration> {
    let one = |frame: Vec<u8>| {
        let start = Instant::now();
        scene.peer.write(&frame);
        assert!(is_claim(scene.peer.text()), "no claim came");
        let took = start.elapsed();
        assert!(is_success(scene.peer.text()), "the task did not end well");
        scene.peer.settle();
        afterwards();
        took
    };
    assignment_frames(first..first + PER_TURN).into_iter().map(one).collect()
}

/// The near end of a connection whose far end sends back what it gets.
fn echo() -> io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    thread::spawn(move || {
        let mut bytes = [0; ECHOED];
        while far.read_exact(&mut bytes).and_then(|()| far.write_all(&bytes)).is_ok() {}
    });
    Ok(near)
}

fn round_trip(near: &mut TcpStream) -> io::Result<Duration> {
    let mut bytes = [b'x'; ECHOED];
    let start = Instant::now();
    near.write_all(&bytes)?;
    near.read_exact(&mut bytes)?;
    Ok(start.elapsed())
}
