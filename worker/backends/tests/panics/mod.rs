//! A bug of ours in the middle of a task: what the task started is killed and what it made is removed all the same, on
//! real processes. Each runtime's `tests/panics.rs` has this as a module, and says beside it how it is made.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_backends::Backend;
use oz_worker_backends::command::{CommandBackend, CommandSettings};
use oz_worker_backends::contract::output::TaskLog;
use oz_worker_backends::contract::{Common, Latch, Report, Stop, Task, TaskEvent};
use oz_worker_backends::direct::{DirectBackend, DirectSettings, Job, Workspaces};
use oz_worker_core::agent::{InstanceShape, TaskSpec};
use oz_worker_core::secret::Variables;
use oz_worker_host::owner;
use oz_worker_reactor::{OnReactor, Tasks};
use oz_worker_runtime::{Environment, Host, Lane, Machine, Runtime as _};
use oz_worker_telemetry::TaskTrace;

use super::runtime;

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(20);

/// Leaves a daemon behind, says which in the file `pid` above its own directory, and goes on.
const SCRIPT: &str = "#!/bin/sh\n(setsid sh -c 'echo $$ > \"$0/pid.new\"; mv \"$0/pid.new\" \"$0/pid\"; exec sleep 1000' DIR &)\n\
    while ! test -e DIR/pid; do :; done\necho > file\nEND\n";

struct Silent;

impl TaskLog for Silent {
    fn has_room(&self) -> bool {
        true
    }

    fn line(&self, _: &[u8], _: u64) {}

    fn end(&self) {}
}

/// A directory of the test's own, with a program in it that does what [`SCRIPT`] says and then this.
fn scratch(name: &str, end: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("oz-worker-panics-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("root")).unwrap();
    let script = SCRIPT.replace("DIR", dir.to_str().unwrap()).replace("END", end);
    // Written by somebody else: a program that a thread of this process has open for writing cannot be executed.
    let write = "printf %s \"$1\" > \"$0/oz\"; chmod +x \"$0/oz\"";
    let written = std::process::Command::new("sh").args(["-c", write]).arg(&dir).arg(&script).status();
    assert!(written.unwrap().success());
    dir
}

/// At what that is said of a task its report panics.
type At = fn(&TaskEvent) -> bool;

fn task(panics_at: At) -> Task {
    let spec = TaskSpec {
        task_id: "T1".into(),
        execution_id: None,
        title: String::new(),
        harness: None,
        args: Vec::new(),
        env: Variables::default(),
        image: String::new(),
        sidecars: Vec::new(),
        shape: InstanceShape::default(),
        task: "{}".into(),
    };
    let report = Report::new(move |event| assert!(!panics_at(&event), "as a test"));
    let stop = Stop::new(Latch::default(), Latch::default());
    Task { spec: Box::new(spec), trace: TaskTrace::default(), stop, report, log: Arc::new(Silent) }
}

/// Runs the task, which panics; gives the daemon that it left.
fn panics<T: Tasks>(runtime: &OnReactor<T>, backend: &Backend<OnReactor<T>>, task: Task, dir: &Path) -> i32 {
    let late = runtime.sleep_until(runtime.now().plus(BOUND));
    let run = async {
        assert!(AssertUnwindSafe(backend.run(task)).catch_unwind().await.is_err(), "no panic");
    };
    runtime.drive(run.or(async {
        late.await;
        panic!("not in time");
    }));
    fs::read_to_string(dir.join("pid")).unwrap().trim().parse().unwrap()
}

/// Whether a process runs, and is no zombie.
fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn what_a_task_leaves_is_killed_and_removed_when_its_backend_panics() {
    let cases: [(&str, &str, At); 2] = [
        ("finished", "exit 0", |event| matches!(event, TaskEvent::Finished(_))),
        ("started", "sleep 1000", |event| matches!(event, TaskEvent::Started)),
    ];
    for (name, end, panics_at) in cases {
        let dir = scratch(name, end);
        let (runtime, owner) = (runtime(), owner(&format!("panics-{name}")));
        let own = owner.clone();
        runtime.drive(runtime.on(Lane::Start, move |machine| machine.adopt(&own))).unwrap();
        let backend = Backend::Direct(DirectBackend::new(
            runtime.clone(),
            Job {
                oz: dir.join("oz"),
                workspaces: Workspaces::new(dir.join("root"), owner),
                settings: DirectSettings::default(),
                cleanup: true,
                cancel_grace_period: Duration::from_secs(1),
                host_env: [("PATH", "/usr/bin:/bin")].into_iter().collect(),
            },
        ));
        let task = task(panics_at);
        if name == "started" {
            // The agent may not have come to its daemon when it is killed.
            fs::write(dir.join("pid"), "2147483647").unwrap();
        }
        let daemon = panics(&runtime, &backend, task, &dir);
        assert!(!is_alive(daemon), "{name}: the daemon lives on");
        assert_eq!(fs::read_dir(dir.join("root")).unwrap().count(), 0, "{name}: the workspace is left");
        runtime.drive(runtime.on(Lane::Finish, Machine::release));
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_dispatch_is_killed_when_its_backend_panics() {
    let dir = scratch("dispatch", "exec sleep 1000");
    let runtime = runtime();
    let common = Common {
        runtime: runtime.clone(),
        owner: owner("panics-dispatch"),
        worker_id: "w1".into(),
        server_root_url: String::new(),
        cleanup: true,
        cancel_grace_period: Duration::from_secs(1),
        environment: Environment::default(),
        host_env: [("PATH", "/usr/bin:/bin")].into_iter().collect(),
    };
    let settings = CommandSettings {
        // The shell's own number, and then it waits.
        dispatch_command: format!("echo $$ > '{0}/pid'; exec sleep 1000", dir.display()),
        cancel_command: None,
        dispatch_timeout: Duration::from_secs(60),
    };
    let backend = Backend::Command(CommandBackend::new(settings, common.into()));
    fs::write(dir.join("pid"), "2147483647").unwrap();
    let task = task(|event| matches!(event, TaskEvent::Started));
    let dispatch = panics(&runtime, &backend, task, &dir);
    let started = std::time::Instant::now();
    while is_alive(dispatch) {
        assert!(started.elapsed() < BOUND, "the dispatch lives on");
        std::thread::yield_now();
    }
    fs::remove_dir_all(&dir).unwrap();
}
