//! Dials that fail: one clear line each, no secret in it, and another try.

use std::thread;

use oz_worker_tests::{
    agent::Agent,
    server::{Request, Server},
    worker::{API_KEY, Launch, Worker},
};

/// A worker whose first dial was answered by `refuse`, and that waits for the answer to its second.
struct Refused {
    worker: Worker,
    _second: Request,
}

fn refused(refuse: impl FnOnce(Request)) -> Refused {
    let (server, agent) = (Server::start(), Agent::new());
    let worker = Launch::direct(&server, &agent).flags(["--log-level", "debug"]).with_metrics().start();
    refuse(server.request());
    // Unanswered: whatever is in the log by now is about the first dial.
    let second = server.request();
    let reason = [("reason", "dial_failed")];
    worker.wait_for_metric("oz_worker_websocket_reconnects_total", &reason, 1.0);
    assert_eq!(worker.scrape().value("oz_worker_connected", &[]), 0.0);
    Refused { worker, _second: second }
}

impl Refused {
    /// The one line about the dial.
    fn line(&self, status: &str) -> String {
        // A status alone may stand in a time or a port as well.
        let status = format!("HTTP {status}");
        self.worker.wait_for_line(&status);
        let lines = self.worker.lines_with(&status);
        assert_eq!(lines.len(), 1, "one line with {status:?}, not {lines:#?}");
        assert!(self.worker.lines_with(API_KEY).is_empty(), "the API key is in the log");
        lines[0].clone()
    }
}

#[test]
fn every_http_refusal_is_one_line_and_another_dial() {
    let statuses = [
        ("401 Unauthorized", "401"),
        ("403 Forbidden", "403"),
        ("404 Not Found", "404"),
        ("429 Too Many Requests\r\nRetry-After: 1", "429"),
        ("500 Internal Server Error", "500"),
        ("200 OK", "200"),
    ];
    thread::scope(|scope| {
        for (head, status) in statuses {
            scope.spawn(move || {
                let refused = refused(|request| request.refuse(head, "because I say so"));
                let line = refused.line(status);
                assert!(line.contains("because I say so"), "the body is not in {line:?}");
                let is_about_the_key = line.to_lowercase().contains("api key");
                assert_eq!(is_about_the_key, status == "401" || status == "403", "{line}");
            });
        }
    });
}

#[test]
fn redirect_is_not_followed() {
    let elsewhere = Server::start();
    let head = format!("302 Found\r\nLocation: {}", elsewhere.url().replace("ws://", "http://"));
    let refused = refused(|request| request.refuse(&head, ""));
    refused.line("302");
    assert!(elsewhere.accept_tcp(std::time::Duration::ZERO).is_err(), "the redirect was followed");
}

#[test]
fn body_of_a_refusal_is_cut_and_cannot_drive_the_terminal() {
    let body = format!("\x1b[2J\nfake line\r\n\0{}THE-END", "x".repeat(600));
    let refused = refused(|request| request.refuse("503 Service Unavailable", &body));
    let line = refused.line("503");
    assert!(!line.contains('\x1b') && !line.contains('\0') && line.contains("fake line"), "{line:?}");
    assert!(line.contains("xxx") && !line.contains("THE-END"), "{line:?}");
}

#[test]
fn body_without_end_is_one_failed_dial() {
    let refused = refused(|request| {
        // Writes until the worker hangs up, which it does well before the bound of the test.
        request.refuse_without_end("502 Bad Gateway");
    });
    assert!(refused.line("502").len() < 1200);
}

#[test]
fn handshake_that_is_none_is_a_failed_dial() {
    let answers: [&'static [u8]; 4] = [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: bm8=\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ];
    thread::scope(|scope| {
        for answer in answers {
            scope.spawn(move || {
                let refused = refused(|request| {
                    std::io::Write::write_all(&mut request.into_stream(), answer).unwrap();
                });
                refused.worker.wait_for_line("WARN");
            });
        }
    });
}

#[test]
fn server_that_does_not_listen_is_tried_again() {
    let agent = Agent::new();
    // A port that was free a moment ago and is closed now.
    let url = Server::start().url();
    let worker = Launch::direct_to(&url, &agent).with_metrics().start();
    let reason = [("reason", "dial_failed")];
    worker.wait_for_metric("oz_worker_websocket_reconnects_total", &reason, 2.0);
}
