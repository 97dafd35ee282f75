//! What a program under test writes, line by line as it comes.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Lines of one output stream, as they come.
#[derive(Default)]
pub(crate) struct Log {
    text: Mutex<Text>,
    arrived: Condvar,
}

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    is_complete: bool,
}

impl Log {
    /// Reads `from` to its end on a thread of its own.
    pub(crate) fn fill(log: &Arc<Self>, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = Arc::clone(log);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                line.clear();
                log.text().lines.push(text);
                log.arrived.notify_all();
            }
            log.text().is_complete = true;
            log.arrived.notify_all();
        })
    }

    /// What has come so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.text().lines.clone()
    }

    /// A line by its number; waits for it. `None` when the stream ends before it.
    pub(crate) fn line(&self, number: usize) -> Option<String> {
        let mut text = self.text();
        loop {
            match text.lines.get(number) {
                Some(line) => return Some(line.clone()),
                None if text.is_complete => return None,
                None => text = self.arrived.wait(text).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The first line that holds `wanted`, waited for. `None` when it does not come within `bound`, or cannot come any more.
    pub(crate) fn wait_for(&self, wanted: &str, bound: Duration) -> Option<String> {
        let deadline = Instant::now() + bound;
        let mut seen = 0;
        let mut text = self.text();
        loop {
            if let Some(line) = text.lines.iter().skip(seen).find(|line| line.contains(wanted)) {
                return Some(line.clone());
            }
            seen = text.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || text.is_complete {
                return None;
            }
            text = self.arrived.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the end of it, for a test that fails.
    pub(crate) fn show(&self, whose: &str) {
        let lines = self.lines();
        eprintln!("--- the log of {whose}, last {} of {} lines ---", lines.len().min(80), lines.len());
        for line in lines.iter().skip(lines.len().saturating_sub(80)) {
            eprintln!("{}", line.get(..400).unwrap_or(line));
        }
    }
}
