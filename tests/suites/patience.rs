//! What only time shows: the keepalive Ping, silence, and a handshake that never ends.

use std::{
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::{BOUND, agent::Agent, server::Server, worker::Launch};

use crate::scene::Scene;

/// `docs/protocol.md`: a Ping every 30 s, an end after 60 s of silence, a handshake in 45 s.
const PING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(45);

/// All that takes a minute takes the same minute.
#[test]
fn silence_is_noticed_and_patience_ends() {
    thread::scope(|scope| {
        scope.spawn(silent_server_is_left_after_60_s);
        scope.spawn(answered_pings_keep_the_session);
        scope.spawn(handshake_that_hangs_fails_after_45_s);
    });
}

/// Allows for a busy machine, and for timers that are a little early.
fn took(started: Instant, wanted: Duration) {
    let took = started.elapsed();
    assert!(took + Duration::from_secs(1) > wanted && took < wanted + BOUND, "took {took:?}, not {wanted:?}");
}

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

fn answered_pings_keep_the_session() {
    let mut scene = Scene::with(Launch::with_metrics);
    let started = Instant::now();
    scene.session.expect_ping_within(PING + BOUND);
    scene.session.expect_ping_within(PING + BOUND);
    took(started, 2 * PING);
    // Past the silence that would have ended the session.
    assert_eq!(scene.session.recv_within(Duration::from_secs(2)), None);
    assert_eq!(scene.worker.scrape().total("oz_worker_websocket_reconnects_total"), 0.0);
    scene.still_works("T1");
}

fn handshake_that_hangs_fails_after_45_s() {
    let (server, agent) = (Server::start(), Agent::new());
    let worker = Launch::direct(&server, &agent).with_metrics().start();
    let started = Instant::now();
    let _held = server.request();
    let again = server.try_request(HANDSHAKE + BOUND).expect("another dial");
    took(started, HANDSHAKE);
    worker.wait_for_metric("oz_worker_websocket_reconnects_total", &[("reason", "dial_failed")], 1.0);
    again.upgrade();
}
