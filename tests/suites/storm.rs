//! A connection that keeps failing while tasks flow: nothing is lost, nothing runs twice, order is kept.

use std::{collections::BTreeMap, fs, time::Instant};

use oz_worker_tests::{BOUND, connection::Received, message::Assignment, worker::Launch};
use serde_json::Value;

use crate::scene::Scene;

const DROPS: usize = 20;

/// What the server heard of one task, in order.
#[derive(Default)]
struct Heard {
    claims: usize,
    ends: usize,
}

struct Storm {
    scene: Scene,
    heard: BTreeMap<String, Heard>,
    assigned: usize,
}

impl Storm {
    /// Reads one frame. Gives the payload of a Pong.
    fn read(&mut self) -> Option<Vec<u8>> {
        match self.scene.session.next_until(Instant::now() + BOUND) {
            Some(Received::Text(text)) => self.hear(&text),
            Some(Received::Ping(_)) => {}
            Some(Received::Pong(payload)) => return Some(payload),
            other => self.scene.session.fail(&format!("the worker says nothing more: {other:?}")),
        }
        None
    }

    fn hear(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap();
        let task_id = message["data"]["task_id"].as_str().unwrap();
        let heard = self.heard.entry(task_id.to_owned()).or_default();
        match message["type"].as_str().unwrap() {
            "task_claimed" => heard.claims += 1,
            "task_completed" => {
                assert!(heard.claims > 0, "the end of {task_id} came before its claim");
                heard.ends += 1;
            }
            other => panic!("{other} for {task_id}: {text}"),
        }
    }

    /// Assigns so many tasks, one after the other. Reads each claim before the next, or leaves everything unread.
    fn flow(&mut self, count: usize, reading: bool) {
        for _ in 0..count {
            let task_id = format!("T{:05}", self.assigned);
            self.assigned += 1;
            self.scene.session.send(Assignment::new(&task_id).run(r#"echo "$TASK_ID" >> "$dir/ran"; say ran"#));
            while reading && self.heard.get(&task_id).is_none_or(|heard| heard.claims == 0) {
                self.read();
            }
        }
        if !reading {
            // Most of them run by now, and some are under way.
            let half = self.assigned - count / 2;
            self.scene.agent.wait_for(&format!("T{half:05}"), "ran");
        }
    }

    fn untold(&self) -> usize {
        self.heard.values().filter(|heard| heard.ends == 0).count()
    }
}

#[test]
fn dropped_connections_lose_nothing_and_run_nothing_twice() {
    let mut storm = Storm { scene: Scene::with(Launch::with_metrics), heard: BTreeMap::new(), assigned: 0 };
    for drop in 0..DROPS {
        storm.flow(30, true);
        storm.flow(10, false);
        if drop % 2 == 0 {
            storm.scene.session.reset();
        } else {
            storm.scene.session.hang_up();
        }
        // The old session is held until the next one is there: so a FIN stays a FIN.
        storm.scene.accept_again();
    }

    // The last session stays. Every claim stands before the answer to this Ping, and every end comes.
    storm.scene.session.ping(b"claimed");
    while storm.read().is_none_or(|payload| payload != b"claimed") {}
    while storm.untold() > 0 {
        storm.read();
    }

    let ran = storm.scene.agent.path("ran");
    let text = fs::read_to_string(&ran).unwrap();
    let mut tasks: Vec<&str> = text.lines().collect();
    let runs = tasks.len();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), runs, "a task ran twice");
    assert!(runs > storm.assigned / 2, "only {runs} of {} assigned tasks ran", storm.assigned);
    // Nothing was made up: whatever was claimed ran, and whatever ran was claimed and ended.
    let claimed: Vec<&str> = storm.heard.keys().map(String::as_str).collect();
    assert_eq!(claimed, tasks);
    let runs = f64::from(u32::try_from(runs).unwrap());
    let scrape = storm.scene.worker.scrape();
    assert_eq!(scrape.value("oz_worker_tasks_completed_total", &[("result", "succeeded")]), runs);
    assert_eq!(scrape.value("oz_worker_tasks_active", &[]), 0.0);
    let reason = [("reason", "remote_close")];
    assert_eq!(scrape.value("oz_worker_websocket_reconnects_total", &reason), f64::from(u32::try_from(DROPS).unwrap()));
    storm.scene.still_works("after-the-storm");
}
