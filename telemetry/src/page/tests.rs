//! What the page says of each state, and that nothing it is given becomes markup.

#![allow(clippy::unwrap_used)]

use oz_worker_core::metrics::{FailureReason, RejectReason};
use oz_worker_core::{Cause, Failure, Notice};

use super::*;
use crate::identity::Identity;
use crate::resource::tests::identity;
use crate::step::TaskStep;

const CONNECTED: Notice = Notice::Connected { unproven_ends: 0, is_repeated: false };
const DRAINING: Notice = Notice::Draining { signal: "SIGTERM", active: 1, timeout: Duration::ZERO };
const STOPPING: Notice = Notice::Stopping { signal: "SIGTERM", active: 1 };

/// The page is asked for so long after all that it tells of has happened.
const LATER: Duration = Duration::from_secs(125);
/// How the page has that moment. Its own is `2026-11-22T19:18:43Z`.
const THEN: &str = "<time datetime=\"2026-11-22T19:16:38Z\">2 min 5 s</time>";

/// A worker to which this has happened at the very moment of its start.
fn worker(identity: Identity, notices: &[Notice]) -> (Status, Instant) {
    let status = Status::new(identity);
    let now = Instant::now();
    let then = now.checked_sub(status.uptime(now)).unwrap();
    for notice in notices {
        status.note(then, notice);
    }
    (status, then)
}

/// Its page; the run loop lives.
fn shown((status, then): &(Status, Instant)) -> String {
    let now = *then + LATER;
    status.alive(now, Duration::ZERO);
    let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_375_123);
    Page { status, state: status.state(MAX_SHOWN), now, clock }.to_string()
}

fn page(max_concurrent_tasks: u32, notices: &[Notice]) -> String {
    shown(&worker(Identity { max_concurrent_tasks, ..identity() }, notices))
}

/// What stands on a page between `begin` and the next `end`.
fn part<'a>(html: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = html.split_once(begin).unwrap();
    rest.split_once(end).unwrap().0
}

fn claimed(task_id: &str, title: &str, active: usize) -> Notice {
    Notice::Claimed { task_id: task_id.into(), execution_id: None, title: title.into(), active }
}

fn ended(task_id: &str, result: TaskResult, message: Option<&str>) -> Notice {
    let (task_id, duration) = (task_id.into(), Duration::from_millis(3_400));
    let reason = FailureReason::AgentInvocation;
    let failure = message.map(|message| Failure { reason, exit_code: 3, message: message.to_owned() });
    Notice::Ended { task_id, result, duration, failure, active: 0 }
}

fn lost(cause: &str) -> Notice {
    Notice::Disconnected { cause: Cause::Outside(cause.into()), retry_in: Duration::ZERO }
}

#[test]
fn the_policy_allows_this_style_and_nothing_else() {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let hash = suite.common.hash_provider.hash(STYLE.as_bytes());
    let source = format!("'sha256-{}'", data_encoding::BASE64.encode(hash.as_ref()));
    let (_, policy) = HEADERS.first().unwrap();
    assert!(policy.contains(&source), "page.css has changed: style-src is now {source}");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
    assert!(!page(0, &[CONNECTED]).contains("style="), "what the policy would not apply");
}

#[test]
fn it_is_html_under_the_policy_and_is_kept_by_nobody() {
    let (status, _) = worker(identity(), &[]);
    let reply = String::from_utf8(answer(&status).encode(false, false, false)).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body.starts_with("<!doctype html>\n"), "{reply}");
    for (name, value) in [("Content-Type", "text/html; charset=utf-8")].iter().chain(HEADERS) {
        assert!(head.contains(&format!("\r\n{name}: {value}\r\n")), "{head}");
    }
}

