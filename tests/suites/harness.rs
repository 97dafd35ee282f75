//! The harness itself: a test server that could not fail would prove nothing.

use std::{
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use oz_worker_tests::{
    connection::{Connection, Received},
    server::Server,
};
use tungstenite::{Message, WebSocket, client::IntoClientRequest};

/// A peer that plays the worker's part.
fn connected() -> (Connection, WebSocket<TcpStream>) {
    let server = Server::start();
    let mut request = format!("{}?worker_id=w1", server.url()).into_client_request().unwrap();
    request.headers_mut().insert("Authorization", "Bearer key".parse().unwrap());
    let tcp = TcpStream::connect(server.address()).unwrap();
    let dialling = std::thread::spawn(move || tungstenite::client(request, tcp).unwrap().0);
    let session = server.accept();
    (session, dialling.join().unwrap())
}

/// The text with which something fails.
fn failure(fails: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(fails)).expect_err("it did not fail");
    panic.downcast_ref::<String>().cloned().unwrap()
}

#[test]
fn session_shows_frames_and_answers_pings() {
    let (mut session, mut peer) = connected();
    peer.send(Message::Ping(b"7"[..].into())).unwrap();
    peer.send(Message::text(r#"{"type":"task_claimed","data":{"task_id":"T1"}}"#)).unwrap();
    assert_eq!(session.expect("task_claimed")["task_id"], "T1");
    assert_eq!(peer.read().unwrap(), Message::Pong(b"7"[..].into()));
    session.fragments(&[b"ab", b"", b"c"]);
    assert_eq!(peer.read().unwrap(), Message::text("abc"));
    session.close(4000, "because");
    assert!(matches!(peer.read().unwrap(), Message::Close(Some(frame)) if u16::from(frame.code) == 4000));
}

#[test]
fn failure_comes_with_the_transcript() {
    let (mut session, mut peer) = connected();
    peer.send(Message::text(r#"{"type":"task_rejected","data":{"task_id":"T1"}}"#)).unwrap();
    let text = failure(|| drop(session.expect("task_claimed")));
    assert!(text.contains("expected task_claimed") && text.contains("this session so far"), "{text}");
    assert!(text.contains(r#"<- {"type":"task_rejected""#), "{text}");
}

#[test]
fn end_of_a_session_is_not_mistaken_for_silence() {
    let (mut session, peer) = connected();
    assert_eq!(session.recv_within(Duration::from_millis(1)), None);
    drop(peer);
    assert_eq!(session.next_until(Instant::now() + oz_worker_tests::BOUND), Some(Received::End));
    failure(|| drop(session.recv()));
}

#[test]
fn peer_that_breaks_the_protocol_is_caught() {
    let (mut session, peer) = connected();
    // A frame without a mask.
    std::io::Write::write_all(&mut peer.get_ref(), &[0x81, 2, b'{', b'}']).unwrap();
    assert!(failure(|| drop(session.recv())).contains("mask"));
}

#[test]
fn reset_and_hang_up_look_different_to_the_peer() {
    let (mut session, mut peer) = connected();
    session.reset();
    assert!(
        matches!(peer.read(), Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset)
    );
    let (mut session, mut peer) = connected();
    session.hang_up();
    let error = peer.read().unwrap_err();
    assert!(matches!(error, tungstenite::Error::Protocol(_)), "{error}");
}

#[test]
fn dial_that_is_not_a_workers_is_refused() {
    let server = Server::start();
    let address = server.address();
    let dialling = std::thread::spawn(move || {
        let request = format!("ws://{address}/somewhere").into_client_request().unwrap();
        tungstenite::client(request, TcpStream::connect(address).unwrap()).map(drop).map_err(|error| error.to_string())
    });
    let text = failure(|| drop(server.accept()));
    assert!(text.contains("worker_id"), "{text}");
    dialling.join().unwrap().unwrap_err();
}
