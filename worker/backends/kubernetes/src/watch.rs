//! One watch of a kind of object, as a state machine: bytes and times come in; what to ask the API server for, and what
//! happened to which object, go out. It does no I/O and has no clock.
//!
//! A list says what there is at one version; a watch tells every change from there on. When changes were missed, or may have
//! been, it lists again: what is known and not in the list is gone.
//!
//! 1. [`poll`](Watch::poll) says what to do: send a request, give up the one that is open, or wait.
//! 2. What comes of a request goes into [`handle_head`](Watch::handle_head), [`handle_bytes`](Watch::handle_bytes) and
//!    [`handle_end`](Watch::handle_end).
//! 3. [`poll_happening`](Watch::poll_happening) gives what happened, until there is no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use oz_worker_core::time::Instant;
use oz_worker_net::lines::Splitter;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::objects::Watched;

/// After how long without a byte a request is given up. API servers send a bookmark about once a minute.
pub const SILENCE: Duration = Duration::from_secs(90);
/// The least time between two lists.
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// The first and the longest wait after something failed; each is drawn from 50–100 % of its step.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// The longest wait that an API server is granted which asks for one.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The largest event: an object has 1.5 MiB at most in etcd, and more once it is JSON.
const LARGEST_EVENT: usize = 8 << 20;
/// The largest page of a list, in bytes.
const LARGEST_PAGE: usize = 64 << 20;
/// "Gone": the version that was asked for is no longer known.
const GONE: u16 = 410;

/// What to ask the API server for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// All objects, page by page.
    List {
        /// The page after this one's token; the first when there is none.
        page: Option<String>,
    },
    /// Every change after this version, with bookmarks.
    Watch { version: String },
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Send(Request),
    /// Give up the request that is open; nothing more of it is wanted.
    GiveUp,
    /// Wait for what comes, until then.
    Wait(Instant),
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening<T> {
    /// It is there, like this.
    Seen(T),
    /// It is gone.
    Gone {
        uid: String,
        /// The Job it is of, by UID.
        job: String,
        /// Its last state. None: it was missing in a list.
        last: Option<T>,
    },
    /// Everything that there was has been told.
    Listed,
}

/// One watch.
#[derive(Debug)]
pub struct Watch<T> {
    state: State,
    /// The Job of every object that is there, by the object's UID.
    known: BTreeMap<String, String>,
    happened: VecDeque<Happening<T>>,
    last_list: Option<Instant>,
    wait: Duration,
    chance: fastrand::Rng,
    failing: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// Nothing is asked until then.
    Idle { next: Request, at: Instant, listed: BTreeSet<String> },
    /// Waits for the head of an answer.
    Asked { request: Request, since: Instant, listed: BTreeSet<String> },
    /// Reads a page of a list.
    Listing { page: Vec<u8>, since: Instant, listed: BTreeSet<String> },
    /// Reads changes.
    Watching { version: String, splitter: Splitter, since: Instant },
    /// Something has gone wrong with the request that is open.
    Abandoned { next: Request, at: Instant },
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Of any object, and of a bookmark.
#[derive(Deserialize)]
struct Versioned {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    resource_version: String,
}

/// What an API server says when something is wrong.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

impl<T: Watched> Watch<T> {
    /// A watch that begins at once; the jitter of its waits is drawn from `seed`.
    pub fn new(now: Instant, seed: u64) -> Self {
        Self {
            state: State::Idle { next: Request::List { page: None }, at: now, listed: BTreeSet::new() },
            known: BTreeMap::new(),
            happened: VecDeque::new(),
            last_list: None,
            wait: WAITS[0],
            chance: fastrand::Rng::with_seed(seed),
            failing: None,
        }
    }

