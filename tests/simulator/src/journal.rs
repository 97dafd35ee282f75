//! What happened, in order: the trace of a run. The same seed gives the same, byte for byte.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::executor::Executor;

/// How such a name begins.
const PREFLIGHT: &str = "oz-preflight-";

/// The trace of a run. A clone is another handle to the same.
#[derive(Clone)]
pub struct Journal {
    executor: Executor,
    /// What each line begins with.
    about: &'static str,
    text: Arc<Mutex<String>>,
}

impl Journal {
    pub fn new(executor: &Executor) -> Self {
        Self { executor: executor.clone(), about: "", text: Arc::default() }
    }

    /// The same trace, with this before each line.
    #[must_use]
    pub fn about(&self, about: &'static str) -> Self {
        Self { about, ..self.clone() }
    }

    /// One more line, with the true time in front.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let now = self.executor.now();
        let line = timeless(line());
        let (hours, rest) = (now.as_secs() / 3600, now.as_secs() % 3600);
        let mut text = self.text.lock().unwrap();
        let _ = writeln!(
            text,
            "{hours:03}:{:02}:{:02}.{:09} {}{line}",
            rest / 60,
            rest % 60,
            now.subsec_nanos(),
            self.about
        );
    }

    pub const fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The true time.
    pub fn now(&self) -> Duration {
        self.executor.now()
    }

    /// Everything so far.
    pub fn take(&self) -> String {
        std::mem::take(&mut self.text.lock().unwrap())
    }
}

/// The name of a preflight's Job ends with the time of the computer that this runs on, which no seed knows.
fn timeless(line: String) -> String {
    let Some(at) = line.find(PREFLIGHT) else { return line };
    let (before, name) = line.split_at(at + PREFLIGHT.len());
    let name: String = name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    [before, &name].concat()
}
