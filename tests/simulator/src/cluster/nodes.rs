//! Nodes: they have room for so many Pods, are made free, are lost, and come back.

use std::time::Duration;

use super::Cluster;
use super::store::{Kind, Store, set_condition};
use crate::executor::{Executor, OUTSIDE};

/// After how long the Pods of a node that says nothing are deleted.
const GIVEN_UP: [Duration; 2] = [Duration::from_secs(40), Duration::from_secs(340)];

pub struct Node {
    pub name: &'static str,
    room: usize,
    /// Whether its kubelet can speak to the API server.
    pub is_there: bool,
    is_cordoned: bool,
}

impl Node {
    pub fn some(executor: &Executor) -> Vec<Self> {
        let node = |name| {
            let room = executor.random(|random| random.usize(1..8));
            Self { name, room, is_there: true, is_cordoned: false }
        };
        vec![node("node-1"), node("node-2")]
    }

    pub const fn heal(&mut self) {
        // Room for whatever is still to come.
        (self.is_there, self.is_cordoned, self.room) = (true, false, usize::MAX);
    }

    pub fn has_room(&self, store: &Store) -> bool {
        let holds = |pod: &&serde_json::Value| {
            let phase = pod["status"]["phase"].as_str();
            pod["spec"]["nodeName"] == self.name && !matches!(phase, Some("Succeeded" | "Failed"))
        };
        self.is_there
            && !self.is_cordoned
            && (self.room == usize::MAX || store.all(Kind::Pod).map(|(_, pod)| pod).filter(holds).count() < self.room)
    }
}

impl Cluster {
    /// Ends as soon as the kubelet of a node can speak to the API server.
    pub(super) async fn reached(&self, node: &str) {
        loop {
            let room = {
                let state = self.state();
                if state.nodes.iter().any(|own| own.name == node && own.is_there) {
                    return;
                }
                state.room.1.clone()
            };
            let _ = room.recv().await;
        }
    }

    /// A node takes no Pods for a while.
    pub(super) fn cordon(&self) {
        let length = self.executor.duration(Duration::from_secs(1), Duration::from_secs(600));
        self.journal.note(|| format!("cluster: no node takes Pods for {length:?}"));
        self.state().nodes.iter_mut().for_each(|node| node.is_cordoned = true);
        let own = self.clone();
        self.executor.spawn(OUTSIDE, async move {
            own.executor.sleep(length).await;
            let mut state = own.state();
            state.nodes.iter_mut().for_each(|node| node.is_cordoned = false);
            state.make_room();
        });
    }

    /// A node is not heard of any more, for a while.
    pub(super) fn lose_node(&self) {
        let away = self.executor.duration(Duration::from_secs(5), Duration::from_secs(900));
        let given_up = self.executor.duration(GIVEN_UP[0], GIVEN_UP[1]);
        let mut state = self.state();
        let Some(node) = state.nodes.iter_mut().find(|node| node.is_there) else { return };
        node.is_there = false;
        let name = node.name;
        drop(state);
        self.journal.note(|| format!("cluster: {name} is away for {away:?}, given up after {given_up:?}"));
        let own = self.clone();
        self.executor.spawn(OUTSIDE, async move {
            if given_up < away {
                own.executor.sleep(given_up).await;
                if own.state().nodes.iter().any(|node| node.name == name && !node.is_there) {
                    own.give_up_pods(name);
                }
            }
            own.executor.sleep(away.saturating_sub(given_up.min(away))).await;
            let mut state = own.state();
            state.nodes.iter_mut().filter(|node| node.name == name).for_each(|node| node.is_there = true);
            state.make_room();
            drop(state);
            own.journal.note(|| format!("cluster: {name} is back"));
        });
    }

    fn give_up_pods(&self, node: &str) {
        let lost: Vec<String> = {
            let state = self.state();
            let is_on = |uid: &&String| state.pod(uid).is_some_and(|pod| pod["spec"]["nodeName"] == node);
            state.lives.keys().filter(is_on).cloned().collect()
        };
        for uid in lost {
            let said = ["DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"];
            self.disrupt(&uid, said, Some(30));
        }
    }

    /// The cluster takes a Pod away. Without a grace period it only says that it means to.
    pub(super) fn disrupt(&self, uid: &str, said: [&str; 2], grace: Option<u64>) {
        let (now, moment) = (self.executor.now(), self.moment());
        let is_running = self.state().pod(uid).is_some_and(|pod| {
            pod["metadata"]["deletionTimestamp"].is_null()
                && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        });
        if !is_running {
            return;
        }
        self.journal.note(|| format!("cluster: {said:?}, grace {grace:?}, of {}", self.name_of(uid)));
        self.note(uid, |truth| match grace {
            Some(_) => truth.disrupted = truth.disrupted.or(Some(now)),
            None => truth.is_threatened = true,
        });
        self.update(uid, Kind::Pod, |pod| set_condition(pod, "DisruptionTarget", "True", said, &moment));
        if grace.is_some() {
            self.delete_pod(uid, grace);
        }
    }
}
