//! Real processes: how they are started, end, hide, and are found again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oz_worker_host::{Child, Options, Processes, StartError, TOKEN_VARIABLE, Tree, owner};
use oz_worker_runtime::{Command, Exit, Owner, Pipes, Signal, Tree as _};
use oz_worker_tests::peers::skip_this;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(20);

/// The tests count descriptors and children of this very process, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const ALL: Options = Options { cgroups: true, clone3: true, children_file: true };
const NO_CGROUPS: Options = Options { cgroups: false, ..ALL };
const OLD_SYSTEM: Options = Options { cgroups: false, clone3: false, children_file: false };

fn adopting(options: Options, name: &str) -> Processes {
    let processes = Processes::new(options);
    processes.adopt(&owner(name)).unwrap();
    processes
}

fn command(program: &str, args: &[&str]) -> Command {
    Command {
        program: program.into(),
        args: args.iter().map(Into::into).collect(),
        env: [("PATH", "/usr/local/bin:/usr/bin:/bin")].into_iter().collect(),
        cwd: Some("/".into()),
        input: false,
        output: Pipes::Merged,
    }
}

fn shell(script: &str) -> Command {
    command("/bin/sh", &["-c", script])
}

fn await_readable(fd: impl AsFd) {
    let timeout = Timespec { tv_sec: i64::try_from(BOUND.as_secs()).unwrap(), tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "nothing happened");
}

fn finish(child: &Child) -> Exit {
    await_readable(child);
    child.try_wait().unwrap().unwrap()
}

/// Reads until `done` says so or everybody has closed the pipe.
fn read_until(output: &mut io::PipeReader, done: impl Fn(&str) -> bool) -> String {
    let mut text = Vec::new();
    loop {
        await_readable(&*output);
        let mut buffer = [0; 4096];
        let length = output.read(&mut buffer).unwrap();
        text.extend_from_slice(&buffer[..length]);
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if length == 0 || done(&so_far) {
            return so_far;
        }
    }
}

fn output_of(child: &mut Child) -> String {
    read_until(&mut child.output().unwrap(), |_| false)
}

/// The number that a script prints in a line of its own.
fn printed_pid(child: &mut Child) -> i32 {
    read_until(&mut child.output().unwrap(), |text| text.ends_with('\n')).trim().parse().unwrap()
}

fn pidfd(pid: i32) -> OwnedFd {
    rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap()
}

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < BOUND, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn end(tree: &Tree) {
    until("the tree is empty", || {
        tree.kill();
        tree.is_empty()
    });
}

fn started_error(result: io::Result<Child>) -> (io::ErrorKind, String, StartError) {
    let error = result.unwrap_err();
    let (kind, text) = (error.kind(), error.to_string());
    (kind, text, *error.into_inner().unwrap().downcast().unwrap())
}

#[test]
fn tells_exit_codes_from_signals() {
    let _turn = turn();
    for options in [ALL, OLD_SYSTEM] {
        let processes = Processes::new(options);
        for code in [0, 1, 42, 255] {
            let child = processes.start(&shell(&format!("exit {code}")), None).unwrap();
            assert_eq!(finish(&child), Exit::Code(code));
            assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(code)), "it may be asked again");
        }
        let child = processes.start(&shell("kill -SEGV $$"), None).unwrap();
        assert_eq!(finish(&child), Exit::Signal(11));
        assert_eq!(finish(&child).code(), 139);
    }
}

