//! A host with systemd, set up by the commands of docs/install-systemd.md.

use std::fs;

use oz_worker_tests::{
    binary::worker_binary,
    chart::repository,
    connection::Connection,
    message::Assignment,
    page::blocks_of,
    peers::systemd::Machine,
    server::{Request, Server},
};
use tempfile::TempDir;

const OVERRIDE: &str = "/etc/systemd/system/oz-agent-worker.service.d/override.conf";

/// A machine whose worker is connected.
struct Host {
    machine: Machine,
    session: Connection,
    server: Server,
    _checkout: TempDir,
}

impl Host {
    /// Follows the page in a checkout with a built worker. The agent runs what each assignment says.
    fn installed() -> Option<Self> {
        let checkout = tempfile::tempdir().unwrap();
        let release = checkout.path().join("target/release");
        fs::create_dir_all(&release).unwrap();
        fs::copy(worker_binary().unwrap(), release.join("oz-agent-worker")).unwrap();
        fs::create_dir_all(checkout.path().join("packaging/systemd")).unwrap();
        for file in ["service", "sysusers", "tmpfiles"] {
            let name = format!("packaging/systemd/oz-agent-worker.{file}");
            fs::copy(repository().join(&name), checkout.path().join(&name)).unwrap();
        }
        let machine = Machine::boot(checkout.path())?;

        let page = "docs/install-systemd.md";
        let [install, key, start] = &blocks_of(page, "sh")[..] else { panic!("the page has other steps") };
        let [configuration] = &blocks_of(page, "yaml")[..] else { panic!("the page has other files") };
        machine.run(&format!("cd /srv\n{install}"));
        machine.run_with("first-key\n", key);
        machine.write("/etc/oz/worker.yaml", configuration);
        machine.write("/etc/oz/worker.env", "OTEL_METRICS_EXPORTER=none\n");
        machine.write("/usr/local/bin/oz", "#!/bin/sh\neval \"$SCRIPT\"\n");
        machine.run("chmod 755 /usr/local/bin/oz");
        // What the page leaves at its default: the server.
        let server = Server::start();
        let unit = fs::read_to_string(repository().join("packaging/systemd/oz-agent-worker.service")).unwrap();
        let command = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        let url = server.url();
        machine.write(OVERRIDE, &format!("[Service]\nExecStart=\n{command} --web-socket-url {url}\n"));
        let start: Vec<&str> = start.lines().filter(|line| !line.starts_with("journalctl -f")).collect();
        machine.run(&start.join("\n"));
        let session = with_key(server.request(), "first-key");
        Some(Self { machine, session, server, _checkout: checkout })
    }

    fn claim(&mut self, task_id: &str, script: &str) {
        self.session.send(Assignment::new(task_id).run(script));
        assert_eq!(self.session.expect("task_claimed")["task_id"], task_id);
    }

    /// What systemd says of the unit.
    fn show(&self, property: &str) -> String {
        let value = self.machine.run(&format!("systemctl show --value --property={property} oz-agent-worker"));
        value.trim().to_owned()
    }

    /// Every program that runs in the machine, by its short name.
    fn programs(&self) -> Vec<String> {
        let names = self.machine.run("cat /proc/[0-9]*/comm 2>&1 || true");
        names.lines().map(str::to_owned).collect()
    }
}

/// A session whose worker has shown this API key.
fn with_key(request: Request, key: &str) -> Connection {
    assert_eq!(request.header("authorization"), Some(&*format!("Bearer {key}")));
    request.upgrade()
}

#[test]
#[ignore = "boots a systemd; .ci/run asks for it"]
fn task_has_what_it_needs_and_no_more_than_the_unit_allows() {
    let Some(mut host) = Host::installed() else { return };
    let script = r#"
        needs() { "$@" || { echo "cannot: $*"; exit 8; }; }
        refuses() { if "$@" 2>/dev/null; then echo "could: $*"; exit 9; fi; }
        needs [ "$(id -un)" = oz ]
        needs touch here /tmp/here /var/lib/oz/here
        refuses touch /usr/here
        refuses touch /etc/here
        refuses ls /home
        refuses ls /root
        refuses cat /etc/oz/api-key
        refuses [ -e /dev/kmsg ]
        refuses cat /proc/1/stat
        needs grep -q '^NoNewPrivs:.1$' /proc/self/status
        needs grep -q '^CapBnd:.0*$' /proc/self/status
        # Its cgroup is its own, below the unit's.
        needs grep -q '^0::/system.slice/oz-agent-worker.service/.' /proc/self/cgroup
        # A daemon, which must not outlive it.
        setsid sleep 4321 >/dev/null 2>&1 &
    "#;
    host.claim("T1", script);
    let end = host.session.recv();
    assert_eq!(end["type"], "task_completed", "{end}");
    assert!(!host.programs().contains(&"sleep".to_owned()), "the task's daemon lives on");
    assert_eq!(host.machine.run("ls -A /var/lib/oz/workspaces"), "");
}

