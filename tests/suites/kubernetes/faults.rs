//! An API server whose answers are lost, put off or refused for now.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use oz_worker_tests::server::Server;
use serde_json::json;

use super::scene::{Place, Scene, task};

/// Too many requests, for a second.
const BUSY: &str = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What becomes of a request.
enum Fate {
    Passes,
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
        Fate::Fails(code, message) => {
            let body =
                json!({"kind": "Status", "reason": "InternalError", "code": code, "message": message}).to_string();
            let head = format!("HTTP/1.1 {code} Error\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            return client.write_all(format!("{head}{body}").as_bytes());
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
    let server = Server::start();
    let launch = place.launch(&server);
    let kubeconfig = json!({
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "contexts": [{"name": "x", "context": {"cluster": "c"}}],
        "current-context": "x",
    });
    let path = launch.dir().join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    let mut scene = Scene::of(server, launch.config("kubeconfig", path.to_str().unwrap()));
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
