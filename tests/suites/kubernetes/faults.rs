//! An API server whose answers are lost, put off, refused for now, or say that it does not know that version any more.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::server::Server;
use serde_json::json;

use super::scene::{Place, Scene, task};

/// Too many requests, for a second.
const BUSY: &str = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What an API server says of a version that it does not know any more.
const EXPIRED: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (2)","reason":"Expired","code":410}"#;

/// What becomes of a request.
enum Fate {
    Passes,
    /// The version that it names is too old: the status of the answer says so, or an event of a watch.
    Gone {
        in_event: bool,
    },
    /// It is answered with this code and message, and not passed on.
    Fails(u16, &'static str),
    Busy,
    /// It is done, and nobody hears of it.
    Lost,
}

/// Lets requests meet their fate, by their first lines, on the way to this address. Gives the port to send them to.
fn front(upstream: SocketAddr, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let fate = Arc::new(fate);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let fate = Arc::clone(&fate);
            thread::spawn(move || drop(meet(client, upstream, &*fate)));
        }
    });
    port
}

fn meet(mut client: TcpStream, upstream: SocketAddr, fate: &dyn Fn(&str) -> Fate) -> io::Result<()> {
    let request = whole_request(&mut client)?;
    let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
    let fate = fate(&line);
    match fate {
        Fate::Busy => return client.write_all(BUSY.as_bytes()),
        Fate::Gone { in_event: false } => return answer(&mut client, 410, EXPIRED),
        Fate::Gone { in_event: true } => {
            return answer(&mut client, 200, &format!("{{\"type\":\"ERROR\",\"object\":{EXPIRED}}}\n"));
        }
        Fate::Fails(code, message) => {
            let body = json!({"kind": "Status", "reason": "InternalError", "code": code, "message": message});
            return answer(&mut client, code, &body.to_string());
        }
        Fate::Passes | Fate::Lost => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(&request)?;
    let mut buffer = [0; 8192];
    loop {
        let read = server.read(&mut buffer)?;
        if read == 0 || matches!(fate, Fate::Lost) {
            return client.shutdown(Shutdown::Both);
        }
        client.write_all(&buffer[..read])?;
    }
}

/// Answers with this status and this JSON.
fn answer(client: &mut TcpStream, code: u16, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {code} Status\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    client.write_all(format!("{head}{body}").as_bytes())
}

/// A request with its body.
fn whole_request(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut request, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0_usize) {
                return Ok(request);
            }
        }
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&buffer[..read]);
    }
}

/// A worker that reaches the API server by this port.
fn through(place: &Place<'_>, port: u16) -> Scene {
    let server = Server::start();
    let launch = place.launch(&server);
    let kubeconfig = json!({
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "contexts": [{"name": "x", "context": {"cluster": "c"}}],
        "current-context": "x",
    });
    let path = launch.dir().join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    Scene::of(server, launch.config("kubeconfig", path.to_str().unwrap()))
}

pub fn answers(place: &Place<'_>) {
    let api = place.cluster.plain();
    let (requests, creations) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let port = front(api.address, move |line| {
        if line.starts_with("POST") && line.contains("/jobs ") {
            // The first is the preflight's.
            return match creations.fetch_add(1, Ordering::SeqCst) {
                1 => Fate::Fails(500, "failed calling webhook \"w\": context deadline exceeded"),
                2 => Fate::Lost,
                _ => Fate::Passes,
            };
        }
        if requests.fetch_add(1, Ordering::SeqCst) % 2 == 1 { Fate::Busy } else { Fate::Passes }
    });
    let mut scene = through(place, port);
    scene.succeeds(&task("T1", ""));
    place.has_jobs(0);
    let made = place.all("events --field-selector reason=SuccessfulCreate");
    let of_task = |event: &&serde_json::Value| {
        event["involvedObject"]["name"].as_str().is_some_and(|name| name.starts_with("oz-task-t1"))
    };
    assert_eq!(made.iter().filter(of_task).count(), 1, "one Job: {made:#?}");
    assert!(scene.is_silent());
    scene.leave();
}

pub fn gone(place: &Place<'_>) {
    let api = place.cluster.plain();
    let (watches, lists) = (AtomicUsize::new(0), Arc::<Mutex<Vec<(String, Instant)>>>::default());
    let noted = Arc::clone(&lists);
    let port = front(api.address, move |line| {
        let path = line.split(['?', ' ']).nth(1).unwrap_or_default().to_owned();
        if line.contains("watch=1") {
            // No watch ever works: one form and the other.
            return Fate::Gone { in_event: watches.fetch_add(1, Ordering::SeqCst) % 2 == 1 };
        }
        if line.contains("limit=500") {
            noted.lock().unwrap().push((path, Instant::now()));
        }
        Fate::Passes
    });
    let mut scene = through(place, port);
    scene.claim(&task("T1", "sleep 2"));
    scene.claim(&task("T2", "sleep 2; exit 7"));
    let mut ends = [scene.end(), scene.end()];
    ends.sort_by_key(|(_, data)| data["task_id"].as_str().map(str::to_owned));
    assert_eq!(ends[0].0, "task_completed", "{ends:?}");
    assert_eq!((&ends[1].1["failure_reason"], &ends[1].1["exit_code"]), (&json!("container_exit"), &json!(7)));
    assert!(scene.is_silent(), "each end is told once");
    let lists = lists.lock().unwrap();
    for kind in ["jobs", "pods"] {
        let mut times = lists.iter().filter(|(path, _)| path.ends_with(kind)).map(|(_, at)| *at);
        let first = times.next().expect("a first list");
        let apart: Vec<_> = times.scan(first, |last, at| Some(at - std::mem::replace(last, at))).collect();
        assert!(apart.len() > 2, "it lists again");
        // What is a second apart here may come a little closer there.
        assert!(apart.iter().all(|apart| *apart > Duration::from_millis(800)), "{kind}: {apart:?}");
    }
    drop(lists);
    place.has_jobs(1);
    scene.leave();
}
