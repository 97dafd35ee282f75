//! Answers of a server: bounded, streamed, and the connection back after an upgrade.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;

use async_io::Async;
use common::head;
use futures_lite::future::block_on;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use oz_worker_net::{Answer, AnswerError, Destination, HttpClient, LARGEST_HEAD, Payload};

type Stream = Async<UnixStream>;

/// A client of whoever `serve` is.
fn client(serve: impl FnOnce(UnixStream) + Send + 'static) -> HttpClient<Stream> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve(theirs));
    block_on(HttpClient::new(Async::new(ours).unwrap())).unwrap()
}

fn ask(client: HttpClient<Stream>, body: &'static str) -> Result<Answer<Stream>, AnswerError> {
    let destination = Destination::Unix("/run/engine.sock".into());
    block_on(client.send(destination.request(http::Method::POST, "/v1?x".parse().unwrap(), Payload::from(body))))
}

fn answered(answer: impl AsRef<[u8]>) -> Result<Answer<Stream>, AnswerError> {
    let answer = answer.as_ref().to_vec();
    let client = client(move |mut stream| {
        head(&mut stream);
        // Whoever has heard enough hangs up.
        let _ = stream.write_all(&answer);
    });
    ask(client, "")
}

#[test]
fn a_request_has_host_length_and_body() {
    let client = client(|mut stream| {
        let asked = head(&mut stream);
        assert!(asked.starts_with("post /v1?x http/1.1\r\n"), "{asked}");
        for line in ["host: localhost", "content-length: 5", "user-agent: oz-agent-worker/"] {
            assert!(asked.contains(&format!("\r\n{line}")), "{asked}");
        }
        let mut body = [0; 5];
        std::io::Read::read_exact(&mut stream, &mut body).unwrap();
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
    });
    let mut answer = ask(client, "hello").unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(block_on(answer.body.read_whole(5)).unwrap(), b"hello");
}

#[test]
fn a_body_may_come_from_a_stream_and_is_broken_off_with_it() {
    let upload = |stream: futures_lite::io::Chain<&'static [u8], Failing>| {
        let (seen, body) = std::sync::mpsc::channel();
        let client = client(move |mut stream| {
            let asked = head(&mut stream);
            // Nothing may have been sent of a request that failed at once.
            assert!(asked.is_empty() || asked.contains("\r\ntransfer-encoding: chunked\r\n"), "{asked}");
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                let mut byte = [0];
                if std::io::Read::read(&mut stream, &mut byte).unwrap_or(0) == 0 {
                    break;
                }
                body.extend(byte);
            }
            seen.send(body).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        });
        let destination = Destination::Unix("/run/engine.sock".into());
        let request = destination.request(http::Method::PUT, "/".parse().unwrap(), Payload::stream(stream));
        (block_on(client.send(request)).map(drop), body.recv().unwrap())
    };
    let (answer, body) = upload(b"hello".chain(Failing(false)));
    assert!(answer.is_ok());
    assert_eq!(body, b"5\r\nhello\r\n0\r\n\r\n");
    let (answer, body) = upload(b"hello".chain(Failing(true)));
    assert!(answer.is_err());
    assert!(!body.ends_with(b"0\r\n\r\n"), "{body:?}");
}

/// A stream that ends at once, or fails.
struct Failing(bool);

impl futures_lite::AsyncRead for Failing {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut [u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(if self.0 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(0) })
    }
}

#[test]
fn a_connection_is_used_again_once_the_body_is_read() {
    let mut next = client(|mut stream| {
        for body in ["4\r\none \r\n3\r\ntwo\r\n", "5\r\nthree\r\n"] {
            head(&mut stream);
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n").unwrap();
        }
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfour").unwrap();
    });
    for expected in ["one two", "three"] {
        let mut answer = ask(next, "").unwrap();
        assert_eq!(block_on(answer.body.read_whole(7)).unwrap(), expected.as_bytes());
        next = answer.body.into_client().unwrap();
    }
    let mut answer = ask(next, "").unwrap();
    let mut text = String::new();
    block_on(answer.body.read_to_string(&mut text)).unwrap();
    assert_eq!(text, "four");
    assert!(answer.body.into_client().is_none());
}

