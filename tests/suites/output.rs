//! What a task prints: line by line in the worker's log, and no way to hurt the worker.

use std::sync::mpsc;

use oz_worker_tests::{BOUND, message::Assignment};

use crate::scene::Scene;

#[test]
fn output_and_errors_are_logged_line_by_line_with_the_task() {
    let mut scene = Scene::new();
    scene.run(&Assignment::new("the-task").run("echo to-stdout; echo to-stderr >&2; printf 'no newline'"));
    for text in ["to-stdout", "to-stderr", "no newline"] {
        let line = scene.worker.wait_for_line(text);
        assert!(line.contains("the-task"), "{line}");
    }
}

#[test]
fn control_characters_of_a_task_do_not_reach_the_terminal() {
    let mut scene = Scene::new();
    scene.run(&Assignment::new("T1").run(r"printf 'before\033[2J\007\b\000after\377\n'"));
    let line = scene.worker.wait_for_line("before");
    assert!(line.contains("after"), "{line:?}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[test]
fn line_over_16_kib_is_cut_in_its_middle() {
    let mut scene = Scene::new();
    let script = "printf 'head-'; head -c 100000 /dev/zero | tr '\\0' x; echo -tail; echo next-line";
    scene.run(&Assignment::new("T1").run(script));
    scene.worker.wait_for_line("next-line");
    let line = scene.worker.wait_for_line("head-xxx");
    assert!(line.ends_with("xxx-tail"), "{}", line.get(line.len() - 40..).unwrap());
    assert!((16_000..18_000).contains(&line.len()), "{} bytes", line.len());
}

#[test]
fn what_waits_for_an_answer_is_shown_as_it_stands() {
    let mut scene = Scene::new();
    scene.claim(&Assignment::new("T1").run("printf 'Password: '; gate; echo; echo next"));
    assert!(scene.worker.wait_for_line("Password: ").ends_with("T1 | Password: "));
    scene.agent.open_gate();
    scene.end_of("T1");
    scene.worker.wait_for_line("T1 | next");
    assert_eq!(scene.worker.lines_with("T1 | ").len(), 2, "{:#?}", scene.worker.log());
}

#[test]
fn a_carriage_return_ends_a_line() {
    let mut scene = Scene::new();
    let script = r"for i in 1 2 3; do printf '\rprogress %s0 %%' $i; done; printf '\rerror: at last\r\n'";
    scene.run(&Assignment::new("T1").run(script));
    scene.worker.wait_for_line("error: at last");
    let lines: Vec<String> = scene.worker.lines_with("T1 | ");
    let texts: Vec<&str> = lines.iter().filter_map(|line| line.split_once("T1 | ")).map(|(_, text)| text).collect();
    assert_eq!(texts, ["progress 10 %", "progress 20 %", "progress 30 %", "error: at last"]);
}

#[test]
fn line_of_100_mb_passes() {
    let mut scene = Scene::new();
    let before = resident(&scene);
    scene.claim(&Assignment::new("T1").run("head -c 100000000 /dev/zero | tr '\\0' x; echo; echo next-line"));
    // Not one event but seconds of work, of which a busy machine makes a minute.
    let end = scene.session.recv_within(6 * BOUND).unwrap();
    assert_eq!(end["type"], "task_completed");
    scene.worker.wait_for_line("next-line");
    let grown = resident(&scene).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more than before");
    scene.still_works("T2");
}

#[test]
fn ten_thousand_lines_are_all_accounted_for() {
    let mut scene = Scene::new();
    let end = scene.run(&Assignment::new("flood").run("seq -f 'line-%05.0f' 10000"));
    assert_eq!(end["type"], "task_completed");
    // What is missing was counted. The worker waits a second for the end of it, so that the task's end may be in the log
    // before it on a busy machine.
    let (send, log) = mpsc::channel();
    scene.worker.on_line(move |line| drop(send.send(line.to_owned())));
    let (mut shown, mut dropped) = (Vec::new(), 0);
    while shown.len() + dropped < 10_000 {
        let line = log.recv_timeout(BOUND).unwrap_or_else(|_| panic!("{} shown, {dropped} dropped", shown.len()));
        if line.contains("flood | line-") {
            shown.push(number(&line, "line-"));
        } else if line.contains("output lines dropped") {
            dropped += number(&line, "lines=");
        }
    }
    assert_eq!(shown.len() + dropped, 10_000, "{dropped} are said to be dropped");
    assert!(shown.is_sorted());
}

/// The number after `label`.
fn number(line: &str, label: &str) -> usize {
    let (_, after) = line.split_once(label).unwrap();
    let digits = after.find(|char: char| !char.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().unwrap()
}

#[test]
fn flood_of_one_task_does_not_slow_another() {
    let mut scene = Scene::new();
    scene.claim(&Assignment::new("flood").run("say started; yes 'a line that never ends to come back'"));
    scene.agent.wait_for("flood", "started");
    for count in 0..10 {
        scene.still_works(&format!("T{count}"));
    }
    scene.session.ping(b"still there");
    scene.session.expect_pong(b"still there");
    scene.cancel("flood");
    let grown = resident(&scene);
    assert!(grown < 64 << 20, "{grown} bytes resident");
}

#[test]
fn output_that_stays_open_does_not_hold_the_end() {
    let mut scene = Scene::new();
    // The descendant keeps the pipe; it goes with the task, and the end does not wait for it.
    scene.claim(&Assignment::new("T1").run("sleep 600 & say started; exit 0"));
    assert_eq!(scene.end_of("T1")["type"], "task_completed");
}

/// Resident memory of the worker, in bytes.
fn resident(scene: &Scene) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.worker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}
