//! One container of a real Docker engine.

use std::process::Stdio;

use super::{docker::Engine, service::Service};
use crate::{BOUND, process::Watch};

/// A container that is removed when it is dropped. Its log is shown when the test is failing.
pub struct Container<'engine> {
    engine: &'engine Engine,
    id: String,
    log: Service,
}

impl<'engine> Container<'engine> {
    /// Takes over what `docker run --detach` or `docker create` has printed.
    pub fn new(engine: &'engine Engine, id: &str) -> Self {
        let id = id.trim().to_owned();
        let log = Service::start("the container", engine.command().args(["logs", "--follow", &id]));
        Self { engine, id, log }
    }

    /// Waits for a line on its standard error that holds `text`.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.log.wait_for_line(text)
    }

    /// Its whole id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lines of its log so far that hold `text`.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.log.lines_with(text)
    }

    /// Ends it as a crash would, and starts it again.
    pub fn start_again(&self) {
        self.engine.docker(["kill", &self.id]);
        self.engine.docker(["start", &self.id]);
    }

    /// What `docker inspect` says for this template.
    pub fn inspect(&self, template: &str) -> String {
        self.engine.docker(["inspect", "--format", template, &self.id])
    }

    /// A file below `/proc` of its first process, as the host sees it.
    pub fn proc(&self, file: &str) -> String {
        self.engine.proc(&self.inspect("{{.State.Pid}}"), file)
    }

    /// Where the host reaches a port that was published.
    pub fn address(&self, port: u16) -> String {
        self.engine.docker(["port", &self.id, &port.to_string()])
    }

    /// Runs a program in it; gives whether it succeeded and all it wrote.
    pub fn exec<'a>(&self, flags: &[&str], program: impl IntoIterator<Item = &'a str>) -> (bool, String) {
        let mut command = self.engine.command();
        let ended = command.arg("exec").args(flags).arg(&self.id).args(program).output().expect("docker can be run");
        (ended.status.success(), String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned())
    }

    /// Asks it to end, as `docker stop` does, while `meanwhile` is done. Gives its exit code. Panics when it has not ended
    /// soon after that, however patient `docker stop` is.
    pub fn stop_while(&self, meanwhile: impl FnOnce()) -> String {
        let mut stop = self.engine.command();
        let mut stopping = stop.args(["stop", &self.id]).stdout(Stdio::null()).spawn().expect("docker can be run");
        meanwhile();
        let has_ended = Watch::new(stopping.id().cast_signed()).ends_within(BOUND);
        if !has_ended {
            let _ = stopping.kill();
        }
        let status = stopping.wait().expect("an own child");
        assert!(has_ended && status.success(), "docker stop: {status}, after {BOUND:?} at the most");
        self.inspect("{{.State.ExitCode}}")
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // What is left of it goes with the engine.
        let _ = self.engine.command().args(["rm", "--force", "--volumes", &self.id]).output();
    }
}
