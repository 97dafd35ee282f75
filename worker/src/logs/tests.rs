//! The log as a whole, with a sink that a test can hold up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use tracing::{debug, error, info, warn};

use super::*;

const BOUND: Duration = Duration::from_secs(30);

/// A sink that keeps what is written, and begins each write only when the test lets it.
struct Gate {
    written: Arc<Mutex<Vec<u8>>>,
    began: Sender<()>,
    go: Receiver<()>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.began.send(());
        // A test that has let go of its end lets everything through.
        let _ = self.go.recv();
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Log {
    logger: Logger,
    written: Arc<Mutex<Vec<u8>>>,
    began: Receiver<()>,
    go: Sender<()>,
}

impl Log {
    /// A log whose writer is held up from its first write on.
    fn stuck(level: LogLevel, format: LogFormat) -> Self {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (began_send, began) = channel();
        let (go, go_receive) = channel();
        let sink = Gate { written: Arc::clone(&written), began: began_send, go: go_receive };
        let logger = Logger::start(level, Style::new(format, false), sink).unwrap();
        Self { logger, written, began, go }
    }

    /// Lets everything through and gives the lines.
    fn lines(self) -> Vec<String> {
        drop(self.go);
        assert!(self.logger.queue.flush(BOUND));
        let written = self.written.lock().unwrap();
        String::from_utf8(written.clone()).unwrap().lines().map(str::to_owned).collect()
    }

    fn output(&self, budget: &OutputBudget, task_id: &str, line: &str) {
        self.logger.output(budget, Label { task_id, trace_id: None }, line.as_bytes(), 0);
    }

