//! `/livez` and `/readyz` of a running worker: what they say as it goes through its life, and what clients cannot do to it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    BOUND,
    agent::Agent,
    message::Assignment,
    metrics::Scrape,
    server::Server,
    worker::{Launch, Worker, http_get, try_http_get},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::scene::Scene;

/// Longer than the run loop ever waits (30 s, for its next Ping) and what it may be late (15 s).
const STUCK: Duration = Duration::from_secs(90);

fn probe(worker: &Worker, path: &str) -> (u16, String) {
    http_get(&worker.metrics_address(), path)
}

/// What is said once the run loop has dealt with everything that the server has sent: an answer proves it.
fn probe_settled(scene: &mut Scene, path: &str) -> (u16, String) {
    scene.session.ping(b"settled");
    scene.session.expect_pong(b"settled");
    probe(&scene.worker, path)
}

/// Asks whether the worker is alive until this is the status; gives the body. Only time makes a worker that is stuck one that
/// is not alive, and nobody tells when: between two questions the only thing to wait for is the worker's end.
fn wait_for_life(worker: &Worker, status: u16, bound: Duration) -> String {
    let deadline = Instant::now() + bound;
    loop {
        let (now, body) = probe(worker, "/livez");
        if now == status {
            return body;
        }
        assert!(Instant::now() < deadline, "/livez says {now} {body:?}, not {status}");
        assert!(!worker.has_ended_within(Duration::from_millis(200)), "the worker has ended");
    }
}

/// Of a thread of another process, the main one: stops it and no other.
struct Stopped(i32);

impl Stopped {
    #[expect(unsafe_code, reason = "stopping one thread of a process is a matter between the kernel and its debugger")]
    fn new(pid: i32) -> Self {
        // SAFETY: neither request reads or writes memory of this process.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0), 0, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0), 0);
            assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL), pid);
        }
        Self(pid)
    }
}

impl Drop for Stopped {
    #[expect(unsafe_code, reason = "as above")]
    fn drop(&mut self) {
        // SAFETY: as above. It may have been killed, and then there is nothing to let go.
        let _ = unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

#[test]
fn a_worker_is_ready_while_it_is_connected_and_has_a_free_slot() {
    let (server, agent) = (Server::start(), Agent::new());
    let launch = Launch::direct(&server, &agent).with_metrics();
    let flags = ["--max-concurrent-tasks", "1", "--drain-timeout", "60s"];
    let worker = launch.flags(flags).start();
    // Dialled, and not answered.
    let dial = server.request();
    let (status, reason) = probe(&worker, "/readyz");
    assert!(
        status == 503
            && reason.starts_with("not connected for")
            && reason.ends_with("the first dial has not ended yet\n"),
        "{status} {reason}"
    );
    assert_eq!(probe(&worker, "/livez"), (200, "ok\n".to_owned()), "alive without a connection");

    let mut scene = Scene { worker, session: dial.upgrade(), server, agent };
    let ready = (200, "ok\n".to_owned());
    assert_eq!(probe_settled(&mut scene, "/readyz"), ready);
    scene.claim(&Assignment::new("T1").run("gate"));
    assert_eq!(probe_settled(&mut scene, "/readyz"), (503, "every slot is taken: 1 of 1\n".to_owned()));
    scene.agent.open_gate();
    scene.end_of("T1");
    assert_eq!(probe_settled(&mut scene, "/readyz"), ready);

    scene.session.hang_up();
    // It dials because it knows that the connection is gone.
    let dial = scene.server.request();
    let (status, reason) = probe(&scene.worker, "/readyz");
    assert!(status == 503 && reason.starts_with("not connected for "), "{status} {reason}");
    scene.session = dial.upgrade();
    assert_eq!(probe_settled(&mut scene, "/readyz"), ready);
    scene.claim(&Assignment::new("T2").run("say started; gate"));
    scene.agent.wait_for("T2", "started");
    scene.worker.signal(Signal::TERM);
    scene.worker.wait_for_line("draining");
    let draining = (503, "draining: no new task is taken, 1 may finish\n".to_owned());
    assert_eq!(probe_settled(&mut scene, "/readyz"), draining);
    assert_eq!(probe(&scene.worker, "/livez").0, 200, "draining is no reason to be killed");
    scene.agent.open_gate();
    scene.end_of("T2");
}

#[test]
fn a_worker_whose_run_loop_hangs_is_not_alive() {
    let scene = Scene::with(Launch::with_metrics);
    assert_eq!(probe(&scene.worker, "/livez").0, 200);
    let stopped = Stopped::new(scene.worker.pid());
    // Where the run loop waits for everybody, whatever waits with it is told of too.
    let deadline = Instant::now() + STUCK;
    while !wait_for_life(&scene.worker, 503, STUCK).contains("the run loop is stuck: ") {
        assert!(Instant::now() < deadline, "others are told of, and not the run loop");
    }
    drop(stopped);
    wait_for_life(&scene.worker, 200, BOUND);
}

#[test]
fn probes_may_ask_for_the_head_alone() {
    let scene = Scene::with(Launch::with_metrics);
    for path in ["/livez", "/readyz", "/metrics", "/"] {
        let mut stream = TcpStream::connect(scene.worker.metrics_address()).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        write!(stream, "HEAD {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
}

fn descriptors(pid: i32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().parse().unwrap()).collect()
}

fn limit_descriptors(pid: i32, limit: u64) -> Rlimit {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    prlimit(Pid::from_raw(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap()
}

/// Scrapes as often as it takes: with one descriptor for all clients, one that is slow on a busy machine may be closed for
/// the next, and a scraper comes again.
fn scrape_soon(address: &str) -> String {
    let deadline = Instant::now() + BOUND;
    loop {
        match try_http_get(address, "/metrics") {
            Ok((200, text)) => return text,
            other if Instant::now() > deadline => panic!("never scraped, lately: {other:?}"),
            _ => {}
        }
    }
}

#[test]
fn a_worker_without_a_free_file_descriptor_is_still_scraped_whatever_hundreds_of_clients_do() {
    let mut scene = Scene::with(Launch::with_metrics);
    let (pid, address) = (scene.worker.pid(), scene.worker.metrics_address());
    scene.worker.scrape();
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let (threads_before, descriptors_before) = (threads(), descriptors(pid));
    // The lowest that is free, which the next one to be opened would get.
    let limit =
        (0..=descriptors_before.len() as u64).find(|descriptor| !descriptors_before.contains(descriptor)).unwrap();
    let before = limit_descriptors(pid, limit);
    let clients: Vec<TcpStream> = (0..250)
        .map(|count| {
            let mut client = TcpStream::connect(&address).unwrap();
            if count % 2 == 0 {
                // The worker may have closed it already, to make room.
                let _ = client.write_all(b"GET /metrics HTTP/1.1\r\nHost: half");
            }
            client
        })
        .collect();
    for _ in 0..20 {
        let text = scrape_soon(&address);
        assert_eq!(Scrape::parse(&text).value("oz_worker_connected", &[]), 1.0);
    }
    assert!(descriptors(pid).iter().all(|descriptor| descriptors_before.contains(descriptor)));
    assert_eq!(threads(), threads_before);
    prlimit(Pid::from_raw(pid), Resource::Nofile, before).unwrap();
    drop(clients);
    scene.still_works("T1");
}
