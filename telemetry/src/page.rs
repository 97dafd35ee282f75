//! `/`: the status of the worker on one page, for a person.
//!
//! It works without scripts, and loads nothing from anywhere: the policy in [`HEADERS`] forbids both. What the server sends
//! (ids, titles, reasons) is untrusted: it reaches the page through [`HtmlText`] only, bounded in length (`status.rs`), and inside
//! `<bdi>`, so that its direction does not reorder what stands beside it. Which characters are not fit to be shown is asked
//! of `oz_worker_text::line`.

use std::fmt::{self, Display, Write};
use std::time::{Duration, Instant, SystemTime};

use oz_worker_core::metrics::TaskResult;
use oz_worker_text::duration::{moment, span, took};
use oz_worker_text::line::is_unfit;

use crate::http::HttpReply;
use crate::pulse::Overdue;
use crate::status::{Connectivity, EndedTask, Leaving, RunningTask, Status, StatusView};

/// How often a browser loads the page anew.
const REFRESH: Duration = Duration::from_secs(5);
/// The most running tasks that are shown; of the rest there is the number.
const MAX_SHOWN: usize = 30;

const STYLE: &str = include_str!("page.css");

/// `style-src` is the hash of [`STYLE`]; when that was changed, a test says what the hash is now. `img-src` is for the icon.
const HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'sha256-sti+n8XAyiMdASNlkGdJ5BxVhZWK7YQ8hizxojCeYbc='; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
];

pub(crate) fn answer(status: &Status) -> HttpReply {
    let page = Page { status, state: status.state(MAX_SHOWN), now: Instant::now(), clock: SystemTime::now() };
    HttpReply::new(200, "text/html; charset=utf-8", page.to_string().into_bytes()).with(HEADERS)
}

/// Text in which nothing is markup.
struct HtmlText<'a>(&'a str);

impl Display for HtmlText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c if is_unfit(c) => f.write_char(char::REPLACEMENT_CHARACTER),
            c => f.write_char(c),
        })
    }
}

/// One page. All times on it are of one moment, by both clocks.
struct Page<'a> {
    status: &'a Status,
    state: StatusView,
    now: Instant,
    clock: SystemTime,
}

impl Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tone, word) = self.link();
        let worker = HtmlText(&self.status.identity.worker_id);
        let refresh = REFRESH.as_secs();
        let running = if tone == "bad" { word.to_owned() } else { format!("{} running", self.state.active) };
        let colour = match tone {
            "good" => "1a7a4c",
            "bad" => "b42318",
            _ => "b97a00",
        };
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"refresh\" content=\"{refresh}\">\n\
             <title>{running} · {worker}</title>\n\
             <link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E\
             %3Ccircle cx='4' cy='4' r='4' fill='%23{colour}'/%3E%3C/svg%3E\">\n\
             <style>{STYLE}</style>\n</head>\n<body>\n"
        )?;
        self.header(f, tone, word)?;
        f.write_str("<main>\n")?;
        self.notes(f)?;
        self.facts(f)?;
        self.running(f)?;
        self.ended(f)?;
        f.write_str("</main>\n")?;
        self.footer(f)?;
        f.write_str("</body>\n</html>\n")
    }
}