    /// What to do now. To be asked again after everything that was handled, and when the time it gave has come.
    pub fn poll(&mut self, now: Instant) -> Step {
        match &mut self.state {
            State::Idle { next, at, listed } => {
                let at = match next {
                    Request::List { page: None } => {
                        (*at).max(self.last_list.map_or(*at, |last| last.plus(LIST_INTERVAL)))
                    }
                    _ => *at,
                };
                if at > now {
                    return Step::Wait(at);
                }
                let (request, listed) = (next.clone(), std::mem::take(listed));
                if request == (Request::List { page: None }) {
                    self.last_list = Some(now);
                }
                self.state = State::Asked { request: request.clone(), since: now, listed };
                Step::Send(request)
            }
            State::Asked { since, .. } | State::Listing { since, .. } | State::Watching { since, .. } => {
                let late = since.plus(SILENCE);
                if late > now {
                    return Step::Wait(late);
                }
                self.failing.get_or_insert(*since);
                // Whatever was missed is in a list.
                self.again(now, Request::List { page: None });
                self.poll(now)
            }
            State::Abandoned { next, at } => {
                self.state = State::Idle { next: next.clone(), at: *at, listed: BTreeSet::new() };
                Step::GiveUp
            }
        }
    }

    /// What happened next, if anything did.
    pub fn poll_happening(&mut self) -> Option<Happening<T>> {
        self.happened.pop_front()
    }

    /// Since when nothing works; none while something does.
    pub const fn failing_since(&self) -> Option<Instant> {
        self.failing
    }

    /// The status of the answer to the request that was sent, and how long it asks to wait.
    pub fn handle_head(&mut self, now: Instant, status: u16, retry_after: Option<Duration>) {
        let State::Asked { request, listed, .. } = &mut self.state else { return };
        let (request, listed) = (request.clone(), std::mem::take(listed));
        match (status, request) {
            (200, Request::List { .. }) => self.state = State::Listing { page: Vec::new(), since: now, listed },
            (200, Request::Watch { version }) => {
                self.failing = None;
                self.state = State::Watching { version, splitter: Splitter::new(LARGEST_EVENT), since: now };
            }
            // The version is too old, the page's token is, or it is not understood.
            (GONE | 400, _) => self.again(now, Request::List { page: None }),
            (_, Request::List { .. }) => self.failed(now, Request::List { page: None }, retry_after),
            (_, request) => self.failed(now, request, retry_after),
        }
    }

    /// A piece of the answer's body.
    pub fn handle_bytes(&mut self, now: Instant, mut bytes: &[u8]) {
        if let State::Listing { page, since, .. } = &mut self.state {
            *since = now;
            page.extend_from_slice(bytes);
            if page.len() > LARGEST_PAGE {
                self.failed(now, Request::List { page: None }, None);
            }
            return;
        }
        while !bytes.is_empty() {
            let State::Watching { splitter, since, .. } = &mut self.state else { return };
            *since = now;
            let (taken, line) = splitter.take(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            let Some(line) = line else { continue };
            if line.cut > 0 || self.change(now, &line.bytes).is_none() {
                // What it told is lost.
                self.failed(now, Request::List { page: None }, None);
            }
        }
    }

    /// The request that was sent came to its end, or could not be sent, or its answer broke off.
    pub fn handle_end(&mut self, now: Instant, is_whole: bool) {
        match &mut self.state {
            State::Listing { page, listed, .. } if is_whole => {
                let (page, listed) = (std::mem::take(page), std::mem::take(listed));
                if self.page(now, &page, listed).is_none() {
                    self.failed(now, Request::List { page: None }, None);
                }
            }
            State::Asked { request: Request::Watch { version }, .. } => {
                let next = Request::Watch { version: version.clone() };
                self.failed(now, next, None);
            }
            State::Watching { version, .. } => {
                // API servers end a watch after some minutes; nothing was missed.
                let next = Request::Watch { version: std::mem::take(version) };
                self.state = State::Idle { next, at: now.plus(self.jittered(WAITS[0])), listed: BTreeSet::new() };
                return;
            }
            State::Asked { .. } | State::Listing { .. } => self.failed(now, Request::List { page: None }, None),
            State::Idle { .. } => return,
            State::Abandoned { .. } => {}
        }
        // There is nothing left to be given up.
        if let State::Abandoned { next, at } = &self.state {
            self.state = State::Idle { next: next.clone(), at: *at, listed: BTreeSet::new() };
        }
    }

    /// Takes a page of a list. None: it is none.
    fn page(&mut self, now: Instant, page: &[u8], mut listed: BTreeSet<String>) -> Option<()> {
        let Page { metadata, items } = serde_json::from_slice(page).ok()?;
        for item in items.into_iter().flatten() {
            let object: T = serde_json::from_str(item.get()).ok()?;
            listed.insert(object.metadata().uid.clone());
            self.seen(object);
        }
        if let Some(token) = metadata.next.filter(|token| !token.is_empty()) {
            self.state = State::Idle { next: Request::List { page: Some(token) }, at: now, listed };
            return Some(());
        }
        let gone: Vec<String> = self.known.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            if let Some(job) = self.known.remove(&uid) {
                self.happened.push_back(Happening::Gone { uid, job, last: None });
            }
        }
        self.happened.push_back(Happening::Listed);
        self.works();
        let next = Request::Watch { version: metadata.resource_version };
        self.state = State::Idle { next, at: now, listed: BTreeSet::new() };
        Some(())
    }

