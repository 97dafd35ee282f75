//! Signals: those that the worker's parent left ignored or blocked, those that ask it to stop, and all others.

use oz_worker_tests::{
    agent::Agent,
    message::Assignment,
    process::{self, Watch},
    server::Server,
    worker::Launch,
};
use rustix::process::Signal;
use serde_json::json;

use crate::scene::Scene;

#[test]
fn what_the_parent_ignores_or_blocks_changes_nothing() {
    let mut scene = Scene::with(|launch| {
        launch.through(["env", "--ignore-signal=CHLD,TERM,INT,USR1", "--block-signal=TERM,CHLD,INT,HUP"])
    });
    assert_eq!(scene.run(&Assignment::new("T1").run("exit 7"))["data"]["exit_code"], 7);
    // Nor is it passed on.
    scene.run(
        &Assignment::new("T2").run("say signals $(grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2 | tr -d '\\n')"),
    );
    assert_eq!(scene.agent.hear("T2", "signals"), "0".repeat(32));
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.session.expect_close(), Some(1000));
    scene.session.hang_up();
    assert_eq!(scene.worker.exit().code(), Some(0));
}

#[test]
fn hangup_and_quit_ask_the_worker_to_stop() {
    for signal in [Signal::HUP, Signal::QUIT] {
        // Whoever runs this may ignore them, for himself and all that he starts: `nohup`.
        let mut scene = Scene::with(|launch| launch.through(["env", "--default-signal=HUP,QUIT"]));
        scene.claim(&Assignment::new("T1").run("say pid $$; sleep 600"));
        let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
        scene.worker.signal(signal);
        assert_eq!(scene.session.expect("task_failed")["failure_reason"], "graceful_shutdown", "{signal:?}");
        assert_eq!(scene.session.expect_close(), Some(1000));
        scene.session.hang_up();
        assert_eq!(scene.worker.exit().code(), Some(0));
        assert!(!agent.is_alive());
    }
}

#[test]
fn a_worker_under_nohup_outlives_its_terminal() {
    let mut scene = Scene::with(|launch| launch.through(["env", "--ignore-signal=HUP"]));
    scene.worker.signal(Signal::HUP);
    scene.still_works("T1");
}

#[test]
fn no_other_signal_changes_anything() {
    let mut scene = Scene::new();
    scene.claim(&Assignment::new("T1").run("say started; gate"));
    scene.agent.wait_for("T1", "started");
    // All but those that ask it to stop, that nobody can handle (KILL, STOP), that say that it is broken (ILL, TRAP, ABRT, BUS, FPE,
    // SEGV, SYS), and that the C library keeps to itself.
    let others = (1..=64).filter(|number| ![1, 2, 3, 15, 9, 19, 4, 5, 6, 7, 8, 11, 31, 32, 33].contains(number));
    for number in others {
        // The shell's own: the usual types know no real-time signal.
        let sent = format!("kill -{number} {}", scene.worker.pid());
        assert!(std::process::Command::new("bash").args(["-c", &sent]).status().unwrap().success(), "{number}");
    }
    scene.agent.open_gate();
    assert_eq!(scene.end_of("T1")["type"], "task_completed");
    scene.still_works("T2");
}

#[test]
fn hangup_after_sigterm_does_not_end_a_drain_and_a_second_sigterm_does() {
    let mut scene = Scene::with(|launch| launch.flags(["--drain-timeout", "10m"]));
    scene.claim(&Assignment::new("T1").run("say started; sleep 600"));
    scene.agent.wait_for("T1", "started");
    scene.worker.signal(Signal::TERM);
    scene.worker.wait_for_line("draining");
    for signal in [Signal::HUP, Signal::QUIT, Signal::HUP] {
        scene.worker.signal(signal);
        // Once it answers to what came after, it has heard the signal.
        scene.session.send(Assignment::new("T2"));
        let rejected = json!({"task_id": "T2", "reason": "worker is shutting down"});
        assert_eq!(scene.session.expect("task_rejected"), rejected, "{signal:?}");
    }
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.session.expect("task_failed")["failure_reason"], "graceful_shutdown");
}

#[test]
fn every_child_leads_a_session_of_its_own() {
    let holder = tempfile::tempdir().unwrap();
    let sessions = holder.path().join("sessions");
    let note = format!("cut -d' ' -f1,6 /proc/$$/stat >> '{}'", sessions.display());
    let lead = |count: usize| {
        let text = std::fs::read_to_string(&sessions).unwrap();
        let leads = |line: &str| line.split_once(' ').is_some_and(|(pid, session)| pid == session);
        assert!(text.lines().all(leads) && text.lines().count() == count, "{text:?}");
    };
    let mut scene =
        Scene::with(|launch| launch.config("setup_command", note.as_str()).config("teardown_command", note.as_str()));
    scene.run(&Assignment::new("T1").run(&note));
    lead(3);
    let (server, agent) = (Server::start(), Agent::new());
    let worker = Launch::command(&server, &agent).config("dispatch_command", format!("{note}; exit 1")).start();
    let mut session = server.accept();
    session.send(Assignment::new("T1"));
    session.expect("task_claimed");
    session.expect("task_failed");
    lead(4);
    drop(worker);
}

#[test]
fn the_process_that_keeps_watch_has_no_key_and_goes_with_its_worker() {
    let mut scene = Scene::new();
    let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let id = scene.worker.launch.id().to_owned();
    let is_keeper = |pid: &i32| name(*pid).trim() == "oz-keeper" && process::contains(&process::arguments(*pid), &id);
    let keepers: Vec<Watch> = process::all().into_iter().filter(is_keeper).map(Watch::new).collect();
    assert_eq!(keepers.len(), 1);
    for keeper in &keepers {
        assert!(!process::contains(&process::environment(keeper.pid), "KEY"));
        for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1] {
            process::signal(keeper.pid, signal);
        }
        assert!(keeper.is_alive());
    }
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.session.expect_close(), Some(1000));
    scene.session.hang_up();
    assert_eq!(scene.worker.exit().code(), Some(0));
    assert!(keepers.iter().all(|keeper| keeper.ends_within(oz_worker_tests::BOUND)));
}
