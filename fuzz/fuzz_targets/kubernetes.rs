//! What an API server may send: lists, changes and statuses, whatever their bytes; and what a verdict makes of them.
//!
//! An input is text, so that what a real cluster sent can be put into the corpus as it is. Each line is a step: one that begins with
//! `{` is a line of the answer's body; any other begins with a letter that [`Step`] knows.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use oz_worker_backends::kubernetes::objects::{Event, Job, Pod};
use oz_worker_backends::kubernetes::verdict::{Limits, Next, Verdict};
use oz_worker_backends::kubernetes::watch::{Happening, Request, Step as Do, Watch};
use oz_worker_core::Outcome;
use oz_worker_core::time::Instant;

/// What happens.
enum Step<'a> {
    /// `{…`: this line of the body.
    Line(&'a [u8]),
    /// `b`: these bytes of it, and no end of a line.
    Bytes(&'a [u8]),
    /// `h`: the head of an answer, with this status.
    Head(u16),
    /// `e`: the answer is whole; `x`: it broke off.
    End(bool),
    /// `v`: an event that was asked for.
    Event(&'a [u8]),
    /// `j`: the Job was seen so.
    Job(&'a [u8]),
    /// `g`: the Job is gone.
    Gone,
    /// `t`: so many milliseconds pass.
    Pass(u32),
}

impl<'a> Step<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let (first, rest) = line.split_first()?;
        let number = || std::str::from_utf8(rest).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
        Some(match first {
            b'{' => Self::Line(line),
            b'b' => Self::Bytes(rest),
            b'h' => Self::Head(u16::try_from(number()).unwrap_or(200)),
            b'e' => Self::End(true),
            b'x' => Self::End(false),
            b'v' => Self::Event(rest),
            b'j' => Self::Job(rest),
            b'g' => Self::Gone,
            b't' => Self::Pass(number()),
            _ => return None,
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let limits = Limits {
        image_pull_grace: Duration::from_secs(60),
        pod_start_timeout: Duration::from_secs(900),
        unschedulable_timeout: Duration::from_secs(30),
    };
    let mut now = Instant::new(Duration::ZERO);
    let (mut watch, mut verdict) = (Watch::<Pod>::new(now, 1), Verdict::new(limits, now));
    let (mut last_list, mut succeeded) = (None, false);
    for step in input.split(|byte| *byte == b'\n').filter_map(Step::read) {
        match step {
            Step::Line(line) => {
                watch.handle_bytes(now, line);
                watch.handle_bytes(now, b"\n");
            }
            Step::Bytes(bytes) => watch.handle_bytes(now, bytes),
            Step::Head(status) => watch.handle_head(now, status, (status == 429).then_some(Duration::from_secs(7))),
            Step::End(is_whole) => watch.handle_end(now, is_whole),
            Step::Event(event) => verdict.events(serde_json::from_slice::<Event>(event).into_iter().collect()),
            Step::Job(job) => {
                if let Ok(job) = serde_json::from_slice::<Job>(job) {
                    succeeded |= job.condition("Complete").is_some();
                    verdict.job(now, job);
                }
            }
            Step::Gone => verdict.job_gone(now, None),
            Step::Pass(millis) => now = now.plus(Duration::from_millis(millis.into())),
        }
        match watch.poll(now) {
            Do::Wait(until) => assert!(until > now, "waits for what is past"),
            Do::Send(Request::List { page: None }) => {
                assert!(
                    last_list.is_none_or(|last: Instant| now.since(last) >= Duration::from_secs(1)),
                    "too many lists"
                );
                last_list = Some(now);
            }
            Do::Send(_) | Do::GiveUp => {}
        }
        while let Some(happening) = watch.poll_happening() {
            match happening {
                Happening::Seen(pod) => {
                    succeeded |= has_succeeded(&pod);
                    verdict.pod(now, pod);
                }
                Happening::Gone { uid, last, .. } => {
                    succeeded |= last.as_ref().is_some_and(has_succeeded);
                    verdict.pod_gone(now, &uid, last);
                }
                Happening::Listed => {}
            }
        }
        let next = verdict.look(now);
        if let Next::End(ending) = &next {
            assert!(succeeded || ending.outcome != Outcome::Completed, "a success that nobody saw");
        }
        if let Next::Wait(Some(until)) = next {
            assert!(until > now, "waits for what is past");
        }
    }
});

fn has_succeeded(pod: &Pod) -> bool {
    let task = pod.container("task").and_then(|task| task.state.terminated.as_ref());
    pod.status.phase == "Succeeded" || task.is_some_and(|ended| ended.exit_code == 0)
}
