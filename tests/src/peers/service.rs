//! A peer while it runs.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use crate::{BOUND, log::Log};

/// A process that serves until it is dropped. Its log is shown when the test is failing.
pub(super) struct Service {
    name: &'static str,
    child: Child,
    log: Arc<Log>,
}

impl Service {
    /// Starts a program that writes its log to standard error.
    pub(super) fn start(name: &'static str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Arc::<Log>::default();
        Log::fill(&log, child.stderr.take().expect("a pipe"));
        Self { name, child, log }
    }

    /// Waits for a line of the log that holds `text`.
    pub(super) fn wait_for_line(&self, text: &str) -> String {
        let line = self.log.wait_for(text, BOUND);
        line.unwrap_or_else(|| panic!("{} did not write {text:?}: {:#?}", self.name, self.log.lines()))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("an own child");
        self.child.wait().expect("an own child");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.log.show(self.name);
        }
    }
}
