//! A connection that keeps failing while tasks flow: nothing is lost, nothing runs twice, order is kept.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use oz_worker_tests::{connection::Received, message::Assignment, worker::Launch};
use serde_json::Value;

use crate::scene::Scene;

const DROPS: usize = 20;

/// Between two assignments: 100 a second.
const GAP: Duration = Duration::from_millis(10);

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
    /// Reads what comes until `deadline`.
    fn read_until(&mut self, deadline: Instant) {
        while let Some(frame) = self.scene.session.next_until(deadline) {
            match frame {
                Received::Text(text) => self.hear(&text),
                Received::Ping(_) | Received::Pong(_) => {}
                other => self.scene.session.fail(&format!("the worker ended the session: {other:?}")),
            }
        }
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

    /// Assigns 100 tasks a second for a while; reads on the way, or leaves everything unread.
    fn flow(&mut self, duration: Duration, reading: bool) {
        let until = Instant::now() + duration;
        let mut next = Instant::now();
        while next < until {
            let task_id = format!("T{:05}", self.assigned);
            self.assigned += 1;
            self.scene.session.send(Assignment::new(&task_id).run(r#"echo "$TASK_ID" >> "$dir/ran""#));
            next += GAP;
            if reading {
                self.read_until(next);
            } else {
                // Keeps the pace; nothing is awaited.
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
    }
}

#[test]
fn dropped_connections_lose_nothing_and_run_nothing_twice() {
    let mut storm = Storm { scene: Scene::with(Launch::with_metrics), heard: BTreeMap::new(), assigned: 0 };
    for drop in 0..DROPS {
        storm.flow(Duration::from_millis(300), true);
        storm.flow(Duration::from_millis(100), false);
        if drop % 2 == 0 {
            storm.scene.session.reset();
        } else {
            storm.scene.session.hang_up();
        }
        // The old session is held until the next one is there: so a FIN stays a FIN.
        storm.scene.accept_again();
    }

    // The last session stays. What was claimed ends; what ended is told, sooner or later.
    let ran = storm.scene.agent.path("ran");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        storm.read_until(Instant::now() + Duration::from_millis(100));
        let active = storm.scene.worker.scrape().value("oz_worker_tasks_active", &[]);
        let text = fs::read_to_string(&ran).unwrap();
        let untold = text.lines().filter(|task| storm.heard.get(*task).is_none_or(|heard| heard.ends == 0)).count();
        if active == 0.0 && untold == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{active} tasks active, {untold} ends untold");
    }

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
    let scrape = storm.scene.worker.scrape();
    let completed = scrape.value("oz_worker_tasks_completed_total", &[("result", "succeeded")]);
    assert_eq!(completed, f64::from(u32::try_from(runs).unwrap()));
    let reason = [("reason", "remote_close")];
    assert_eq!(scrape.value("oz_worker_websocket_reconnects_total", &reason), f64::from(u32::try_from(DROPS).unwrap()));
    storm.scene.still_works("after-the-storm");
}
