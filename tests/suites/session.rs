//! One session after another: how a connection is asked for, kept, lost and taken up again.

use std::{fs, thread};

use oz_worker_tests::{
    agent::Agent,
    connection::Received,
    message::Assignment,
    server::Server,
    worker::{API_KEY, Launch},
};

use crate::scene::Scene;

#[test]
fn dials_with_worker_id_and_api_key() {
    let (server, agent) = (Server::start(), Agent::new());
    let _worker = Launch::direct(&server, &agent).worker_id("w1").start();
    let request = server.request();
    assert_eq!(request.path(), oz_worker_tests::server::PATH);
    assert_eq!(request.query(), [("worker_id", "w1")]);
    assert_eq!(request.header("authorization"), Some(format!("Bearer {API_KEY}").as_str()));
    let host = server.address().to_string();
    assert_eq!(request.header("host"), Some(host.as_str()));
    request.upgrade();
}

#[test]
fn worker_id_is_percent_encoded_and_replaces_the_one_of_the_url() {
    let (server, agent) = (Server::start(), Agent::new());
    let url = format!("{}?first=1%202&worker_id=old&last=a+b", server.url());
    let _worker = Launch::direct_to(&url, &agent).worker_id("a b/ü&=?#%+").start();
    let request = server.request();
    let mut query = request.query();
    query.sort_unstable();
    assert_eq!(query.len(), 3, "{}", request.target);
    assert_eq!(query[0], ("first", "1%202"));
    assert_eq!(query[1], ("last", "a+b"));
    assert_eq!(query[2].1.to_uppercase(), "A%20B%2F%C3%BC%26%3D%3F%23%25%2B".to_uppercase(), "{}", request.target);
    request.upgrade();
}

#[test]
fn api_key_file_is_read_again_at_every_dial() {
    let (server, agent) = (Server::start(), Agent::new());
    let launch = Launch::direct(&server, &agent).without_env("WARP_API_KEY");
    let key_file = launch.dir().join("key");
    fs::write(&key_file, "first-key\n").unwrap();
    let _worker = launch.flags(["--api-key-file", key_file.to_str().unwrap()]).start();

    let request = server.request();
    assert_eq!(request.header("authorization"), Some("Bearer first-key"));
    let mut session = request.upgrade();
    fs::write(&key_file, "second-key\n").unwrap();
    session.reset();
    assert_eq!(server.request().header("authorization"), Some("Bearer second-key"));
}

#[test]
fn server_pings_are_answered_with_their_payload() {
    let mut scene = Scene::new();
    for payload in [&b"ping"[..], b"", &[0xff; 125]] {
        scene.session.ping(payload);
        scene.session.expect_pong(payload);
    }
}

#[test]
fn lost_connection_is_dialled_again_and_counted() {
    let mut scene = Scene::with(Launch::with_metrics);
    scene.worker.wait_for_metric("oz_worker_connected", &[], 1.0);
    for lost in 1..=2 {
        if lost == 1 {
            scene.session.hang_up();
        } else {
            scene.session.reset();
        }
        let reason = [("reason", "remote_close")];
        scene.worker.wait_for_metric("oz_worker_websocket_reconnects_total", &reason, f64::from(lost));
        // The next dial waits in the listener's backlog: it is not established before it is answered.
        scene.worker.wait_for_metric("oz_worker_connected", &[], 0.0);
        scene.accept_again();
        scene.worker.wait_for_metric("oz_worker_connected", &[], 1.0);
        scene.still_works(&format!("T{lost}"));
        scene.settle();
    }
    assert_eq!(scene.worker.scrape().total("oz_worker_websocket_reconnects_total"), 2.0);
}

#[test]
fn any_close_code_leads_to_a_new_session() {
    // Each code has a worker of its own, so that the waits before the next dial pass together.
    thread::scope(|scope| {
        for code in (1000..=1015).chain([4000]) {
            scope.spawn(move || {
                let mut scene = Scene::with(Launch::with_metrics);
                scene.session.close(code, "so it is");
                scene.session.expect_end_within(oz_worker_tests::BOUND);
                scene.session.hang_up();
                scene.accept_again();
                scene.still_works("T1");
                let scrape = scene.worker.scrape();
                let reason = [("reason", "remote_close")];
                assert_eq!(scrape.value("oz_worker_websocket_reconnects_total", &reason), 1.0, "code {code}");
            });
        }
    });
}

#[test]
fn close_is_answered_before_the_connection_ends() {
    let mut scene = Scene::new();
    scene.session.close(1001, "going away");
    match scene.session.expect_end_within(oz_worker_tests::BOUND) {
        Received::Close(code, _) => assert_eq!(code, Some(1001)),
        other => scene.session.fail(&format!("the closing handshake was not finished: {other:?}")),
    }
}

#[test]
fn tasks_go_on_while_the_connection_is_down() {
    let mut scene = Scene::new();
    scene.claim(&Assignment::new("T1").run("say started; gate; exit 5"));
    scene.agent.wait_for("T1", "started");
    scene.session.reset();
    scene.agent.open_gate();
    scene.accept_again();
    assert_eq!(scene.end_on_next_session("T1")["data"]["exit_code"], 5);
}

#[test]
fn unproven_end_is_sent_again_on_the_next_session_and_a_proven_one_is_not() {
    let mut scene = Scene::new();
    // Proven: its Ping is answered before the connection ends.
    scene.still_works("proven");
    scene.settle();
    // Unproven: the message arrives, the Ping stays unanswered.
    scene.session.answer_pings(false);
    scene.still_works("unproven");
    scene.session.hang_up();

    scene.accept_again();
    let again = scene.end_on_next_session("unproven");
    assert_eq!(again["type"], "task_completed");
    // Nothing but what a new task causes comes after it.
    scene.still_works("next");
}

#[test]
fn claim_that_was_lost_is_sent_again_before_its_end() {
    let mut scene = Scene::new();
    // The server reads nothing of what follows the assignment on this session.
    scene.session.send(Assignment::new("T1").run("say started; gate"));
    scene.agent.wait_for("T1", "started");
    scene.session.hang_up();
    scene.agent.open_gate();
    scene.accept_again();
    assert_eq!(scene.session.expect("task_claimed")["task_id"], "T1");
    assert_eq!(scene.end_of("T1")["type"], "task_completed");
}