#[test]
#[ignore = "boots a systemd; .ci/run asks for it"]
fn stop_lets_a_task_finish_and_a_second_signal_does_not() {
    let Some(mut host) = Host::installed() else { return };
    host.machine.run("mkfifo -m 666 /run/gate");
    host.claim("finishes", "read line </run/gate");
    host.machine.run("systemctl stop --no-block oz-agent-worker");
    host.machine.wait_for_line("draining");
    host.machine.run("echo go >/run/gate");
    let end = host.session.recv();
    assert_eq!((&end["type"], &end["data"]["task_id"]), (&"task_completed".into(), &"finishes".into()));
    assert_eq!(host.session.expect_close(), Some(1000));
    // Waits for the first one's job.
    host.machine.run("systemctl stop oz-agent-worker");
    assert_eq!((host.show("Result"), host.show("ActiveState")), ("success".into(), "inactive".into()));

    host.machine.run("systemctl start oz-agent-worker");
    host.session = host.server.accept();
    host.claim("is stopped", "read line </run/gate");
    host.machine.run("systemctl stop --no-block oz-agent-worker");
    host.machine.wait_for_line("active=1 timeout=30m");
    host.machine.run("systemctl kill -s TERM --kill-whom=main oz-agent-worker");
    let end = host.session.expect("task_failed");
    assert_eq!((&end["task_id"], &end["failure_reason"]), (&"is stopped".into(), &"graceful_shutdown".into()));
    host.machine.run("systemctl stop oz-agent-worker");
    assert_eq!((host.show("Result"), host.show("ActiveState")), ("success".into(), "inactive".into()));
}

#[test]
#[ignore = "boots a systemd; .ci/run asks for it"]
fn killed_worker_is_started_again_with_the_new_key_and_without_its_tasks() {
    let Some(mut host) = Host::installed() else { return };
    host.machine.run("mkfifo -m 666 /run/begun");
    // A program with a name of its own, which has it when it says that it has begun.
    host.machine.write("/usr/local/bin/lingers", "#!/bin/sh\necho begun >/run/begun\nread line </run/begun\n");
    host.machine.run("chmod 755 /usr/local/bin/lingers");
    host.claim("T1", "lingers");
    assert_eq!(host.machine.run("cat /run/begun"), "begun\n");
    assert!(host.programs().contains(&"lingers".to_owned()));
    host.machine.run_with("second-key\n", "cat >/etc/oz/api-key");
    host.machine.run("systemctl kill -s KILL --kill-whom=main oz-agent-worker");
    let mut session = with_key(host.server.request(), "second-key");
    assert!(!host.programs().contains(&"lingers".to_owned()), "the task lives on");
    session.send(Assignment::new("T2").run("true"));
    assert_eq!(session.expect("task_claimed")["task_id"], "T2");
    assert_eq!(session.expect("task_completed")["task_id"], "T2");
    assert_eq!(host.show("NRestarts"), "1");
}

#[test]
#[ignore = "boots a systemd; .ci/run asks for it"]
fn file_that_is_wrong_is_not_tried_again_and_a_crash_leaves_no_core_dump() {
    let Some(host) = Host::installed() else { return };
    // What the unit says holds for tasks too, which is as well: their memory has what they were told.
    assert_eq!(host.show("LimitCORE"), "0");
    host.machine.run("echo 'worker_idd: x' >>/etc/oz/worker.yaml");
    host.machine.run("systemctl restart --no-block oz-agent-worker");
    host.machine.wait_for_line("worker_idd");
    host.machine.wait_for_line("oz-agent-worker.service: Failed with result");
    assert_eq!((host.show("ExecMainStatus"), host.show("ActiveState")), ("2".into(), "failed".into()));
    assert_eq!((host.show("Result"), host.show("NRestarts")), ("exit-code".into(), "0".into()));
}
