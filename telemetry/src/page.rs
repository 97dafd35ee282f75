//! `/`: the status of the worker on one page, for a person.
//!
//! It works without scripts, and loads nothing from anywhere: the policy in [`HEADERS`] forbids both. What the server sends
//! (ids, titles, reasons) is untrusted: it reaches the page through [`HtmlText`] only, bounded in length (`status.rs`), and inside
//! `<bdi>`, so that its direction does not reorder what stands beside it. Which characters are not fit to be shown is asked
//! of `oz_worker_text::line`.

#[cfg(test)]
mod tests;

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
