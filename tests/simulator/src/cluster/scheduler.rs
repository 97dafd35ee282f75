//! The scheduler: a Pod gets a node with room, and waits until there is one.

use std::time::Duration;

use futures_lite::FutureExt;

use super::Cluster;
use super::store::{Kind, set_condition};

/// How often it looks for a node again when nothing changed that it knows of.
const INTERVAL: Duration = Duration::from_secs(60);

impl Cluster {
    /// Finds a node for a Pod, and lets it run there.
    pub(super) async fn place(&self, uid: &str, name: &str) {
        self.lag().await;
        while self.is_waiting(uid, name) {
            let (node, room) = {
                let state = self.state();
                let node = state.nodes.iter().find(|node| node.has_room(&state.store)).map(|node| node.name);
                (node, state.room.1.clone())
            };
            let moment = self.moment();
            if let Some(node) = node {
                self.update(uid, Kind::Pod, |pod| {
                    pod["spec"]["nodeName"] = node.into();
                    set_condition(pod, "PodScheduled", "True", ["", ""], &moment);
                });
                return self.run(uid, name, node).await;
            }
            let is_first = self.executor.chance(30);
            self.note(uid, |truth| truth.is_unplaced = true);
            self.update(uid, Kind::Pod, |pod| {
                let said = ["Unschedulable", "0/2 nodes are available: 2 Insufficient cpu."];
                set_condition(pod, "PodScheduled", "False", said, &moment);
                // Somebody is made to leave a node for it, or is not.
                let nominated = if is_first { "node-1" } else { "" };
                pod["status"]["nominatedNodeName"] = nominated.into();
            });
            self.say(uid, "Warning", ["FailedScheduling", "0/2 nodes are available: 2 Insufficient cpu."]);
            let freed = async {
                let _ = room.recv().await;
            };
            let gone = self.state().changed(uid);
            freed.or(gone).or(async { self.executor.sleep(INTERVAL).await }).await;
            self.lag().await;
        }
    }

    /// Whether this Pod is there and has no node.
    fn is_waiting(&self, uid: &str, name: &str) -> bool {
        let state = self.state();
        let pod = state.store.get(Kind::Pod, name);
        state.lives.get(uid).is_some_and(|life| life.pod == name)
            && pod.is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_null())
    }
}