impl Page<'_> {
    /// The connection in a word, and the tone that goes with it.
    const fn link(&self) -> (&'static str, &'static str) {
        match (self.state.leaving, &self.state.link) {
            (Some(Leaving::Draining), _) => ("warn", "Draining"),
            (Some(Leaving::Stopping), _) => ("warn", "Stopping"),
            (None, Connectivity::Connected) => ("good", "Connected"),
            (None, Connectivity::Disconnected(None)) => ("warn", "Connecting"),
            (None, Connectivity::Disconnected(Some(_))) => ("bad", "Not connected"),
        }
    }

    fn header(&self, f: &mut fmt::Formatter<'_>, tone: &str, word: &str) -> fmt::Result {
        let identity = &self.status.identity;
        let (worker, backend, host) =
            (HtmlText(&identity.worker_id), HtmlText(&identity.backend), HtmlText(&identity.host_name));
        write!(f, "<header>\n<div><h1>{worker}</h1><p>{backend} backend")?;
        if !identity.host_name.is_empty() {
            write!(f, " on {host}")?;
        }
        write!(f, ", up for {}", span(self.status.uptime(self.now)))?;
        let link = match self.state.link {
            Connectivity::Connected => "connected",
            Connectivity::Disconnected(_) => "not connected",
        };
        let age = self.state.age(self.now);
        let since = if self.state.leaving.is_some() { format!("{link} for") } else { "for".to_owned() };
        let time = self.time(age, &span(age));
        writeln!(
            f,
            "</p></div>\n<p class=\"link {tone}\"><strong>{word}</strong><span>{since} {time}</span></p>\n</header>"
        )
    }

    /// What a person should know that is not so every day.
    fn notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Overdue { name, late } in self.status.stuck(self.now) {
            note(f, "bad", &format!("The worker is stuck: {name} should have moved {} ago.", span(late)))?;
        }
        let limit = self.status.identity.max_concurrent_tasks as usize;
        match (self.state.leaving, &self.state.link, &self.state.unstarted) {
            (Some(Leaving::Draining), ..) => note(f, "warn", "No new task is taken; those that run may finish."),
            (Some(Leaving::Stopping), ..) => note(f, "warn", "No new task is taken; the worker is about to leave."),
            (None, Connectivity::Disconnected(Some(cause)), _) => note(f, "bad", cause),
            (None, Connectivity::Connected, Some(task)) => {
                note(f, "bad", &format!("Task {task} was claimed and does not start; new tasks are declined."))
            }
            (None, Connectivity::Connected, None) if limit > 0 && self.state.active >= limit => {
                note(f, "warn", "Every slot is taken; new tasks are declined.")
            }
            _ => Ok(()),
        }
    }

    fn facts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.state.counts;
        let (active, limit) = (self.state.active, self.status.identity.max_concurrent_tasks);
        write!(f, "<dl>\n<div><dt>Running</dt><dd>{active}")?;
        if limit > 0 {
            let full = if active >= limit as usize { " class=\"full\"" } else { "" };
            writeln!(
                f,
                " <small>of {limit}</small></dd><dd><svg viewBox=\"0 0 {limit} 1\" preserveAspectRatio=\"none\" \
                 aria-hidden=\"true\"><rect width=\"{active}\" height=\"1\"{full}/></svg></dd></div>"
            )?;
        } else {
            f.write_str("</dd></div>\n")?;
        }
        for result in TaskResult::ALL {
            let count = counts.ended.get(*result as usize).copied().unwrap_or_default();
            if *result != TaskResult::Dispatched || count > 0 {
                let (tone, word) = word(*result);
                let tone = if *result == TaskResult::Failed && count > 0 { tone } else { "" };
                fact(f, word, tone, count)?;
            }
        }
        fact(f, "Declined", "", counts.rejected)?;
        fact(f, "Reconnects", "", counts.reconnects)?;
        f.write_str("</dl>\n")
    }

    fn running(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<section>\n<h2>Running</h2>\n")?;
        if self.state.active == 0 {
            return f.write_str("<p class=\"none\">Nothing runs.</p>\n</section>\n");
        }
        f.write_str("<ul>\n")?;
        for RunningTask { task_id, title, since, is_cancelled, step } in &self.state.running {
            let age = self.now.saturating_duration_since(*since);
            let time = self.time(age, &span(age));
            task(f, task_id, title)?;
            if !step.is_empty() {
                write!(f, "<bdi class=\"why\">{}</bdi>", HtmlText(step))?;
            }
            write!(f, "</div><div class=\"time\"><strong>{time}</strong>")?;
            if *is_cancelled {
                f.write_str("<div class=\"state warn\">Being cancelled</div>")?;
            }
            f.write_str("</div></li>\n")?;
        }
        let more = self.state.active.saturating_sub(self.state.running.len());
        if more > 0 {
            writeln!(f, "<li class=\"time\">and {more} more</li>")?;
        }
        f.write_str("</ul>\n</section>\n")
    }

    fn ended(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.state.counts.ended.iter().sum();
        let shown = self.state.ended.len();
        f.write_str("<section>\n<h2>Ended lately")?;
        if all > shown as u64 {
            write!(f, " <span>the last {shown} of {all}</span>")?;
        }
        f.write_str("</h2>\n")?;
        if shown == 0 {
            return f.write_str("<p class=\"none\">No task has ended yet.</p>\n</section>\n");
        }
        f.write_str("<ul class=\"past\">\n")?;
        for EndedTask { task_id, title, result, duration, failure, at } in &self.state.ended {
            let age = self.now.saturating_duration_since(*at);
            let time = self.time(age, &format!("{} ago", span(age)));
            let (tone, word) = word(*result);
            task(f, task_id, title)?;
            if let Some(failure) = failure {
                write!(f, "<bdi class=\"why\">{}</bdi>", HtmlText(failure))?;
            }
            let took = took(*duration);
            writeln!(
                f,
                "</div><div class=\"time\"><span class=\"state {tone}\">{word}</span> after {took} {time}</div></li>"
            )?;
        }
        f.write_str("</ul>\n</section>\n")
    }

    fn footer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, refresh) = (HtmlText(&self.status.identity.version), REFRESH.as_secs());
        let now = moment(self.clock);
        let shown = now.get(11..19).unwrap_or(&now);
        writeln!(
            f,
            "<footer>\n<span>oz-agent-worker {version} · <time datetime=\"{now}\">{shown} UTC</time>, refreshed every {refresh} s\
             </span>\n<a href=\"metrics\">metrics</a> <a href=\"readyz\">readyz</a> <a href=\"livez\">livez</a>\n</footer>"
        )
    }

    /// Words for the moment that is `age` ago, with the moment itself for machines.
    fn time(&self, age: Duration, words: &str) -> String {
        let at = self.clock.checked_sub(age).map(moment).unwrap_or_default();
        format!("<time datetime=\"{at}\">{words}</time>")
    }
}

