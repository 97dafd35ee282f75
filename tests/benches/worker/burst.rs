//! A burst of assignments when every slot is taken: each is rejected, beside a peer that answers without thinking.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Effort, proc,
    report::{self, Report, Row, median, per_second},
    scene::{Agents, Launch},
    wire::{ASSIGNMENT_SIZE, Head, assignment_frames, is_claim, task_id},
};

const BURST: usize = 20_000;
/// An assignment's frame.
const FRAME: usize = ASSIGNMENT_SIZE + 4;
// What a rejection is, around the task's id.
const BEFORE_ID: &str = r#"{"type":"task_rejected","data":{"task_id":""#;
const AFTER_ID: &str = r#"","reason":"worker at maximum concurrency"}}"#;

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("20,000 assignments at capacity");
    let agents = Agents::new();
    let mut scene = Launch::new(&agents.script("sleeps", "exec sleep 100000"), 1).start();
    scene.peer.write(&assignment_frames(0..1)[0]);
    assert!(is_claim(scene.peer.text()), "no claim came");
    scene.peer.sync();

    let frames = assignment_frames(1..BURST + 1).concat();
    let expected: BTreeSet<String> = (1..=BURST).map(task_id).collect();
    let idle_peer = answering_peer();
    let (mut worker, mut bare, mut cpu, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=effort.pick(15, 5) {
        let cpu_before = proc::cpu(scene.pid());
        let (mut answers, took) = exchange(scene.peer.tcp(), &frames);
        let cpu_of_round = proc::cpu(scene.pid()).saturating_sub(cpu_before);
        assert_eq!(rejected(&mut answers), expected, "an assignment was not rejected, or not as it should be");
        let (_, bare_took) = exchange(&idle_peer, &frames);
        // The first round warms up.
        if round > 0 {
            worker.push(BURST as f64 / took.wall.as_secs_f64());
            bare.push(BURST as f64 / bare_took.wall.as_secs_f64());
            cpu.push(cpu_of_round.as_nanos() as f64 / BURST as f64);
            own.push(took.own_cpu.as_nanos() as f64 / BURST as f64);
        }
    }
    scene.stop(|| ());
    let (rate, bare_rate) = (median(&worker), median(&bare));
    Row::new("rejections", per_second(rate))
        .beside("a peer that only answers", &per_second(bare_rate), rate / bare_rate)
        .at_least(rate, 150_000.0, "/s")
        .print(report);
    let (cpu, own) = (median(&cpu), median(&own));
    report::note(&format!(
        "every one rejected, none lost; a rejection costs the worker {cpu:.0} ns, this bench {own:.0} ns"
    ));
}

struct Took {
    wall: Duration,
    /// Processor time of this process, both its threads.
    own_cpu: Duration,
}

/// Writes all frames and reads as many answers, at once.
fn exchange(tcp: &TcpStream, frames: &[u8]) -> (Vec<u8>, Took) {
    // Room for all of it: nothing but reading happens while the clock runs.
    let mut answers = vec![0; BURST * 256];
    let cpu_before = proc::cpu_of_this_thread();
    let start = Instant::now();
    let took = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut tcp = tcp;
            tcp.write_all(frames).expect("the peer reads");
            proc::cpu_of_this_thread()
        });
        let (mut end, mut next, mut count) = (0, 0, 0);
        while count < BURST {
            let mut tcp = tcp;
            match tcp.read(&mut answers[end..]).expect("answers come") {
                0 => panic!("the connection ended after {count} answers"),
                length => end += length,
            }
            while let Some(head) = Head::parse(&answers[next..end]) {
                count += usize::from(head.is_text());
                next += head.end();
            }
        }
        let wall = start.elapsed();
        let own_cpu = writer.join().unwrap() + proc::cpu_of_this_thread().saturating_sub(cpu_before);
        answers.truncate(end);
        Took { wall, own_cpu }
    });
    (answers, took)
}

/// The ids in these rejections.
fn rejected(answers: &mut [u8]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut rest = answers;
    while let Some(head) = Head::parse(rest) {
        let (frame, after) = rest.split_at_mut(head.end());
        rest = after;
        if head.is_text() {
            let text = String::from_utf8_lossy(head.unmask(frame)).into_owned();
            let id = text
                .strip_prefix(BEFORE_ID)
                .and_then(|text| text.strip_suffix(AFTER_ID))
                .unwrap_or_else(|| panic!("not a rejection: {text}"));
            assert!(ids.insert(id.to_owned()), "rejected twice: {id}");
        }
    }
    ids
}

/// A connection to a peer that answers each frame with one of the same size as a rejection, as many at a time as it read.
fn answering_peer() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    thread::spawn(move || {
        // A mask of zeros leaves the text as it is.
        let text = [BEFORE_ID, &task_id(0), AFTER_ID].concat();
        let answer = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat();
        let mut chunk = vec![0; 64 * FRAME];
        let answers = answer.repeat(64);
        let mut partial = 0;
        while let Ok(length @ 1..) = far.read(&mut chunk[partial..]) {
            let complete = (partial + length) / FRAME;
            partial = (partial + length) % FRAME;
            if far.write_all(&answers[..complete * answer.len()]).is_err() {
                break;
            }
        }
    });
    near
}
