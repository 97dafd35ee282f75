//! What only time shows, on a real socket: the keepalive Ping, and silence. The simulator shows the rest in no time
//! (`tests/simulator/tests/guarantees.rs`).

use std::time::{Duration, Instant};

use oz_worker_tests::{BOUND, worker::Launch};

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