#[test]
fn a_child_gets_what_was_asked_for_and_nothing_else() {
    let _turn = turn();
    // Not closed on execution, as a careless parent of the worker might have left it.
    let inherited = unsafe { libc::fcntl(2, libc::F_DUPFD, 50) };
    assert!(inherited >= 50);
    let processes = adopting(ALL, "child");
    let run = |command: &Command| {
        let mut child = processes.start(command, None).unwrap();
        let text = output_of(&mut child);
        assert_eq!(finish(&child), Exit::Code(0), "{text}");
        text
    };
    let mut env = command("/usr/bin/env", &[]);
    env.env = [("A", "1"), ("B", "x=y\n"), ("A", "2")].into_iter().collect();
    assert_eq!(run(&env), "A=2\nB=x=y\n\n");

    // The last one is the directory that ls itself has open.
    assert_eq!(run(&command("/bin/ls", &["/proc/self/fd"])), "0\n1\n2\n3\n");
    let mut pwd = shell("pwd; echo to stderr >&2; cat");
    pwd.cwd = Some("/usr/bin".into());
    assert_eq!(run(&pwd), "/usr/bin\nto stderr\n");

    let status = run(&command("/bin/cat", &["/proc/self/status"]));
    let signals: Vec<_> = status.lines().filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ")).collect();
    let none = ["SigPnd:", "SigBlk:", "SigIgn:", "SigCgt:"].map(|name| format!("{name}\t0000000000000000"));
    assert_eq!(signals, none);

    let group = run(&shell("echo $$ $(cut -d' ' -f5 /proc/$$/stat)"));
    let ids: Vec<_> = group.split_whitespace().collect();
    assert_eq!(ids[0], ids[1], "it leads its process group");
    // SAFETY: opened above.
    unsafe { libc::close(inherited) };
}

#[test]
fn a_child_has_the_limit_of_open_files_that_the_worker_was_started_with() {
    let _turn = turn();
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let lowered = rustix::process::Rlimit { current: Some(512), maximum: before.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, lowered).unwrap();
    let processes = adopting(ALL, "limit");
    assert_eq!(rustix::process::getrlimit(rustix::process::Resource::Nofile).current, before.maximum);
    let mut child = processes.start(&shell("ulimit -n"), None).unwrap();
    assert_eq!(output_of(&mut child), "512\n");
    finish(&child);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).unwrap();
}

