//! Workers that are killed with SIGKILL at any moment, one after the other, each with several tasks.
//!
//! What a worker was killed over before its engine had made a container is on no record: such a task has no end. It is counted
//! apart, and must never have run.

use std::{
    collections::BTreeMap,
    env, fs,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    connection::{Connection, Received},
    message::Assignment,
    peers::{
        docker::Engine,
        events::{Events, Happened},
    },
    server::{Request, Server},
    worker::{Launch, Worker},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::scene::{AGENT, ENGINE_BOUND, shell_root, task};

/// How many workers are killed, unless `KILLS` says otherwise.
const KILLS: u64 = 15;
/// What the moments are made of, unless `SEED` says otherwise.
const SEED: u64 = 7;
/// How many tasks a worker has at once, beside those that it takes up.
const AT_ONCE: usize = 4;
/// How long a worker lives at the most, in milliseconds.
const LONGEST_LIFE: u64 = 1500;
/// How long the last one may take to clear up after all others.
const CALM: Duration = Duration::from_secs(120);
/// An image that wants a volume nobody named.
const IMAGE: &str = "oz-test/kills:1";

/// The numbers of `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// All that was seen of workers with one id.
struct Story {
    server: Server,
    chance: Chance,
    /// Which worker it is.
    life: u32,
    /// How many tasks were assigned: each is named after its number.
    assigned: usize,
    /// The ends that were told of each task, and the life of the worker that told them.
    ends: BTreeMap<String, Vec<(u32, Value)>>,
}

fn name(number: usize) -> String {
    format!("K{number}")
}

/// How a task ends: hardly two at once in the same way.
fn exit_code(number: usize) -> i64 {
    i64::try_from(number % 120).unwrap()
}

impl Story {
    fn assignment(&mut self) -> Assignment {
        let (number, millis) = (self.assigned, self.chance.below(500));
        self.assigned += 1;
        let script = format!("echo run >> /mnt/out/$TASK_ID; sleep 0.{millis:03}; exit {}", exit_code(number));
        let task = task(&name(number), &script).with("docker_image", IMAGE.into());
        // A copy of its own has a volume, and two containers for a while.
        let own = json!([{"image": AGENT, "mount_path": "/mnt/own", "read_write": true}]);
        if number.is_multiple_of(5) { task.with("additional_sidecars", own) } else { task }
    }

    /// Hears what comes until then, and keeps the worker busy if it is to be.
    fn hear(&mut self, session: &mut Option<Connection>, until: Instant, is_busy: bool) {
        let mut under_way = 0;
        loop {
            let Some(connection) = session else {
                let left = until.saturating_duration_since(Instant::now());
                match self.server.try_request(left).and_then(Request::try_upgrade) {
                    Ok(connection) => *session = Some(connection),
                    // It was killed while it asked.
                    Err(_) if Instant::now() < until => {}
                    Err(_) => return,
                }
                continue;
            };
            while is_busy && under_way < AT_ONCE {
                connection.send(self.assignment());
                under_way += 1;
            }
            match connection.next_until(until) {
                Some(Received::Text(text)) => under_way -= usize::from(self.note(&text)).min(under_way),
                Some(Received::Ping(_) | Received::Pong(_)) => {}
                Some(_) => *session = None,
                None => return,
            }
        }
    }

    /// Notes a message. Whether it ends a task.
    fn note(&mut self, text: &str) -> bool {
        let message: Value = serde_json::from_str(text).unwrap();
        let is_end = match message["type"].as_str() {
            Some("task_completed" | "task_failed") => true,
            Some("task_claimed") => false,
            _ => panic!("a worker that has room for every task says {message}"),
        };
        if is_end {
            let task_id = message["data"]["task_id"].as_str().unwrap().to_owned();
            self.ends.entry(task_id).or_default().push((self.life, message));
        }
        is_end
    }

    /// A worker that is killed some time after its start.
    fn is_killed(&mut self, launch: &Launch) -> Worker {
        self.life += 1;
        let mut worker = launch.start();
        let until = Instant::now() + Duration::from_millis(self.chance.below(LONGEST_LIFE));
        let mut session = None;
        self.hear(&mut session, until, true);
        worker.kill();
        // What it sent is on its way, and so may be its dial.
        self.hear(&mut session, Instant::now(), false);
        worker
    }

    /// The last worker: it has nothing to do but what the others left.
    fn is_left_in_peace(&mut self, launch: &Launch, engine: &Engine) -> Worker {
        self.life += 1;
        let worker = launch.start();
        let mut session = None;
        let until = Instant::now() + CALM;
        let label = format!("label=oz-agent-worker.worker-id={}", launch.id());
        let all = ["ps", "--all", "--format", "{{.Names}}", "--filter", &label];
        loop {
            self.hear(&mut session, Instant::now() + Duration::from_millis(500), false);
            // Ends are told before containers go. What the engine made late goes some seconds later.
            let keeps_a_volume = |name: &str| name.starts_with("oz-agent-worker.whole.");
            if session.is_some() && engine.docker(all).lines().all(keeps_a_volume) {
                break;
            }
            assert!(Instant::now() < until, "containers are left");
        }
        self.hear(&mut session, Instant::now() + Duration::from_millis(500), false);
        worker.signal(Signal::TERM);
        session.unwrap().expect_end_within(ENGINE_BOUND);
        worker
    }

    /// What must be true of a task. What became of it, in a word.
    fn judge(&self, number: usize, happened: Happened, runs: usize) -> Result<&'static str, String> {
        let none = Vec::new();
        let (code, ends) = (exit_code(number), self.ends.get(&name(number)).unwrap_or(&none));
        let said = |what: &str| {
            Err(format!("{} (exit code {code}): {what}: {happened:?}, ran {runs} times, {ends:?}", name(number)))
        };
        if happened.started > 1 || runs > 1 {
            return said("it ran twice");
        }
        if happened.started != runs {
            return said("the agent and the engine disagree");
        }
        let is_true = |(_, end): &(u32, Value)| match (runs, code) {
            (0, _) => end["data"]["failure_reason"] == "container_start",
            (_, 0) => end["type"] == "task_completed",
            _ => end["data"]["failure_reason"] == "container_exit" && end["data"]["exit_code"] == code,
        };
        if !ends.iter().all(is_true) {
            return said("an end that is not true");
        }
        match (ends.as_slice(), runs) {
            ([], 1..) => said("it ran and has no end"),
            ([], _) => Ok("no container was started, and no end"),
            ([_], 0) => Ok("told not to have started"),
            ([_], _) => Ok("ended once"),
            // Killed between an end and the removal of its container.
            (all, _) if all.is_sorted_by(|(one, _), (next, _)| one < next) => Ok("told again by another worker"),
            _ => said("one worker told two ends"),
        }
    }
}

