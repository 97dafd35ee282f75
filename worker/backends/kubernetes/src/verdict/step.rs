//! Which step a task is in, by what was seen of its Job and its Pod.

use oz_worker_telemetry::TaskStep;
use oz_worker_text::line::beginning;

use super::{LONGEST_TEXT, Verdict};
use crate::job::SETUP;
use crate::objects::{ContainerStatus, Pod};
use crate::template::TASK;

impl Verdict {
    /// The step that the task is in, as far as is known.
    pub fn step(&self) -> TaskStep {
        let waiting = |reason: &str| {
            let reason = Some(beginning(reason, LONGEST_TEXT)).filter(|reason| !reason.is_empty());
            TaskStep::Waiting { reason }
        };
        if self.is_suspended() {
            return waiting("its Job is suspended");
        }
        let Some(pod) = self.pod.last.as_ref().filter(|_| self.pod.gone.is_none()) else {
            let said = self.events.iter().rfind(|event| event.is_warning());
            return waiting(said.map_or("", |event| &event.message));
        };
        let Some(node) = &pod.spec.node_name else {
            let placed = pod.status.conditions.iter().find(|condition| condition.kind == "PodScheduled");
            return waiting(placed.map_or("", |condition| &condition.message));
        };
        if self.node().is_some() {
            return TaskStep::Running { node: Some(node.clone()) };
        }
        match next_container(pod) {
            Some(container) if !container.state.running => {
                TaskStep::Pulling { image: container.image.clone(), percent: None }
            }
            Some(container) if container.name == SETUP => TaskStep::SettingUp,
            Some(container) => TaskStep::Preparing { image: container.image.clone() },
            None => waiting(&format!("{node} has not begun with it")),
        }
    }
}

/// The container that all others wait for.
fn next_container(pod: &Pod) -> Option<&ContainerStatus> {
    let is_over = |container: &ContainerStatus| {
        container.state.terminated.is_some() || container.state.running && pod.is_native_sidecar(&container.name)
    };
    let mut init = pod.status.init_container_statuses.iter();
    init.find(|container| !is_over(container)).or_else(|| pod.container(TASK))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use oz_worker_core::time::Instant;
    use serde_json::{Value, json};

    use super::super::Limits;
    use super::*;

    const NOW: Instant = Instant::new(Duration::ZERO);

    fn step(job: Value, pod: Value) -> String {
        let limits = Limits {
            image_pull_grace: Duration::ZERO,
            pod_start_timeout: Duration::ZERO,
            unschedulable_timeout: Duration::ZERO,
        };
        let mut verdict = Verdict::new(limits, NOW);
        verdict.job(NOW, serde_json::from_value(job).unwrap());
        if !pod.is_null() {
            verdict.pod(NOW, serde_json::from_value(pod).unwrap());
        }
        verdict.step().to_string()
    }

    fn pod(init: &Value, task: &Value) -> Value {
        let spec = json!({"nodeName": "n1", "initContainers": [{"name": "proxy", "restartPolicy": "Always"}]});
        let task =
            json!([{"name": "other", "state": {"running": {}}}, {"name": "task", "image": "t:1", "state": task}]);
        json!({"metadata": {"uid": "p"}, "spec": spec, "status": {"initContainerStatuses": init, "containerStatuses": task}})
    }

    #[test]
    fn it_is_that_of_the_container_that_the_others_wait_for() {
        let (waiting, running) = (json!({"waiting": {"reason": "x"}}), json!({"running": {"startedAt": "x"}}));
        let over = json!({"terminated": {"exitCode": 0}});
        let init = |proxy: &Value, copy: &Value, setup: &Value| {
            json!([
                {"name": "proxy", "image": "p:1", "state": proxy},
                {"name": "copy-sidecar-0", "image": "s:1", "state": copy},
                {"name": "setup", "image": "t:1", "state": setup},
            ])
        };
        for (init, task, shown) in [
            (init(&waiting, &waiting, &waiting), &waiting, "Pulling p:1"),
            (init(&running, &waiting, &waiting), &waiting, "Pulling s:1"),
            (init(&running, &running, &waiting), &waiting, "Preparing sidecar s:1"),
            (init(&running, &over, &running), &waiting, "Running the setup command"),
            (init(&running, &over, &over), &waiting, "Pulling t:1"),
            (init(&running, &over, &over), &running, "Running on n1"),
            (json!([]), &over, "Running on n1"),
        ] {
            assert_eq!(step(json!({}), pod(&init, task)), shown);
        }
    }

    #[test]
    fn without_a_node_the_cluster_says_what_it_waits_for() {
        let unplaced = json!({"status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"},
        ]}});
        assert_eq!(step(json!({}), unplaced), "Waiting for a node: 0/1 nodes are available");
        assert_eq!(step(json!({}), Value::Null), "Waiting for a node");
        assert_eq!(step(json!({"spec": {"suspend": true}}), Value::Null), "Waiting for a node: its Job is suspended");
        let bound = json!({"spec": {"nodeName": "n1"}});
        assert_eq!(step(json!({}), bound), "Waiting for a node: n1 has not begun with it");
    }
}
