//! Lists and watches: pages, versions, bookmarks, and what becomes of those who ask for what is forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use futures_lite::FutureExt;
use serde_json::{Value, json};

use super::Cluster;
use super::api::{Answer, status};
use super::store::{Kind, is_selected};
use crate::engine::http;
use crate::executor::Machine;
use crate::network::Stream;

/// How often a watch says which version it is at. Real ones do about once a minute.
const BOOKMARK: Duration = Duration::from_secs(60);
/// A list a second: these many within so much less, since requests overtake each other on their way.
const MOST_LISTS: usize = 10;
const LISTS_TAKE: Duration = Duration::from_secs(9);

/// What is known of the lists that were asked for.
#[derive(Default)]
pub struct Lists {
    /// What is left of lists that came in pages, by their tokens, with the version that they are of.
    pages: BTreeMap<String, (u64, Vec<Value>)>,
    serial: u64,
    /// When each worker listed each kind last.
    asked: BTreeMap<(Machine, Kind), VecDeque<Duration>>,
    /// How many watches of each kind are open.
    open: BTreeMap<Kind, usize>,
}

impl Lists {
    /// That worker is gone: another one begins with lists.
    pub fn forget(&mut self, machine: Machine) {
        self.asked.retain(|(of, _), _| *of != machine);
    }
}

impl Cluster {
    /// A page of a list.
    pub(super) fn list(&self, kind: Kind, selector: &str, limit: Option<usize>, token: Option<&str>) -> Answer {
        let small = self.executor.random(|random| random.usize(1..6));
        let mut state = self.state();
        // Servers may give less than they are asked for.
        let limit = limit.map_or(usize::MAX, |limit| if state.faulty { limit.min(small) } else { limit });
        let (version, mut items) = if let Some(token) = token {
            match state.lists.pages.remove(token) {
                Some((version, _)) if version < state.store.compacted() => {
                    return status(410, "Expired", "token expired");
                }
                Some(left) => left,
                None => return status(400, "BadRequest", "continue key is not valid"),
            }
        } else {
            let all = state.store.all(kind).map(|(_, object)| object).filter(|one| is_selected(one, selector));
            (state.store.version(), all.cloned().collect())
        };
        let rest = items.split_off(limit.min(items.len()));
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if !rest.is_empty() {
            state.lists.serial += 1;
            let token = format!("t{}", state.lists.serial);
            metadata["continue"] = token.clone().into();
            state.lists.pages.insert(token, (version, rest));
        }
        drop(state);
        let name = format!("{}List", kind.name());
        Answer::ok(json!({"kind": name, "apiVersion": kind.api_version(), "metadata": metadata, "items": items}))
    }

    /// Law: at most one list a second.
    pub(super) fn note_list(&self, machine: Machine, kind: Kind) {
        let now = self.executor.now();
        let mut state = self.state();
        let asked = state.lists.asked.entry((machine, kind)).or_default();
        asked.push_back(now);
        if asked.len() > MOST_LISTS
            && let Some(first) = asked.pop_front()
            && now < first + LISTS_TAKE
        {
            drop(state);
            let within = now.saturating_sub(first);
            self.watch.violate(format!("{MOST_LISTS} lists of {}s within {within:?}", kind.name()));
        }
    }

    /// Tells every change after a version, for so long.
    pub(super) async fn watch(
        &self,
        stream: &mut Stream,
        kind: Kind,
        selector: &str,
        version: u64,
        length: Duration,
    ) -> io::Result<()> {
        *self.state().lists.open.entry(kind).or_default() += 1;
        let told = self.tell(stream, kind, selector, version, length).await;
        if let Some(open) = self.state().lists.open.get_mut(&kind) {
            *open = open.saturating_sub(1);
        }
        told
    }

    async fn tell(
        &self,
        stream: &mut Stream,
        kind: Kind,
        selector: &str,
        mut version: u64,
        length: Duration,
    ) -> io::Result<()> {
        let (ends, mut bookmark) = (self.executor.now() + length, self.executor.now() + BOOKMARK);
        http::begin(stream, "").await?;
        loop {
            let (lines, at, changed) = {
                let state = self.state();
                let changes = state.store.since(version).map(|changes| {
                    let of_kind = changes.filter(|change| change.kind == kind && is_selected(&change.object, selector));
                    let line = |change: &super::store::Change| json!({"type": change.verb, "object": change.object});
                    of_kind.map(line).collect::<Vec<_>>()
                });
                (changes, state.store.version(), state.store.changed())
            };
            let Some(lines) = lines else {
                self.journal.note(|| format!("cluster: a watch of {}s is at what is forgotten", kind.name()));
                return say(stream, &error(410, "Expired", "too old resource version")).await;
            };
            version = at;
            for line in lines {
                say(stream, &line).await?;
            }
            let now = self.executor.now();
            if now >= ends {
                return http::piece(stream, b"").await;
            }
            if now >= bookmark {
                bookmark = now + BOOKMARK;
                let metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
                let object = json!({"kind": kind.name(), "apiVersion": kind.api_version(), "metadata": metadata});
                say(stream, &json!({"type": "BOOKMARK", "object": object})).await?;
            }
            if self.state().faulty && self.executor.chance(1) {
                say(stream, &error(500, "InternalError", "etcdserver: leader changed")).await?;
                return http::piece(stream, b"").await;
            }
            let late = async { self.executor.sleep_until(bookmark.min(ends)).await };
            changed.or(late).await;
            self.take_time().await;
        }
    }

    /// How many watches of both kinds are open.
    pub fn open_watches(&self) -> usize {
        self.state().lists.open.values().sum()
    }
}

fn error(code: u16, reason: &str, message: &str) -> Value {
    json!({"type": "ERROR", "object": status(code, reason, message).body})
}

/// One line of a watch.
async fn say(stream: &mut Stream, line: &Value) -> io::Result<()> {
    http::piece(stream, format!("{line}\n").as_bytes()).await
}