    fn events(&self, emit: impl FnOnce()) {
        tracing::subscriber::with_default(self.logger.clone(), emit);
    }
}

/// The line without its time.
fn untimed(line: &str) -> &str {
    line.get(25..).unwrap_or(line)
}

#[test]
fn events_become_lines_with_their_fields() {
    let log = Log::stuck(LogLevel::Debug, LogFormat::Text);
    log.events(|| {
        let source = io::Error::other("no route\nto host");
        info!(target: "oz_worker::link", attempt = 3, wait = ?Duration::from_secs(2), "dialling");
        warn!(target: "oz_agent_worker", error = &source as &dyn std::error::Error, up = false, "dial failed: {}", "x\ny");
        error!(target: "oz_worker_telemetry", ratio = 0.5, nan = f64::NAN, id = %"a b");
        debug!(target: "oz_worker", "detail");
    });
    let lines = log.lines();
    let lines: Vec<_> = lines.iter().map(|line| untimed(line)).collect();
    assert_eq!(
        lines,
        [
            " INFO dialling attempt=3 wait=2s",
            " WARN dial failed: x\\ny error=\"no route\\nto host\" up=false",
            "ERROR  ratio=0.5 nan=NaN id=\"a b\"",
            "DEBUG detail",
        ]
    );
}

#[test]
fn json_events_have_their_fields_beside_the_message() {
    let log = Log::stuck(LogLevel::Info, LogFormat::Json);
    log.events(|| info!(target: "oz_worker", tasks = 3_u64, id = "a\"b", nan = f64::NAN, "claimed"));
    let lines = log.lines();
    let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let time = event["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    let mut rest = event.clone();
    rest.as_object_mut().unwrap().remove("time");
    let expected = serde_json::json!({"level": "info", "message": "claimed", "tasks": 3, "id": "a\"b", "nan": "NaN"});
    assert_eq!(rest, expected);
}

#[test]
fn only_our_crates_and_the_chosen_level_are_logged() {
    let log = Log::stuck(LogLevel::Warn, LogFormat::Text);
    log.events(|| {
        error!(target: "rustls::client", "secret");
        error!(target: "opentelemetry_sdk", "spam");
        info!(target: "oz_worker", "too fine");
        debug!(target: "oz_worker", "far too fine");
        warn!(target: "oz_worker", "kept");
    });
    log.output(&OutputBudget::new(), "t", "too fine");
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(untimed(&lines[0]), " WARN kept");
}

#[test]
fn a_stuck_standard_error_holds_nobody_up_and_what_is_dropped_is_counted() {
    let log = Log::stuck(LogLevel::Info, LogFormat::Text);
    let text = "x".repeat(1000);
    log.events(|| {
        info!(target: "oz_worker", "first");
        log.began.recv_timeout(BOUND).unwrap();
        for _ in 0..5000 {
            info!(target: "oz_worker", "{text}");
        }
    });
    assert!(!log.logger.queue.flush(Duration::ZERO));
    let logger = log.logger.clone();
    let lines = log.lines();
    let kept = lines.iter().filter(|line| line.ends_with("xxx")).count();
    assert!((900..1048).contains(&kept), "{kept}");
    let note = lines.last().unwrap();
    let expected = format!(" WARN log lines dropped: standard error was not read fast enough lines={}", 5000 - kept);
    assert_eq!(untimed(note), expected);
    assert!(logger.queue.flush(BOUND));
}

#[test]
fn one_task_cannot_crowd_out_another_or_the_worker() {
    let log = Log::stuck(LogLevel::Info, LogFormat::Text);
    let (flood, quiet) = (OutputBudget::new(), OutputBudget::new());
    let line = "x".repeat(967);
    log.output(&flood, "flood", &line);
    log.began.recv_timeout(BOUND).unwrap();
    for _ in 0..100_000 {
        log.output(&flood, "flood", &line);
    }
    log.output(&quiet, "quiet", "still here");
    log.events(|| warn!(target: "oz_worker", "still here too"));
    log.logger.output_end(&flood, Label { task_id: "flood", trace_id: None });
    log.logger.output_end(&quiet, Label { task_id: "quiet", trace_id: None });
    let lines = log.lines();
    let kept = lines.iter().filter(|line| line.contains("flood | x")).count();
    let held: usize = lines.iter().filter(|line| line.contains("flood | x")).map(|line| line.len() + 1).sum();
    assert!(held <= queue::TASK_SHARE as usize && kept > 30, "{kept} lines, {held} bytes");
    let rest: Vec<_> = lines.iter().filter(|line| !line.contains("| x")).map(|line| untimed(line)).collect();
    let dropped = 100_001 - kept;
    assert_eq!(
        rest,
        [
            " INFO quiet | still here".to_owned(),
            " WARN still here too".to_owned(),
            format!(
                " WARN output lines dropped: the task wrote faster than the log could task_id=flood lines={dropped}"
            ),
        ]
    );
}

#[test]
fn dropped_lines_are_told_where_they_are_missing_once_there_is_room() {
    let log = Log::stuck(LogLevel::Info, LogFormat::Text);
    let budget = OutputBudget::new();
    let line = "x".repeat(LONGEST_LINE);
    log.output(&budget, "t", "first");
    log.began.recv_timeout(BOUND).unwrap();
    for _ in 0..4 {
        log.output(&budget, "t", &line);
    }
    // The next batch begins, so there is room for the task again.
    log.go.send(()).unwrap();
    log.began.recv_timeout(BOUND).unwrap();
    log.output(&budget, "t", "last");
    log.logger.output_end(&budget, Label { task_id: "t", trace_id: None });
    let lines = log.lines();
    let tails: Vec<_> = lines.iter().map(|line| untimed(line).get(..40).unwrap_or(untimed(line))).collect();
    assert_eq!(
        tails,
        [
            " INFO t | first",
            " INFO t | xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            " WARN output lines dropped: the task wro",
            " INFO t | last",
        ]
    );
    assert!(lines[2].ends_with("task_id=t lines=3"), "{}", lines[2]);
}

#[test]
fn all_tasks_together_leave_room_for_the_worker() {
    let log = Log::stuck(LogLevel::Info, LogFormat::Text);
    log.output(&OutputBudget::new(), "t", "first");
    log.began.recv_timeout(BOUND).unwrap();
    let line = "x".repeat(LONGEST_LINE);
    for _ in 0..200 {
        log.output(&OutputBudget::new(), "t", &line);
    }
    log.events(|| warn!(target: "oz_worker", "there is room"));
    let lines = log.lines();
    assert_eq!(untimed(lines.last().unwrap()), " WARN there is room");
    assert!(lines.iter().map(String::len).sum::<usize>() <= queue::CAPACITY / 4 * 3 + 100);
}

#[test]
fn an_event_inside_a_fields_debug_does_not_deadlock() {
    struct Chatty;
    impl fmt::Debug for Chatty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            info!(target: "oz_worker", "inner");
            f.write_str("chatty")
        }
    }
    let log = Log::stuck(LogLevel::Info, LogFormat::Text);
    log.events(|| info!(target: "oz_worker", value = ?Chatty, "outer"));
    let lines = log.lines();
    assert_eq!(untimed(lines.last().unwrap()), " INFO outer value=chatty");
}
