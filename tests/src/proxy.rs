//! An HTTP CONNECT proxy for tests: records what it is asked for, and leads everybody to one place or refuses.

use std::{
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::{connection::Stream, server::Request};

/// A running proxy on the loopback interface. It lives as long as the test process.
pub struct Proxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Tunnels every CONNECT to `upstream`, whatever host it names: names need not resolve.
    pub fn to(upstream: SocketAddr) -> Self {
        Self::start(move |stream| tunnel(stream, upstream))
    }

    /// Answers every request with this status line and closes.
    pub fn refusing(status: &'static str) -> Self {
        Self::start(move |mut stream| {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes())
        })
    }

    fn start(serve: impl Fn(Stream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a listener has an address");
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let recorded = Arc::clone(&requests);
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (recorded, serve) = (Arc::clone(&recorded), Arc::clone(&serve));
                thread::spawn(move || {
                    let Ok(request) = Request::read(Stream::Plain(tcp)) else { return };
                    let headers: Vec<_> =
                        request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                    let line = format!("{} {}\n{}", request.method, request.target, headers.join("\n"));
                    recorded.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    // A peer that hangs up ends its own tunnel only.
                    let _ = serve(request.into_stream());
                });
            }
        });
        Self { address, requests }
    }

    /// Value for `HTTPS_PROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far: the request line, then the headers, a line each.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn tunnel(mut client: Stream, upstream: SocketAddr) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let client = client.tcp()?.try_clone()?;
    client.set_read_timeout(None)?;
    let (client_too, upstream_too) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || pipe(&client_too, &upstream_too));
    pipe(&upstream, &client);
    Ok(())
}

fn pipe(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
