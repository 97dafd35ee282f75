//! A watch against what API servers do, and against a small one that does all of it at random.

use proptest::prelude::*;

use super::*;
use crate::objects::Job;

fn at(millis: u64) -> Instant {
    Instant::new(Duration::from_millis(millis))
}

fn list() -> Request {
    Request::List { page: None }
}

fn watch_from(version: &str) -> Request {
    Request::Watch { version: version.into() }
}

fn object(uid: &str, version: u64) -> String {
    format!(r#"{{"metadata":{{"name":"{uid}","uid":"{uid}","resourceVersion":"{version}"}}}}"#)
}

fn page(version: u64, uids: &[&str]) -> String {
    let items: Vec<String> = uids.iter().map(|uid| object(uid, version)).collect();
    format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#, items.join(","))
}

fn change(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

/// What happened, in short.
fn told(watch: &mut Watch<Job>) -> Vec<String> {
    let next = || watch.poll_happening();
    std::iter::from_fn(next)
        .map(|happening| match happening {
            Happening::Seen(job) => format!("{}@{}", job.metadata.uid, job.metadata.resource_version),
            Happening::Gone { uid, last, .. } => {
                format!("-{uid}{}", last.map(|job| format!("@{}", job.metadata.resource_version)).unwrap_or_default())
            }
            Happening::Listed => "listed".to_owned(),
        })
        .collect()
}

/// A watch that has listed these at version 5, and is told changes from there on.
fn watching(uids: &[&str]) -> Watch<Job> {
    let mut watch = Watch::new(at(0), 1);
    assert_eq!(watch.poll(at(0)), Step::Send(list()));
    watch.handle_head(at(0), 200, None);
    watch.handle_bytes(at(0), page(5, uids).as_bytes());
    watch.handle_end(at(0), true);
    assert_eq!(watch.poll(at(0)), Step::Send(watch_from("5")));
    watch.handle_head(at(0), 200, None);
    told(&mut watch);
    watch
}

/// What it sends next, and when.
fn next_request(watch: &mut Watch<Job>, mut now: Instant) -> (Instant, Request) {
    for _ in 0..10 {
        match watch.poll(now) {
            Step::Send(request) => return (now, request),
            Step::Wait(until) => now = until,
            Step::GiveUp => {}
        }
    }
    panic!("it sends nothing");
}

#[test]
fn changes_are_told_in_pieces_of_any_size_and_a_bookmark_moves_the_version() {
    let text = [
        change("ADDED", &object("b", 6)),
        change("MODIFIED", &object("a", 7)),
        change("DELETED", &object("a", 8)),
        change("DELETED", &object("a", 8)),
        change("BOOKMARK", r#"{"kind":"Job","metadata":{"resourceVersion":"9","creationTimestamp":null}}"#),
    ]
    .concat();
    for size in [1, 7, text.len()] {
        let mut watch = watching(&["a"]);
        text.as_bytes().chunks(size).for_each(|piece| watch.handle_bytes(at(10), piece));
        assert_eq!(told(&mut watch), ["b@6", "a@7", "-a@8"]);
        watch.handle_end(at(20), true);
        let (when, request) = next_request(&mut watch, at(20));
        assert_eq!(request, watch_from("9"));
        assert!(when >= at(270), "an API server that ends every watch at once is not stormed");
    }
}

#[test]
fn both_forms_of_gone_list_again_and_absence_is_told() {
    let as_event = |watch: &mut Watch<Job>| {
        let status = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}"#;
        watch.handle_bytes(at(2000), change("ERROR", status).as_bytes());
        assert_eq!(watch.poll(at(2000)), Step::GiveUp);
    };
    let as_status = |watch: &mut Watch<Job>| {
        watch.handle_end(at(1000), false);
        assert_eq!(next_request(watch, at(1000)).1, watch_from("5"));
        watch.handle_head(at(2000), 410, None);
    };
    for gone in [&as_event as &dyn Fn(&mut Watch<Job>), &as_status] {
        let mut watch = watching(&["a", "b"]);
        gone(&mut watch);
        assert_eq!(next_request(&mut watch, at(2000)), (at(2000), list()));
        watch.handle_head(at(2000), 200, None);
        watch.handle_bytes(at(2000), page(20, &["b", "c"]).as_bytes());
        watch.handle_end(at(2000), true);
        assert_eq!(told(&mut watch), ["b@20", "c@20", "-a", "listed"]);
        assert_eq!(next_request(&mut watch, at(2000)).1, watch_from("20"));
    }
}

#[test]
fn an_api_server_in_trouble_has_forgotten_nothing_and_any_other_error_lists_again() {
    for (code, request) in [(429, watch_from("5")), (500, watch_from("5")), (504, watch_from("5")), (403, list())] {
        let mut watch = watching(&["a"]);
        let status = format!(r#"{{"kind":"Status","code":{code}}}"#);
        watch.handle_bytes(at(1000), change("ERROR", &status).as_bytes());
        assert_eq!(watch.failing_since(), Some(at(1000)));
        assert_eq!(next_request(&mut watch, at(1000)).1, request, "{code}");
    }
}

#[test]
fn it_works_again_once_it_is_told_something() {
    let mut watch = watching(&["a"]);
    let status = r#"{"kind":"Status","code":500}"#;
    for second in 1..6 {
        watch.handle_bytes(at(second * 100_000), change("ERROR", status).as_bytes());
        next_request(&mut watch, at(second * 100_000));
        watch.handle_head(at(second * 100_000 + 50_000), 200, None);
    }
    watch.handle_bytes(at(700_000), change("ADDED", &object("b", 6)).as_bytes());
    assert_eq!(watch.failing_since(), None);
    watch.handle_bytes(at(700_000), change("ERROR", status).as_bytes());
    let (again, _) = next_request(&mut watch, at(700_000));
    assert!(again < at(702_000), "what failed before counts no more");
}

#[test]
fn silence_is_a_gap_and_a_byte_is_not_silence() {
    let mut watch = watching(&[]);
    watch.handle_bytes(at(89_000), b"{");
    assert_eq!(watch.poll(at(90_000)), Step::Wait(at(179_000)));
    assert_eq!(watch.poll(at(179_000)), Step::GiveUp);
    assert_eq!(watch.poll(at(179_000)), Step::Send(list()));
    // A server that takes a request and never answers is no better.
    assert_eq!(watch.poll(at(269_000)), Step::GiveUp);
    assert_eq!(watch.failing_since(), Some(at(89_000)));
}

#[test]
fn what_fails_is_tried_again_ever_less_often_and_as_the_server_asks() {
    let mut watch: Watch<Job> = Watch::new(at(0), 1);
    let (mut now, mut waits) = (at(0), Vec::new());
    for _ in 0..9 {
        let (when, request) = next_request(&mut watch, now);
        assert_eq!(request, list());
        waits.push(when.since(now).as_millis());
        now = when;
        watch.handle_head(now, 503, None);
    }
    assert!(waits.iter().skip(1).all(|wait| (1000..=30_000).contains(wait)), "{waits:?}");
    assert!(waits.last().is_some_and(|wait| *wait >= 15_000), "{waits:?}");
    assert_eq!(watch.failing_since(), Some(at(0)));
    let mut watch = watching(&[]);
    watch.handle_end(at(5000), false);
    let (when, _) = next_request(&mut watch, at(5000));
    watch.handle_head(when, 429, Some(Duration::from_secs(7)));
    assert_eq!(next_request(&mut watch, when), (when.plus(Duration::from_secs(7)), watch_from("5")));
}

#[test]
fn a_list_of_many_pages_is_one_list() {
    let mut watch = watching(&["a", "b"]);
    watch.handle_bytes(at(3000), b"no JSON\n");
    let (when, _) = next_request(&mut watch, at(3000));
    watch.handle_head(when, 200, None);
    let first = page(30, &["a"]).replacen("\"30\"", "\"30\",\"continue\":\"t\"", 1);
    watch.handle_bytes(when, first.as_bytes());
    watch.handle_end(when, true);
    assert_eq!(told(&mut watch), ["a@30"], "nothing is gone before the last page");
    assert_eq!(next_request(&mut watch, when), (when, Request::List { page: Some("t".into()) }));
    watch.handle_head(when, 200, None);
    watch.handle_bytes(when, page(30, &[]).as_bytes());
    watch.handle_end(when, true);
    assert_eq!(told(&mut watch), ["-b", "listed"]);
}

/// An API server with Jobs: its history, and from where on it is remembered.
#[derive(Debug, Default)]
struct Server {
    version: u64,
    there: BTreeMap<String, u64>,
    history: Vec<(u64, String)>,
    compacted: u64,
}

#[derive(Debug, Clone)]
enum Deed {
    Put(u8),
    Remove(u8),
    Compact,
    Pass(u16),
    /// How the next exchange goes wrong.
    Fail(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Cut,
    Silent,
    Status(u16),
    Error(u16),
    Garbage,
}

impl Server {
    fn put(&mut self, uid: &str) {
        self.version += 1;
        let kind = if self.there.insert(uid.to_owned(), self.version).is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push((self.version, change(kind, &object(uid, self.version))));
    }

    fn remove(&mut self, uid: &str) {
        if self.there.remove(uid).is_some() {
            self.version += 1;
            self.history.push((self.version, change("DELETED", &object(uid, self.version))));
        }
    }
}

/// One exchange, or the wait for the next one. Gives the present moment afterwards.
fn exchange(
    watch: &mut Watch<Job>,
    server: &Server,
    fault: Option<Fault>,
    now: Instant,
    lists: &mut Vec<Instant>,
) -> Instant {
    let request = match watch.poll(now) {
        Step::Send(request) => request,
        Step::GiveUp => return now,
        Step::Wait(until) => return until,
    };
    if matches!(request, Request::List { page: None }) {
        lists.push(now);
    }
    match fault {
        Some(Fault::Status(status)) => {
            watch.handle_head(now, status, None);
            return now;
        }
        Some(Fault::Silent) => return now.plus(SILENCE),
        _ => watch.handle_head(now, if expired(server, &request) { 410 } else { 200 }, None),
    }
    let body = match &request {
        Request::List { .. } => {
            let items: Vec<String> = server.there.iter().map(|(uid, version)| object(uid, *version)).collect();
            format!(r#"{{"metadata":{{"resourceVersion":"{}"}},"items":[{}]}}"#, server.version, items.join(","))
        }
        Request::Watch { version } => {
            let from: u64 = version.parse().unwrap_or(0);
            let after = server.history.iter().filter(|(version, _)| *version > from);
            after.map(|(_, text)| text.as_str()).collect()
        }
    };
    let half = body.get(..body.len() / 2).unwrap_or_default();
    match fault {
        Some(Fault::Cut) => {
            watch.handle_bytes(now, half.as_bytes());
            watch.handle_end(now, false);
        }
        Some(Fault::Garbage) => {
            watch.handle_bytes(now, b"{]\n");
            watch.handle_end(now, true);
        }
        Some(Fault::Error(code)) if matches!(request, Request::Watch { .. }) => {
            watch.handle_bytes(now, change("ERROR", &format!(r#"{{"code":{code}}}"#)).as_bytes());
        }
        _ => {
            watch.handle_bytes(now, body.as_bytes());
            watch.handle_end(now, true);
        }
    }
    now
}

fn expired(server: &Server, request: &Request) -> bool {
    matches!(request, Request::Watch { version } if version.parse::<u64>().unwrap_or(0) < server.compacted)
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let fault = prop_oneof![
        Just(Fault::Cut),
        Just(Fault::Silent),
        Just(Fault::Garbage),
        prop_oneof![Just(401), Just(410), Just(429), Just(500)].prop_map(Fault::Status),
        prop_oneof![Just(410), Just(429), Just(500), Just(504), Just(0)].prop_map(Fault::Error),
    ];
    let deed = prop_oneof![
        4 => (0_u8..5).prop_map(Deed::Put),
        2 => (0_u8..5).prop_map(Deed::Remove),
        1 => Just(Deed::Compact),
        4 => any::<u16>().prop_map(Deed::Pass),
        2 => fault.prop_map(Deed::Fail),
    ];
    proptest::collection::vec(deed, 0..60)
}

proptest! {
    #[test]
    fn in_the_end_it_knows_what_the_server_has(deeds in deeds(), seed: u64) {
        let (mut watch, mut server) = (Watch::<Job>::new(at(0), seed), Server::default());
        let (mut now, mut fault, mut lists) = (at(0), None, Vec::new());
        let mut mirror: BTreeMap<String, u64> = BTreeMap::new();
        let quiet = (0..40).map(|_| Deed::Pass(60_000));
        for deed in deeds.into_iter().chain(quiet) {
            match deed {
                Deed::Put(uid) => server.put(&uid.to_string()),
                Deed::Remove(uid) => server.remove(&uid.to_string()),
                Deed::Compact => server.compacted = server.version,
                Deed::Fail(next) => fault = Some(next),
                Deed::Pass(millis) => {
                    let until = now.plus(Duration::from_millis(millis.into()));
                    for _ in 0..20 {
                        let next = exchange(&mut watch, &server, fault.take(), now, &mut lists);
                        if next > until {
                            break;
                        }
                        now = next;
                    }
                    now = now.max(until);
                }
            }
            while let Some(happening) = watch.poll_happening() {
                match happening {
                    Happening::Seen(job) => {
                        let version = job.metadata.resource_version.parse().unwrap_or(0);
                        let before = mirror.insert(job.metadata.uid, version);
                        prop_assert!(before.is_none_or(|before| before <= version), "it went back");
                    }
                    Happening::Gone { uid, .. } => prop_assert!(mirror.remove(&uid).is_some(), "gone twice"),
                    Happening::Listed => {}
                }
            }
        }
        prop_assert_eq!(mirror, server.there);
        prop_assert_eq!(watch.failing_since(), None);
        prop_assert!(lists.iter().zip(lists.iter().skip(1)).all(|(one, next)| next.since(*one) >= LIST_INTERVAL));
    }

    #[test]
    fn whatever_comes_it_goes_on(pieces in proptest::collection::vec((0_u8..6, any::<Vec<u8>>(), any::<u16>()), 0..40)) {
        let mut watch = watching(&["a"]);
        let mut now = at(0);
        for (what, bytes, number) in pieces {
            now = now.plus(Duration::from_millis(number.into()));
            match what {
                0 => watch.handle_head(now, number, Some(Duration::from_secs(number.into()))),
                1 => watch.handle_bytes(now, &bytes),
                2 => watch.handle_bytes(now, change("MODIFIED", &object("a", number.into())).as_bytes()),
                3 => watch.handle_end(now, bytes.is_empty()),
                4 => watch.handle_bytes(now, change("ERROR", &format!(r#"{{"code":{number}}}"#)).as_bytes()),
                _ => drop(watch.poll(now)),
            }
            told(&mut watch);
        }
        next_request(&mut watch, now);
    }
}