    /// Takes a line of a watch. None: it is not understood, and what it told is lost.
    fn change(&mut self, now: Instant, line: &[u8]) -> Option<()> {
        if line.is_empty() {
            return Some(());
        }
        let Change { kind, object } = serde_json::from_slice(line).ok()?;
        if kind == "ERROR" {
            let Status { code } = serde_json::from_str(object.get()).ok()?;
            let State::Watching { version, .. } = &self.state else { return None };
            // An API server that is in trouble has forgotten nothing.
            let next = match code {
                429 | 500.. => Request::Watch { version: version.clone() },
                _ => Request::List { page: None },
            };
            if code == GONE {
                self.again(now, next);
            } else {
                self.failed(now, next, None);
            }
            return Some(());
        }
        let Versioned { metadata } = serde_json::from_str(object.get()).ok()?;
        match kind {
            "BOOKMARK" => {}
            "ADDED" | "MODIFIED" => self.seen(serde_json::from_str(object.get()).ok()?),
            "DELETED" => {
                let last: T = serde_json::from_str(object.get()).ok()?;
                let uid = last.metadata().uid.clone();
                // What was told to be gone is not told again.
                if let Some(job) = self.known.remove(&uid) {
                    self.happened.push_back(Happening::Gone { uid, job, last: Some(last) });
                }
            }
            _ => return None,
        }
        self.works();
        if let State::Watching { version, .. } = &mut self.state {
            *version = metadata.resource_version;
        }
        Some(())
    }

    fn seen(&mut self, object: T) {
        let Some(job) = object.job() else { return };
        self.known.insert(object.metadata().uid.clone(), job.to_owned());
        self.happened.push_back(Happening::Seen(object));
    }

    fn works(&mut self) {
        self.wait = WAITS[0];
        self.failing = None;
    }

    /// Goes on with `next` after a wait that grows with every failure.
    fn failed(&mut self, now: Instant, next: Request, retry_after: Option<Duration>) {
        self.failing.get_or_insert(now);
        let wait = self.jittered(self.wait);
        self.wait = (self.wait * 2).min(WAITS[1]);
        let wait = retry_after.map_or(wait, |asked| asked.min(LONGEST_WAIT).max(wait));
        self.state = State::Abandoned { next, at: now.plus(wait) };
    }

    /// Goes on with `next` as soon as it may be.
    fn again(&mut self, now: Instant, next: Request) {
        self.state = State::Abandoned { next, at: now };
    }

    fn jittered(&mut self, step: Duration) -> Duration {
        step.mul_f64(0.5 + self.chance.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests;