#[test]
fn standard_input_is_a_pipe_when_asked_for() {
    let _turn = turn();
    let processes = Processes::default();
    let mut cat = command("/bin/cat", &[]);
    cat.input = true;
    let mut child = processes.start(&cat, None).unwrap();
    let mut input = child.input().unwrap();
    assert!(child.input().is_none());
    input.write_all(b"payload").unwrap();
    drop(input);
    assert_eq!(output_of(&mut child), "payload");
    assert_eq!(finish(&child), Exit::Code(0));
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed_with_its_group() {
    let _turn = turn();
    let processes = Processes::default();
    let mut child = processes
        .start(
            &shell(
                "trap 'echo no' TERM; (trap '' TERM; while :; do sleep 100; done) & echo $!; while :; do wait; done",
            ),
            None,
        )
        .unwrap();
    let mut output = child.output().unwrap();
    let text = read_until(&mut output, |text| text.ends_with('\n'));
    let other = pidfd(text.trim().parse().unwrap());
    child.signal_group(Signal::Terminate);
    read_until(&mut output, |text| text.contains("no\n"));
    assert_eq!(child.try_wait().unwrap(), None);
    child.signal_group(Signal::Kill);
    assert_eq!(finish(&child), Exit::Signal(9));
    await_readable(other);
    // Nobody is left; the number is still the zombie's.
    child.signal_group(Signal::Kill);
}

/// A daemon as the book has it: a second fork, a session of its own, its parent gone.
const DAEMON: &str = "(setsid sh -c 'echo $$; exec sleep 1000' &)";

#[test]
fn a_daemon_is_found_after_its_task_and_ended() {
    let _turn = turn();
    for (index, options) in [ALL, NO_CGROUPS, OLD_SYSTEM].into_iter().enumerate() {
        let processes = adopting(options, &format!("daemon-{index}"));
        let (tree, other) = (processes.tree(), processes.tree());
        let mut child = processes.start(&shell(DAEMON), Some(&tree)).unwrap();
        let mut innocent = processes.start(&shell(DAEMON), Some(&other)).unwrap();
        let (daemon, spared) = (pidfd(printed_pid(&mut child)), pidfd(printed_pid(&mut innocent)));
        assert_eq!(finish(&child), Exit::Code(0));
        assert_eq!(finish(&innocent), Exit::Code(0));
        assert!(!tree.is_empty());
        end(&tree);
        await_readable(&daemon);
        drop(child);
        assert!(tree.is_empty());

        assert!(!other.is_empty(), "another task's daemon lives on");
        end(&other);
        await_readable(&spared);
        processes.close();
    }
}

#[test]
fn a_tree_is_empty_exactly_while_nothing_in_it_lives() {
    let _turn = turn();
    for (index, options) in [ALL, NO_CGROUPS].into_iter().enumerate() {
        let processes = adopting(options, &format!("empty-{index}"));
        let tree = processes.tree();
        assert!(tree.is_empty());
        let mut cat = command("/bin/cat", &[]);
        cat.input = true;
        let mut child = processes.start(&cat, Some(&tree)).unwrap();
        assert!(!tree.is_empty());
        drop(child.input());
        finish(&child);
        until("the zombie does not count", || tree.is_empty());
        drop(child);
        assert!(tree.is_empty());

        // Dropped while it runs.
        let child = processes.start(&command("/bin/sleep", &["1000"]), Some(&tree)).unwrap();
        let sleep = pidfd(i32::try_from(child.pid()).unwrap());
        drop(child);
        assert!(!tree.is_empty());
        end(&tree);
        await_readable(&sleep);
    }
}

#[test]
fn a_daemon_that_cleared_its_environment_is_found_by_its_cgroup() {
    let _turn = turn();
    let processes = adopting(ALL, "cleared");
    if !processes.uses_cgroups() {
        skip_this("no cgroup version 2 may be made here");
        return;
    }
    let tree = processes.tree();
    let script = "(env -i PATH=$PATH setsid env -i /bin/sh -c 'echo $$; exec sleep 1000' &)";
    let mut child = processes.start(&shell(script), Some(&tree)).unwrap();
    let daemon = pidfd(printed_pid(&mut child));
    assert_eq!(finish(&child), Exit::Code(0));
    drop(child);
    assert!(!tree.is_empty());
    end(&tree);
    await_readable(daemon);
}

#[test]
fn without_a_cgroup_token_tag_group_session_and_descendants_give_a_daemon_away() {
    let _turn = turn();
    for script in [
        // In the task's process group.
        "(env -i /bin/sh -c 'echo $$; exec sleep 1000' &)",
        // In a session with one that has the token.
        "(setsid sh -c '(env -i /bin/sh -c \"echo \\$\\$; exec sleep 1000\" &); exec sleep 1000' &)",
        // Below one that has the token.
        "(setsid sh -c 'setsid env -i /bin/sh -c \"echo \\$\\$; exec sleep 1000\"; true' &)",
        // With nothing of the kind: the tag is left.
        "(setsid env -i /bin/sh -c 'echo $$; exec sleep 1000' &)",
        // Without the tag: the token is left.
        "(ulimit -m 1000000; setsid sh -c 'echo $$; exec sleep 1000' &)",
    ] {
        for (options, name) in [(NO_CGROUPS, "relations"), (OLD_SYSTEM, "old relations")] {
            let processes = adopting(options, name);
            let (tree, other) = (processes.tree(), processes.tree());
            let mut child = processes.start(&shell(script), Some(&tree)).unwrap();
            let daemon = pidfd(printed_pid(&mut child));
            assert_eq!(finish(&child), Exit::Code(0));
            assert!(other.is_empty(), "{script}");
            assert!(!tree.is_empty(), "{script}");
            end(&tree);
            await_readable(daemon);
        }
    }
}

/// Becomes what `ssh-agent` is: nobody but root reads its environment (prctl(2), `PR_SET_DUMPABLE`).
fn not_dumpable() -> String {
    let prctl = libc::SYS_prctl;
    format!("syscall({prctl}, 4, 0, 0, 0, 0) == 0 or die; $| = 1; print \"$$\\n\"; sleep 1000")
}

#[test]
fn a_daemon_that_shows_its_environment_to_nobody_is_found() {
    let _turn = turn();
    let processes = adopting(NO_CGROUPS, "not dumpable");
    let tree = processes.tree();
    // Root reads every environment: so it is empty too.
    let script = format!("(setsid env -i perl -e '{}' &)", not_dumpable());
    let mut child = processes.start(&shell(&script), Some(&tree)).unwrap();
    let daemon = pidfd(printed_pid(&mut child));
    assert_eq!(finish(&child), Exit::Code(0));
    assert!(!tree.is_empty());
    end(&tree);
    await_readable(daemon);
}

#[test]
fn a_task_that_leaves_its_cgroup_does_not_leave_its_tree() {
    let _turn = turn();
    let processes = adopting(ALL, "parent cgroup");
    if !processes.uses_cgroups() {
        skip_this("no cgroup version 2 may be made here");
        return;
    }
    let base = own_cgroup(&processes).parent().unwrap().join("cgroup.procs");
    let tree = processes.tree();
    let script = format!("(echo 0 > '{}' && setsid env -i /bin/sh -c 'echo $$; exec sleep 1000' &)", base.display());
    let mut child = processes.start(&shell(&script), Some(&tree)).unwrap();
    let daemon = pidfd(printed_pid(&mut child));
    assert_eq!(finish(&child), Exit::Code(0));
    end(&tree);
    await_readable(daemon);
    assert!(tree.is_empty());
}

#[test]
fn two_thousand_orphans_at_once_are_all_found() {
    let _turn = turn();
    let processes = adopting(NO_CGROUPS, "many");
    let (many, last) = (processes.tree(), processes.tree());
    let script = "i=0; while [ $i -lt 2000 ]; do (exec setsid sleep 1000 &); i=$((i+1)); done; echo done";
    let mut child = processes.start(&shell(script), Some(&many)).unwrap();
    assert_eq!(read_until(&mut child.output().unwrap(), |text| text.ends_with('\n')), "done\n");
    finish(&child);
    drop(child);
    // Behind all of them in the kernel's list.
    let mut child = processes.start(&shell(DAEMON), Some(&last)).unwrap();
    let daemon = pidfd(printed_pid(&mut child));
    finish(&child);
    assert!(!last.is_empty(), "the newest orphan is not seen behind the others");
    end(&last);
    await_readable(daemon);
    drop(child);
    end(&many);
    until("nobody is left", || {
        processes.reap();
        children_of_this_process().is_empty()
    });
}

#[test]
fn every_child_leads_a_session_without_a_terminal() {
    let _turn = turn();
    for options in [ALL, OLD_SYSTEM] {
        let processes = Processes::new(options);
        let script = "echo $$ $(cut -d' ' -f5,6 /proc/$$/stat); (: < /dev/tty) 2>/dev/null && echo a terminal";
        let mut child = processes.start(&shell(script), None).unwrap();
        let pid = child.pid();
        assert_eq!(output_of(&mut child), format!("{pid} {pid} {pid}\n"), "{options:?}");
        finish(&child);
    }
}

#[test]
fn a_child_that_was_stopped_hears_that_it_is_to_end() {
    let _turn = turn();
    let processes = Processes::default();
    let script = "trap 'echo heard; exit 3' TERM; echo $$; while :; do sleep 1000 & wait; done";
    let mut child = processes.start(&shell(script), None).unwrap();
    let mut output = child.output().unwrap();
    read_until(&mut output, |text| text.ends_with('\n'));
    let pid = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
    rustix::process::kill_process_group(pid, rustix::process::Signal::STOP).unwrap();
    until("it is stopped", || fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap().contains(") T "));
    child.signal_group(Signal::Terminate);
    assert_eq!(read_until(&mut output, |text| text.ends_with("heard\n")), "heard\n");
    assert_eq!(finish(&child), Exit::Code(3));
    child.signal_group(Signal::Kill);
}

#[test]
fn a_tree_that_was_killed_takes_more_processes() {
    let _turn = turn();
    let processes = adopting(ALL, "again");
    let tree = processes.tree();
    for code in 0..5 {
        let child = processes.start(&shell(&format!("sleep 1000 & exit {code}")), Some(&tree)).unwrap();
        assert_eq!(finish(&child), Exit::Code(code));
        assert!(!tree.is_empty());
        end(&tree);
    }
}

#[test]
fn killing_a_tree_ends_everything_in_it_while_it_runs() {
    let _turn = turn();
    for (index, options) in [ALL, NO_CGROUPS, OLD_SYSTEM].into_iter().enumerate() {
        let processes = adopting(options, &format!("running-{index}"));
        let tree = processes.tree();
        let mut child =
            processes.start(&shell("setsid sh -c 'setsid sleep 1000 & echo $!; wait' & wait"), Some(&tree)).unwrap();
        let grandchild = pidfd(printed_pid(&mut child));
        tree.kill();
        assert_eq!(finish(&child), Exit::Signal(9));
        end(&tree);
        await_readable(grandchild);
    }
}

#[test]
fn orphans_that_ended_are_reaped() {
    let _turn = turn();
    for options in [ALL, OLD_SYSTEM] {
        let processes = adopting(options, "orphans");
        let mut child = processes.start(&shell("(sh -c 'echo $$' &)"), None).unwrap();
        let orphan = printed_pid(&mut child);
        finish(&child);
        drop(child);
        until("the orphan is gone", || {
            processes.reap();
            !fs::exists(format!("/proc/{orphan}")).unwrap()
        });
    }
}

#[test]
fn nobody_takes_the_end_of_another_child_for_an_orphans() {
    let _turn = turn();
    let processes = adopting(ALL, "stolen");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let processes = &processes;
            scope.spawn(move || {
                for round in 0..200 {
                    let code = (thread * 31 + round) % 256;
                    let tree = processes.tree();
                    let child = processes.start(&shell(&format!("(true &); exit {code}")), Some(&tree)).unwrap();
                    assert_eq!(finish(&child), Exit::Code(code));
                    drop(child);
                }
            });
        }
    });
    until("no zombie is left", || {
        processes.reap();
        children_of_this_process().is_empty()
    });
    processes.close();
}