#[test]
fn a_body_is_read_as_far_as_its_reader_wants() {
    let mut answer = answered(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(100_000))).unwrap();
    let mut text = Vec::new();
    block_on((&mut answer.body).take(512).read_to_end(&mut text)).unwrap();
    assert_eq!(text.len(), 512);
    assert!(answer.body.into_client().is_none());
    let mut answer = answered("HTTP/1.1 200 OK\r\n\r\n123456").unwrap();
    assert!(matches!(block_on(answer.body.read_whole(5)), Err(AnswerError::BodyTooLarge(5))));
    let mut answer = answered("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n123456").unwrap();
    assert!(matches!(block_on(answer.body.read_whole(99)), Err(AnswerError::Truncated)));
}

#[test]
fn an_answer_that_lasts_is_whole_and_bounded_however_it_ends() {
    let read = |head_of: &'static str, pieces: &'static [&'static str], most| {
        let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
        let client = client(move |mut stream| {
            head(&mut stream);
            let (first, later) = pieces.split_first().unwrap();
            stream.write_all(format!("{head_of}\r\n\r\n{first}").as_bytes()).unwrap();
            let _ = may_go_on.recv();
            for piece in later {
                let _ = stream.write_all(piece.as_bytes());
            }
        });
        let rest = block_on(ask(client, "").unwrap().body.into_rest(most))?;
        drop(go_on);
        block_on(rest.read_whole())
    };
    // With the connection, and as its head says.
    assert_eq!(read("HTTP/1.0 200 OK", &["", "hel", "lo"], 5).unwrap(), b"hello");
    assert_eq!(read("HTTP/1.0 200 OK", &["hel", "lo"], 5).unwrap(), b"hello");
    assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 5", &["hel", "lo"], 5).unwrap(), b"hello");
    for head_of in ["HTTP/1.0 200 OK", "HTTP/1.1 200 OK\r\nContent-Length: 6"] {
        for pieces in [&["hello!"][..], &["hel", "lo!"]] {
            assert!(matches!(read(head_of, pieces, 5), Err(AnswerError::BodyTooLarge(5))), "{head_of} {pieces:?}");
        }
    }
}

#[test]
fn an_upgrade_gives_the_connection_and_what_came_behind_the_head() {
    let client = client(|mut stream| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 101 Go\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nearly").unwrap();
        let mut copy = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut copy, &mut stream);
    });
    let answer = ask(client, "").unwrap();
    assert_eq!(answer.status(), 101);
    let (mut stream, rest) = block_on(answer.into_stream()).unwrap();
    let mut echoed = rest.to_vec();
    block_on(async {
        stream.write_all(b"late").await.unwrap();
        stream.close().await.unwrap();
        stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_end(&mut echoed).await.unwrap();
    });
    assert_eq!(echoed, b"earlylate");
}

type Expected = fn(&AnswerError) -> bool;

#[test]
fn what_is_no_answer_says_why() {
    let head = |name: &str, size: usize| format!("HTTP/1.1 200 OK\r\n{name}: {}\r\n\r\n", "a".repeat(size));
    let tls_alert = "\u{15}\u{3}\u{1}\0\u{2}\u{2}F";
    let error = answered(tls_alert).err().unwrap();
    assert!(
        matches!(error, AnswerError::NotHttp) && error.to_string().contains("are scheme and port right?"),
        "{error}"
    );
    let rows: [(String, Expected); 8] = [
        (String::new(), |error| matches!(error, AnswerError::Empty)),
        ("HTTP/1.1 200 OK\r\nA:".into(), |error| matches!(error, AnswerError::Truncated)),
        ("SSH-2.0-OpenSSH_9\r\n\r\n".into(), |error| matches!(error, AnswerError::NotHttp)),
        ("HTTP/2 200\r\n\r\n".into(), |error| matches!(error, AnswerError::NotHttp)),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101)), |error| matches!(error, AnswerError::NotHttp)),
        (head("A", LARGEST_HEAD), |error| matches!(error, AnswerError::HeadTooLarge)),
        (head("A", 10 * LARGEST_HEAD), |error| matches!(error, AnswerError::HeadTooLarge)),
        ("\r\n".into(), |error| matches!(error, AnswerError::Truncated)),
    ];
    for (answer, is_expected) in rows {
        let error = answered(&answer).err().unwrap();
        assert!(is_expected(&error), "{error} after {answer:.60?}");
    }
    assert!(answered(head("A", LARGEST_HEAD - 100)).is_ok());
}
