//! A scrape of the worker, beside `tiny_http` that serves the same bytes from memory.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::BOUND;
use rustix::net::sockopt::set_tcp_quickack;
use tiny_http::{Response, Server};

use crate::{
    Effort,
    report::{self, Report, Row, Samples, micros, times},
    scene::{Agents, Launch},
};

/// Scrapes of the one and of the other take turns, so that both see the same machine.
const PER_TURN: usize = 25;

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("scrape, on a connection that is kept");
    let agents = Agents::new();
    let mut scene = Launch::new(&agents.exits_at_once(), 0).start();
    scene.peer.sync();
    let mut worker = Client::connect(&scene.metrics, "").unwrap();
    let body = worker.scrape().unwrap();
    let mut bare = Client::connect(&serve(body.clone()), "").unwrap();
    let mut zipped = Client::connect(&scene.metrics, "Accept-Encoding: gzip\r\n").unwrap();

    // With the warm-up fewer than the 1,000 requests that the worker answers on one connection.
    let turns = effort.pick(38, 20);
    let (mut of_worker, mut of_bare, mut of_zipped) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=turns {
        let samples = [&mut worker, &mut bare, &mut zipped].map(|client| client.times(PER_TURN).unwrap());
        // The first turn warms up.
        if turn > 0 {
            let [worker, bare, zipped] = samples;
            of_worker.extend(worker);
            of_bare.extend(bare);
            of_zipped.extend(zipped);
        }
    }
    assert_eq!(bare.scrape().unwrap(), body);
    scene.stop(|| ());

    let (worker, bare, zipped) = (Samples::new(of_worker), Samples::new(of_bare), Samples::new(of_zipped));
    for (percent, limit) in [(50, 3.0), (99, 10.0)] {
        let (scrape, served) = (worker.percentile(percent), bare.percentile(percent));
        let ratio = times(scrape, served);
        Row::new(&format!("p{percent} of {} bytes", body.len()), micros(scrape))
            .beside(&format!("p{percent} of tiny_http, from memory"), &micros(served), ratio)
            .at_most(ratio, limit, " ×")
            .print(report);
    }
    report::note(&format!("{} samples each; gzipped p50 {}", turns * PER_TURN, micros(zipped.median())));
}

/// `tiny_http` with one body, on a thread of its own.
fn serve(body: Vec<u8>) -> String {
    let server = Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_string();
    thread::spawn(move || {
        for request in server.incoming_requests() {
            // Whole, as the worker sends it.
            let _ = request.respond(Response::from_data(body.clone()).with_chunked_threshold(usize::MAX));
        }
    });
    address
}

/// A scraper that keeps its connection.
struct Client {
    connection: BufReader<TcpStream>,
    request: String,
}

impl Client {
    fn connect(address: &str, headers: &str) -> io::Result<Self> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(BOUND))?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        Ok(Self { connection: BufReader::with_capacity(1 << 16, tcp), request })
    }

    fn times(&mut self, count: usize) -> io::Result<Vec<Duration>> {
        let one = |_| {
            let start = Instant::now();
            self.scrape()?;
            Ok(start.elapsed())
        };
        (0..count).map(one).collect()
    }

    /// The body of one answer.
    fn scrape(&mut self) -> io::Result<Vec<u8>> {
        self.connection.get_ref().write_all(self.request.as_bytes())?;
        // `tiny_http` writes head and body one after the other and waits between them for an acknowledgement, which is put
        // off by 40 ms on a connection that is kept: the system is asked not to, each time, since every write undoes it.
        set_tcp_quickack(self.connection.get_ref(), true)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.connection.read_line(&mut line)?;
            let (name, value) = line.trim_end().split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line.trim_end().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.connection.read_exact(&mut body)?;
        Ok(body)
    }
}