#[test]
fn says_at_a_glance_whether_it_is_connected_and_since_when() {
    let task = claimed("a", "", 1);
    for (notices, title, colour, tone, word, since) in [
        (vec![], "0 running", "b97a00", "warn", "Connecting", "for"),
        (vec![CONNECTED, task.clone()], "1 running", "1a7a4c", "good", "Connected", "for"),
        (vec![CONNECTED, task.clone(), lost("reset")], "Not connected", "b42318", "bad", "Not connected", "for"),
        (vec![CONNECTED, task, DRAINING], "1 running", "b97a00", "warn", "Draining", "connected for"),
        (vec![lost("reset"), STOPPING], "0 running", "b97a00", "warn", "Stopping", "not connected for"),
    ] {
        let html = page(4, &notices);
        assert_eq!(part(&html, "<title>", "</title>"), format!("{title} · w1"), "{word}");
        assert_eq!(part(&html, "fill='%23", "'"), colour, "{word}");
        let link = format!("{tone}\"><strong>{word}</strong><span>{since} {THEN}</span>");
        assert_eq!(part(&html, "<p class=\"link ", "</p>"), link);
    }
}

#[test]
fn says_which_worker_it_is_and_for_how_long_it_has_been_up() {
    let words = |identity| part(&shown(&worker(identity, &[])), "<div>", "</div>").to_owned();
    assert_eq!(words(identity()), "<h1>w1</h1><p>direct backend on node-7, up for 2 min 5 s</p>");
    let nowhere = Identity { host_name: String::new(), worker_id: "<w>".to_owned(), ..identity() };
    assert_eq!(words(nowhere), "<h1>&lt;w&gt;</h1><p>direct backend, up for 2 min 5 s</p>");
}

#[test]
fn says_in_one_note_why_no_task_is_taken() {
    let (task, unready) = (claimed("a<", "", 1), Notice::NotReady { task_id: "a<".into() });
    let full = ("warn", "Every slot is taken; new tasks are declined.");
    let unstarted = ("bad", "Task a&lt; was claimed and does not start; new tasks are declined.");
    for (limit, notices, note) in [
        (1, vec![], None),
        (1, vec![CONNECTED], None),
        (2, vec![CONNECTED, task.clone()], None),
        (0, vec![CONNECTED, task.clone()], None),
        (1, vec![CONNECTED, task.clone()], Some(full)),
        (1, vec![CONNECTED, task.clone(), unready.clone()], Some(unstarted)),
        (1, vec![CONNECTED, task.clone(), unready.clone(), lost("reset & gone")], Some(("bad", "reset &amp; gone"))),
        (
            1,
            vec![CONNECTED, task.clone(), unready, DRAINING],
            Some(("warn", "No new task is taken; those that run may finish.")),
        ),
        (
            1,
            vec![task, lost("reset"), DRAINING, STOPPING],
            Some(("warn", "No new task is taken; the worker is about to leave.")),
        ),
    ] {
        let note = note.map(|(tone, words)| format!("<p class=\"note {tone}\"><span><bdi>{words}</bdi></span></p>\n"));
        assert_eq!(part(&page(limit, &notices), "<main>\n", "<dl>"), note.unwrap_or_default());
    }
}

#[test]
fn notes_everything_that_is_stuck() {
    let worker = worker(identity(), &[CONNECTED]);
    let (status, then) = &worker;
    let _promises = ["executor 1", "executor 2"].map(|name| status.heartbeat(name, *then));
    let notes = ["executor 1", "executor 2"].map(|name| {
        format!("<p class=\"note bad\"><span><bdi>The worker is stuck: {name} should have moved 1 min 50 s ago.</bdi></span></p>\n")
    });
    assert_eq!(part(&shown(&worker), "<main>\n", "<dl>"), notes.concat());
}