fn note(f: &mut fmt::Formatter<'_>, tone: &str, words: &str) -> fmt::Result {
    writeln!(f, "<p class=\"note {tone}\"><span><bdi>{}</bdi></span></p>", HtmlText(words))
}

fn fact(f: &mut fmt::Formatter<'_>, name: &str, tone: &str, value: impl Display) -> fmt::Result {
    let class = if tone.is_empty() { String::new() } else { format!(" class=\"{tone}\"") };
    writeln!(f, "<div><dt>{name}</dt><dd{class}>{value}</dd></div>")
}

/// The first half of a task's line: what it is. A task without a title goes by its id.
fn task(f: &mut fmt::Formatter<'_>, task_id: &str, title: &str) -> fmt::Result {
    f.write_str("<li><div>")?;
    if !title.trim().is_empty() {
        write!(f, "<bdi class=\"title\">{}</bdi>", HtmlText(title))?;
    }
    write!(f, "<bdi class=\"id\">{}</bdi>", HtmlText(task_id))
}

const fn word(result: TaskResult) -> (&'static str, &'static str) {
    match result {
        TaskResult::Succeeded => ("good", "Succeeded"),
        TaskResult::Failed => ("bad", "Failed"),
        TaskResult::Cancelled => ("warn", "Cancelled"),
        TaskResult::Dispatched => ("other", "Dispatched"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use oz_worker_core::metrics::FailureReason;
    use oz_worker_core::{Cause, Failure, Notice};

    use super::*;
    use crate::identity::Identity;
    use crate::step::TaskStep;

    fn page(max_concurrent_tasks: u32, notices: &[Notice]) -> String {
        let identity = Identity { max_concurrent_tasks, ..crate::resource::tests::identity() };
        let status = Status::new(identity);
        let now = Instant::now();
        for notice in notices {
            status.note(now, notice);
        }
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_375_123);
        let now = now + Duration::from_secs(125);
        Page { status: &status, state: status.state(MAX_SHOWN), now, clock }.to_string()
    }

    fn claimed(task_id: &str, title: &str, active: usize) -> Notice {
        Notice::Claimed { task_id: task_id.into(), execution_id: None, title: title.into(), active }
    }

    fn failed(task_id: &str, message: &str) -> Notice {
        let (reason, message) = (FailureReason::AgentInvocation, message.to_owned());
        Notice::Ended {
            task_id: task_id.into(),
            result: TaskResult::Failed,
            duration: Duration::from_millis(3_400),
            failure: Some(Failure { reason, exit_code: 3, message }),
            active: 0,
        }
    }

    const CONNECTED: Notice = Notice::Connected { unproven_ends: 0, is_repeated: false };

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
    fn says_at_a_glance_whether_it_is_connected_and_since_when() {
        let connected = page(4, &[CONNECTED, claimed("a", "", 1)]);
        assert!(
            connected.contains("<strong>Connected</strong>") && connected.contains("<title>1 running · w1</title>")
        );
        assert!(connected.contains("for <time datetime=\"2026-11-22T19:16:38Z\">2 min 5 s</time>"));
        assert!(connected.contains("direct backend on node-7, up for 2 min 5 s</p>"), "{connected}");
        let (cause, retry_in) = (Cause::Outside("connection refused".into()), Duration::ZERO);
        let lost = page(4, &[CONNECTED, Notice::Disconnected { cause, retry_in }]);
        assert!(lost.contains("<strong>Not connected</strong>") && lost.contains("<title>Not connected · w1</title>"));
        assert!(lost.contains("connection refused") && lost.contains("<dt>Reconnects</dt><dd>1</dd>"));
        assert!(page(4, &[]).contains("<strong>Connecting</strong>"));
    }

    #[test]
    fn says_which_step_a_task_is_in() {
        let status = Status::new(crate::resource::tests::identity());
        let now = Instant::now();
        status.note(now, &claimed("a", "", 1));
        status.step("a", &TaskStep::Waiting { reason: Some("0/3 nodes & <none>".into()) });
        let html = Page { status: &status, state: status.state(1), now, clock: SystemTime::UNIX_EPOCH }.to_string();
        assert!(html.contains("<bdi class=\"why\">Waiting for a node: 0/3 nodes &amp; &lt;none&gt;</bdi>"), "{html}");
    }

    #[test]
    fn says_when_no_task_is_taken() {
        let full = page(1, &[CONNECTED, claimed("a", "", 1)]);
        assert!(full.contains("Every slot is taken") && full.contains("<small>of 1</small>"));
        assert!(!page(2, &[CONNECTED, claimed("a", "", 1)]).contains("Every slot"));
        let stuck = page(2, &[CONNECTED, claimed("a<", "", 1), Notice::NotReady { task_id: "a<".into() }]);
        assert!(stuck.contains("Task a&lt; was claimed and does not start"), "{stuck}");
        let draining = Notice::Draining { signal: "SIGTERM", active: 1, timeout: Duration::ZERO };
        let draining = page(2, &[CONNECTED, claimed("a", "", 1), draining]);
        assert!(draining.contains("<strong>Draining</strong>") && draining.contains("connected for"));
    }

    #[test]
    fn nothing_that_a_server_sends_becomes_markup() {
        let evil = "</title><script>alert(1)</script><img src=x onerror='a'>\"&\0\u{202e}";
        let (cause, retry_in) = (Cause::Outside(evil.into()), Duration::ZERO);
        let html = page(
            0,
            &[
                claimed(evil, evil, 1),
                failed(evil, evil),
                claimed(evil, evil, 1),
                Notice::DialFailed { cause, retry_in },
            ],
        );
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
        notices.extend((1..=1_000).map(|count| failed(&format!("task-{count}"), "the agent exited with code 3")));
        let html = page(0, &notices);
        assert!(html.contains("the last 20 of 1000") && html.contains("task-1000<") && !html.contains("task-980<"));
        assert!(html.len() <= 12 * 1024, "{} bytes", html.len());
    }
}
