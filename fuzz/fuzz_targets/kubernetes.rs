//! What an API server may send: lists, changes and statuses, whatever their bytes; and what a verdict makes of them.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oz_worker_backends::kubernetes::objects::{Event, Pod};
use oz_worker_backends::kubernetes::verdict::{Limits, Next, Verdict};
use oz_worker_backends::kubernetes::watch::{Happening, Step, Watch};
use oz_worker_core::Outcome;
use oz_worker_core::time::Instant;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Head(u16, Option<u8>),
    Bytes(&'a [u8]),
    Change(&'a str, &'a str),
    Event(&'a str),
    End(bool),
    Pass(u16),
}

fuzz_target!(|inputs: Vec<Input<'_>>| {
    let limits = Limits {
        image_pull_grace: Duration::from_secs(60),
        pod_start_timeout: Duration::from_secs(900),
        unschedulable_timeout: Duration::from_secs(30),
    };
    let mut now = Instant::new(Duration::ZERO);
    let (mut watch, mut verdict) = (Watch::<Pod>::new(now, 1), Verdict::new(limits, now));
    let (mut last_list, mut succeeded) = (None, false);
    for input in inputs {
        match input {
            Input::Head(status, wait) => watch.handle_head(now, status, wait.map(|seconds| Duration::from_secs(seconds.into()))),
            Input::Bytes(bytes) => watch.handle_bytes(now, bytes),
            Input::Change(kind, object) => {
                watch.handle_bytes(now, format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").as_bytes());
            }
            Input::Event(event) => verdict.events(serde_json::from_str::<Event>(event).into_iter().collect()),
            Input::End(is_whole) => watch.handle_end(now, is_whole),
            Input::Pass(millis) => now = now.plus(Duration::from_millis(millis.into())),
        }
        match watch.poll(now) {
            Step::Wait(until) => assert!(until > now, "waits for what is past"),
            Step::Send(oz_worker_backends::kubernetes::watch::Request::List { page: None }) => {
                assert!(last_list.is_none_or(|last: Instant| now.since(last) >= Duration::from_secs(1)), "too many lists");
                last_list = Some(now);
            }
            Step::Send(_) | Step::GiveUp => {}
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
        if let Next::End(ending) = verdict.look(now) {
            assert!(succeeded || ending.outcome != Outcome::Completed, "a success that nobody saw");
        }
    }
});

fn has_succeeded(pod: &Pod) -> bool {
    let task = pod.container("task").and_then(|task| task.state.terminated.as_ref());
    pod.status.phase == "Succeeded" || task.is_some_and(|ended| ended.exit_code == 0)
}