pub fn again_and_again(engine: &Engine) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (kills, seed) = (number("KILLS").unwrap_or(KILLS), number("SEED").unwrap_or(SEED));
    engine.import(IMAGE, shell_root().path(), &["ENV PATH=/bin", "VOLUME /data"]);
    let out = tempfile::tempdir().unwrap();
    let events = Events::of_tasks(engine);
    let server = Server::start();
    let launch = Launch::dialling(&server.url())
        .backend("docker", &json!({"pull_policy": "if-not-present"}))
        .env("DOCKER_HOST", &engine.host())
        .flags(["-v", &format!("{}:/mnt/out", out.path().display())]);
    let mut story = Story { server, chance: Chance(seed), life: 0, assigned: 0, ends: BTreeMap::new() };
    let mut workers: Vec<Worker> = (0..kills).map(|_| story.is_killed(&launch)).collect();
    let mut last = story.is_left_in_peace(&launch, engine);
    assert!(last.exit_within(ENGINE_BOUND).success());
    workers.push(last);
    events.everything();

    let (mut became, mut wrong) = (BTreeMap::<_, u32>::new(), Vec::new());
    for number in 0..story.assigned {
        let name = name(number);
        let runs = fs::read_to_string(out.path().join(&name)).unwrap_or_default().lines().count();
        match story.judge(number, events.of(&name), runs) {
            Ok(word) => *became.entry(word).or_default() += 1,
            Err(problem) => {
                let lines: Vec<_> = workers
                    .iter()
                    .enumerate()
                    .map(|(life, worker)| (life + 1, worker.lines_with(&name)))
                    .filter(|(_, lines)| !lines.is_empty())
                    .collect();
                wrong.push(format!("{problem}\n{lines:#?}"));
            }
        }
    }
    println!("{kills} kills, SEED={seed}: {} tasks: {became:?}", story.assigned);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A worker that is never up for long enough shows nothing.
    assert!(became.get("ended once").is_some_and(|ended| u64::from(*ended) > kills / 2), "{became:?}");
}
