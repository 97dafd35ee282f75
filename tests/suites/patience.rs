//! What only time shows, on a real socket: the keepalive Ping, silence, and a message that takes longer than silence may. The simulator shows the rest in no time
//! (`tests/simulator/tests/guarantees.rs`).

use std::thread;
use std::time::{Duration, Instant};

use oz_worker_tests::{BOUND, connection::Received, message::Assignment, worker::Launch};

use crate::scene::Scene;

/// `docs/protocol.md`: a Ping every 30 s, an end after 60 s of silence.
const PING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(60);

/// Allows for a busy machine, and for timers that are a little early.
fn took(started: Instant, wanted: Duration) {
    let took = started.elapsed();
    assert!(took + Duration::from_secs(1) > wanted && took < wanted + BOUND, "took {took:?}, not {wanted:?}");
}

#[test]
fn silent_server_is_left_after_60_s() {
    let mut scene = Scene::with(Launch::with_metrics);
    let started = Instant::now();
    scene.session.answer_pings(false);
    scene.session.expect_ping_within(PING + BOUND);
    took(started, PING);
    scene.session.expect_end_within(SILENCE);
    took(started, SILENCE);
    scene.worker.wait_for_metric("oz_worker_websocket_reconnects_total", &[("reason", "remote_close")], 1.0);
    scene.accept_again();
    scene.still_works("T1");
}

#[test]
fn assignment_of_400_kb_that_takes_longer_than_silence_may_arrives() {
    let mut scene = Scene::new();
    let text = Assignment::new("T1").with("unknown", "x".repeat(400_000).into());
    let text = text.as_ref().to_string();
    let mut frame = vec![0x81, 127];
    frame.extend((text.len() as u64).to_be_bytes());
    frame.extend(text.as_bytes());
    // Nothing can be said in the middle of a frame.
    scene.session.answer_pings(false);
    let started = Instant::now();
    let seconds = SILENCE.as_secs() + 5;
    for (piece, at) in frame.chunks(frame.len().div_ceil(usize::try_from(seconds).unwrap())).zip(1..) {
        scene.session.raw(piece);
        if at == seconds {
            break;
        }
        let next = started + Duration::from_secs(at);
        while let Some(frame) = scene.session.next_until(next) {
            assert!(matches!(frame, Received::Ping(_)), "{frame:?} after {at} s");
        }
    }
    scene.session.answer_pings(true);
    assert_eq!(scene.session.expect("task_claimed")["task_id"], "T1");
    assert_eq!(scene.end_of("T1")["type"], "task_completed");
}

#[test]
fn reader_of_100_kb_a_second_is_no_dead_connection() {
    const ANSWERS: usize = 15_000;
    let mut scene = Scene::with(|launch| launch.flags(["--max-concurrent-tasks", "1"]));
    scene.session.keep_little();
    scene.claim(&Assignment::new("running").run("say started; gate"));
    scene.agent.wait_for("running", "started");
    for number in 0..ANSWERS {
        scene.session.text(&format!(r#"{{"type":"task_assignment","data":{{"task_id":"T{number}","task":{{}}}}}}"#));
    }
    let started = Instant::now();
    let mut heard = 0;
    for at in 1.. {
        // Each answer has about 100 bytes.
        let mut batch = 0;
        while batch < 100 && heard < ANSWERS {
            match scene.session.next_until(Instant::now() + BOUND) {
                Some(Received::Text(text)) => {
                    assert!(text.contains("task_rejected"), "{text}");
                    (batch, heard) = (batch + 1, heard + 1);
                }
                Some(Received::Ping(_)) => {}
                other => scene.session.fail(&format!("{other:?} after {heard} answers and {:?}", started.elapsed())),
            }
        }
        if heard == ANSWERS {
            break;
        }
        // The pace is what is tested; nothing is awaited.
        thread::sleep((started + at * Duration::from_millis(100)).saturating_duration_since(Instant::now()));
    }
    assert!(started.elapsed() > Duration::from_secs(12), "{:?}", started.elapsed());
    scene.agent.open_gate();
    assert_eq!(scene.end_of("running")["type"], "task_completed");
    scene.still_works("T");
}
