//! A machine that a real systemd runs: a container with a Debian of its own, and with this machine's network.

use std::{
    path::Path,
    process::{Command, Output},
};

use rustix::process::Signal;

use super::{Peer, service::Service};
use crate::{
    BOUND,
    process::{self, Watch, with_input},
};

/// The most that a script may take: more than anything that systemd waits for by itself.
const PATIENCE: &str = "120s";

/// It runs until it is dropped. Nothing that is written in it stays.
pub struct Machine {
    /// Its console, which gets the journal too.
    console: Service,
}

impl Machine {
    /// Boots one in which `shared` is `/srv`, read-only. `None` when there is no systemd to be had.
    pub fn boot(shared: &Path) -> Option<Self> {
        let [program, root, ..] = Peer::Systemd.programs()? else { panic!("its script prints two lines") };
        let mut command = Command::new(program);
        command.args(["--boot", "--volatile=overlay", "--register=no", "--keep-unit", "--link-journal=no", "--quiet"]);
        command.args(["--setenv=SYSTEMD_LOG_TARGET=console", "--setenv=SYSTEMD_COLORS=no"]);
        command.arg(format!("--machine=oz-worker-{}", std::process::id()));
        command.arg(format!("--bind-ro={}:/srv", shared.display()));
        command.arg("--directory").arg(root);
        let machine = Self { console: Service::start("the machine", &mut command) };
        machine.wait_for_line("Reached target multi-user.target");
        // Jobs that were queued meanwhile.
        machine.run("systemctl is-system-running --wait");
        Some(machine)
    }

    /// Runs a shell script in it as root, which must succeed; gives what it wrote.
    pub fn run(&self, script: &str) -> String {
        self.run_with("", script)
    }

    /// The same with something on standard input.
    pub fn run_with(&self, input: &str, script: &str) -> String {
        let Output { status, stdout, stderr } = self.shell(input, script);
        let (said, problem) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{script}\n--- ended with {status}: {said}{problem}");
        said.into_owned()
    }

    fn shell(&self, input: &str, script: &str) -> Output {
        let target = format!("--target={}", self.init().expect("a process 1"));
        let mut command = Command::new("timeout");
        command.args([PATIENCE, "nsenter", &target, "--all", "--", "sh", "-e", "-c", script]);
        with_input(command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"), input)
    }

    pub fn write(&self, path: &str, content: &str) {
        self.run_with(content, &format!("mkdir -p \"$(dirname {path})\" && cat >{path}"));
    }

    /// Its process 1, as seen from here.
    fn init(&self) -> Option<i32> {
        process::descendants(self.console.pid()).first().copied()
    }

    /// Waits for a line of the journal that holds `text`.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.console.wait_for_line(text)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // As a power cut: an orderly halt would wait for what runs. Then nspawn tidies up and ends; its own end alone would
        // leave the machine running.
        if let Some(init) = self.init() {
            process::signal(init, Signal::KILL);
        }
        Watch::new(self.console.pid()).ends_within(BOUND);
    }
}