fn children_of_this_process() -> BTreeSet<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn says_why_a_program_cannot_be_started() {
    let _turn = turn();
    let directory = std::env::temp_dir().join(format!("oz-worker-start-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).unwrap();
    let file = |name: &str, content: &str, executable: bool| -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 })).unwrap();
        path
    };
    let plain = file("plain", "#!/bin/sh\n", false);
    let lost = file("lost", "#!/no/such/interpreter\n", true);
    let odd = file("odd", "\u{1}\u{2}", true);
    for options in [ALL, OLD_SYSTEM] {
        let processes = Processes::new(options);
        let start = |program: &str| started_error(processes.start(&command(program, &[]), None));

        let (kind, text, error) = start("/no/such/oz");
        assert_eq!(kind, io::ErrorKind::NotFound);
        assert!(matches!(error, StartError::Program { .. }));
        assert_eq!(text, "cannot execute /no/such/oz: No such file or directory (os error 2)");

        let (kind, text, _) = start(plain.to_str().unwrap());
        assert_eq!(kind, io::ErrorKind::PermissionDenied);
        assert!(text.ends_with("is it executable, and is it a file?"), "{text}");
        assert_eq!(start("/usr").0, io::ErrorKind::PermissionDenied);

        let (kind, text, _) = start(lost.to_str().unwrap());
        assert_eq!(kind, io::ErrorKind::NotFound);
        assert!(text.contains("the interpreter in its first line"), "{text}");

        let (_, text, _) = start(odd.to_str().unwrap());
        assert!(text.contains("neither a program for this machine nor a script"), "{text}");

        let mut nowhere = command("/bin/true", &[]);
        nowhere.cwd = Some("/no/such/directory".into());
        let (kind, text, error) = started_error(processes.start(&nowhere, None));
        assert_eq!(kind, io::ErrorKind::NotFound);
        assert!(matches!(error, StartError::Directory { .. }));
        assert_eq!(text, "cannot enter the directory /no/such/directory: No such file or directory (os error 2)");

        let (kind, text, _) = started_error(processes.start(&command("/bin/true", &["a", "b\0c"]), None));
        assert_eq!((kind, text.as_str()), (io::ErrorKind::InvalidInput, "argument 2 has a NUL byte"));

        // One argument may be 128 KiB long, all together a quarter of the stack's limit.
        let long = "x".repeat(200_000);
        let (kind, text, _) = started_error(processes.start(&command("/bin/true", &[&long]), None));
        assert_eq!(kind, io::ErrorKind::ArgumentListTooLong);
        assert_eq!(
            text,
            "cannot execute /bin/true: its arguments and environment together are too long for this system"
        );
        assert!(children_of_this_process().is_empty(), "nothing is left of a failed start");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_thousand_starts_leave_no_descriptor_open() {
    let _turn = turn();
    let processes = adopting(ALL, "descriptors");
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let once = || {
        let tree = processes.tree();
        let child = processes.start(&command("/bin/true", &[]), Some(&tree)).unwrap();
        assert_eq!(finish(&child), Exit::Code(0));
        let _ = processes.start(&command("/no/such/oz", &[]), Some(&tree)).unwrap_err();
    };
    once();
    let before = open();
    for _ in 0..1000 {
        once();
    }
    assert_eq!(open(), before);
}

/// A `sleep` that bears `token`, started as the child of this process.
struct Sleep(std::process::Child);

impl Sleep {
    fn with(token: &str) -> Self {
        Self(std::process::Command::new("/bin/sleep").arg("1000").env(TOKEN_VARIABLE, token).spawn().unwrap())
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_crashed_worker_left_running_is_ended_and_nothing_else() {
    let _turn = turn();
    let ours = owner("crashed");
    let living = ours.mark();
    let dead = |name| Owner::of_process(name, rustix::process::geteuid().as_raw(), b"host", 7, u64::from(u32::MAX));
    let mut crashed = Sleep::with(&format!("{}.1", dead("crashed").mark()));
    let mut spared = [
        Sleep::with(&format!("{living}.1")),
        // Its worker is one of its ancestors, whatever its number is called where that lives.
        Sleep::with(&format!("{}.1", living.replace(&format!(".{}.", std::process::id()), ".1."))),
        Sleep::with(&format!("{}.1", dead("another").mark())),
        Sleep::with(dead("crashed").mark()),
        Sleep::with("anything"),
        Sleep::with(""),
    ];
    let processes = Processes::default();
    assert_eq!(processes.adopt(&ours).unwrap(), 1);
    assert!(!crashed.is_running());
    assert!(spared.iter_mut().all(Sleep::is_running));
    assert_eq!(processes.adopt(&ours).unwrap(), 0);
}

#[test]
fn the_cgroups_of_a_crashed_worker_are_emptied_and_removed() {
    let _turn = turn();
    let owner = owner("crashed-cgroup");
    let processes = adopting(ALL, "crashed-cgroup");
    if !processes.uses_cgroups() {
        skip_this("no cgroup version 2 may be made here");
        return;
    }
    let base = own_cgroup(&processes).parent().unwrap().to_owned();
    let stale = base.join(format!("oz-agent-worker.{}.3", owner.mark()));
    let spared = base.join("oz-agent-worker.ffffffffffffffff.ffffffffffffffff.ffffffffffffffff.5.2147483647.1.3");
    fs::create_dir_all(stale.join("made/by/the/task")).unwrap();
    fs::create_dir_all(&spared).unwrap();
    let mut sleeps = [Sleep::with(""), Sleep::with("")];
    fs::write(stale.join("cgroup.procs"), sleeps[0].0.id().to_string()).unwrap();
    fs::write(spared.join("cgroup.procs"), sleeps[1].0.id().to_string()).unwrap();

    let next = Processes::default();
    assert_eq!(next.adopt(&owner).unwrap(), 1);
    assert!(!stale.exists());
    assert!(!sleeps[0].is_running());
    assert!(sleeps[1].is_running());
    drop(sleeps);
    until("the other cgroup is empty", || fs::remove_dir(&spared).is_ok());
}

#[test]
fn cgroups_are_used_again_and_removed_at_the_end() {
    let _turn = turn();
    let processes = adopting(ALL, "reuse");
    if !processes.uses_cgroups() {
        skip_this("no cgroup version 2 may be made here");
        return;
    }
    let first = own_cgroup(&processes);
    assert_eq!(own_cgroup(&processes), first);
    // One that a task has made a cgroup in is not given to the next.
    fs::create_dir(first.join("sub")).unwrap();
    {
        let tree = processes.tree();
        assert!(tree.is_empty());
    }
    let second = own_cgroup(&processes);
    assert_ne!(second, first);
    let tree = processes.tree();
    processes.close();
    assert!(!first.exists());
    drop(tree);
    assert!(!second.exists());
}

/// The directory of the cgroup that the next tree gets.
fn own_cgroup(processes: &Processes) -> PathBuf {
    let tree = processes.tree();
    let mut child = processes.start(&shell("cat /proc/self/cgroup /proc/self/mountinfo"), Some(&tree)).unwrap();
    let text = output_of(&mut child);
    finish(&child);
    until("the tree is empty", || tree.is_empty());
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let mount = text.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    PathBuf::from(mount.split(' ').nth(4).unwrap()).join(own)
}