#[test]
fn counts_everything_and_makes_a_colour_of_failures_alone() {
    let nothing = part(&page(0, &[]), "<dl>\n", "</dl>").to_owned();
    let expected = "\
<div><dt>Running</dt><dd>0</dd></div>
<div><dt>Succeeded</dt><dd>0</dd></div>
<div><dt>Failed</dt><dd>0</dd></div>
<div><dt>Cancelled</dt><dd>0</dd></div>
<div><dt>Declined</dt><dd>0</dd></div>
<div><dt>Reconnects</dt><dd>0</dd></div>
";
    assert_eq!(nothing, expected);

    let declined = Notice::Rejected {
        task_id: "b".into(),
        title: String::new(),
        reason: RejectReason::AtCapacity,
        active: 1,
        is_repeated: false,
    };
    let results = TaskResult::ALL.iter().map(|result| ended("a", *result, None));
    let all: Vec<_> = results.chain([declined, lost("reset"), lost("reset"), claimed("c", "", 1)]).collect();
    let html = page(0, &all);
    let expected = "\
<div><dt>Running</dt><dd>1</dd></div>
<div><dt>Succeeded</dt><dd>1</dd></div>
<div><dt>Failed</dt><dd class=\"bad\">1</dd></div>
<div><dt>Cancelled</dt><dd>1</dd></div>
<div><dt>Dispatched</dt><dd>1</dd></div>
<div><dt>Declined</dt><dd>1</dd></div>
<div><dt>Reconnects</dt><dd>2</dd></div>
";
    assert_eq!(part(&html, "<dl>\n", "</dl>"), expected);
}

#[test]
fn draws_the_slots_that_are_taken_where_there_is_a_limit() {
    for (active, bar) in [
        (0, "width=\"0\" height=\"1\"/>"),
        (1, "width=\"1\" height=\"1\"/>"),
        (2, "width=\"2\" height=\"1\" class=\"full\"/>"),
    ] {
        let html = page(2, &[claimed("a", "", active)]);
        let expected = format!(
            "{active} <small>of 2</small></dd><dd><svg viewBox=\"0 0 2 1\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect {bar}</svg></dd>"
        );
        assert_eq!(part(&html, "<dt>Running</dt><dd>", "</div>"), expected);
    }
}

#[test]
fn lists_what_runs_with_its_step_and_what_is_being_cancelled() {
    let running = |html: &str| part(html, "<h2>Running</h2>\n", "</section>").to_owned();
    assert_eq!(running(&page(0, &[CONNECTED])), "<p class=\"none\">Nothing runs.</p>\n");

    let cancel = Notice::CancelRequested { task_id: "b".into() };
    let worker = worker(identity(), &[CONNECTED, claimed("a", " ", 1), claimed("b", "Mend <it>", 2), cancel]);
    worker.0.step("b", &TaskStep::Waiting { reason: Some("0/3 nodes & <none>".into()) });
    let expected = format!(
        "<ul>\n\
         <li><div><bdi class=\"id\">a</bdi></div><div class=\"time\"><strong>{THEN}</strong></div></li>\n\
         <li><div><bdi class=\"title\">Mend &lt;it&gt;</bdi><bdi class=\"id\">b</bdi>\
         <bdi class=\"why\">Waiting for a node: 0/3 nodes &amp; &lt;none&gt;</bdi></div>\
         <div class=\"time\"><strong>{THEN}</strong><div class=\"state warn\">Being cancelled</div></div></li>\n\
         </ul>\n"
    );
    assert_eq!(running(&shown(&worker)), expected);
}

#[test]
fn lists_what_has_ended_the_latest_first_with_how_and_why() {
    let lately = |html: &str| part(html, "<h2>Ended lately", "</section>").to_owned();
    assert_eq!(lately(&page(0, &[CONNECTED])), "</h2>\n<p class=\"none\">No task has ended yet.</p>\n");

    let time = "<time datetime=\"2026-11-22T19:16:38Z\">2 min 5 s ago</time>";
    for (result, tone, word) in [
        (TaskResult::Succeeded, "good", "Succeeded"),
        (TaskResult::Failed, "bad", "Failed"),
        (TaskResult::Cancelled, "warn", "Cancelled"),
        (TaskResult::Dispatched, "other", "Dispatched"),
    ] {
        let end = format!(
            "</div><div class=\"time\"><span class=\"state {tone}\">{word}</span> after 3.4 s {time}</div></li>\n"
        );
        let notices =
            [claimed("a", "Mend it", 1), ended("a", result, None), ended("b", result, Some("exited with <3>"))];
        let expected = format!(
            "</h2>\n<ul class=\"past\">\n\
             <li><div><bdi class=\"id\">b</bdi><bdi class=\"why\">exited with &lt;3&gt;</bdi>{end}\
             <li><div><bdi class=\"title\">Mend it</bdi><bdi class=\"id\">a</bdi>{end}\
             </ul>\n"
        );
        assert_eq!(lately(&page(0, &notices)), expected);
    }
}

