//! A peer while it runs.

use std::{
    io,
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
    /// Starts a program. Its log is what it writes, to standard output or error.
    pub(super) fn start(name: &'static str, command: &mut Command) -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        let other = writer.try_clone().expect("a descriptor");
        let spawned = command.stdin(Stdio::null()).stdout(other).stderr(writer).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        // The log ends with the program: nobody else holds an end of the pipe to write to.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let log = Arc::<Log>::default();
        Log::fill(&log, reader);
        Self { name, child, log }
    }

    /// Waits for a line of the log that holds `text`.
    pub(super) fn wait_for_line(&self, text: &str) -> String {
        let line = self.log.wait_for(text, BOUND);
        line.unwrap_or_else(|| panic!("{} did not write {text:?}: {:#?}", self.name, self.log.lines()))
    }

    /// The lines so far that hold `text`.
    pub(super) fn lines_with(&self, text: &str) -> Vec<String> {
        self.log.lines().into_iter().filter(|line| line.contains(text)).collect()
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