#[test]
fn ends_with_the_version_and_the_moment_it_tells_of() {
    let expected = "<span>oz-agent-worker 1.2.3 · <time datetime=\"2026-11-22T19:18:43Z\">19:18:43 UTC</time>, refreshed \
                    every 5 s</span>\n\
                    <a href=\"metrics\">metrics</a> <a href=\"readyz\">readyz</a> <a href=\"livez\">livez</a>\n";
    let html = page(0, &[]);
    assert_eq!(part(&html, "<footer>\n", "</footer>"), expected);
    assert!(html.contains("<meta http-equiv=\"refresh\" content=\"5\">") && html.ends_with("</body>\n</html>\n"));
}

#[test]
fn what_began_before_the_clock_can_tell_is_still_as_old_as_it_is() {
    let (status, then) = worker(identity(), &[CONNECTED]);
    let page = Page { status: &status, state: status.state(0), now: then + LATER, clock: SystemTime::UNIX_EPOCH };
    let html = page.to_string();
    assert!(html.contains("for <time datetime=\"1970-01-01T00:00:00Z\">2 min 5 s</time>"), "{html}");
}

#[test]
fn nothing_that_a_server_sends_becomes_markup() {
    let evil = "</title><script>alert(1)</script><img src=x onerror='a'>\"&\0\u{202e}";
    let cause = Cause::Outside(evil.into());
    let not_connected = Notice::DialFailed { cause, retry_in: Duration::ZERO };
    let failed = ended(evil, TaskResult::Failed, Some(evil));
    let html = page(0, &[claimed(evil, evil, 1), failed, claimed(evil, evil, 1), not_connected]);
    for markup in ["<script", "<img", "onerror='", "\0"] {
        assert!(!html.contains(markup), "{markup}");
    }
    let shown = "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&#39;a&#39;&gt;&quot;&amp;\\u{0}\\u{202e}</bdi>";
    // Twice the id, twice the title, why it failed, why it is not connected.
    assert_eq!(html.matches(shown).count(), 6, "{html}");
    assert!(!html.lines().any(|line| line.contains(is_unfit)), "{html}");
}

#[test]
fn what_could_move_a_cursor_or_turn_the_text_is_shown_as_something_that_is_not_text() {
    assert_eq!(HtmlText("a\u{1b}b\u{202e}c\n'").to_string(), "a\u{fffd}b\u{fffd}c\u{fffd}&#39;");
}

#[test]
fn a_thousand_tasks_are_shown_as_some_and_a_number_and_the_page_stays_small() {
    let title = "A title as long as people write them, of about seventy characters or so";
    let mut notices = vec![CONNECTED];
    notices.extend((1..=1_000).map(|count| claimed(&format!("task-{count}"), title, count)));
    let html = page(0, &notices);
    assert_eq!(html.matches("<li><div>").count(), MAX_SHOWN);
    assert!(html.contains("<li class=\"time\">and 970 more</li>") && html.contains("task-1<"));
    let why = Some("the agent exited with code 3");
    notices.extend((1..=1_000).map(|count| ended(&format!("task-{count}"), TaskResult::Failed, why)));
    let html = page(0, &notices);
    assert!(html.contains("the last 20 of 1000") && html.contains("task-1000<") && !html.contains("task-980<"));
    assert!(html.len() <= 12 * 1024, "{} bytes", html.len());
}
