//! The kubelet: pulls, prepares, starts and ends the containers of a Pod, and says so in its status.

use std::time::Duration;

use futures_lite::FutureExt;
use serde_json::{Value, json};

use super::Cluster;
use super::plan::{Plan, Trouble};
use super::store::{Kind, set_condition};

/// How long a pull or a mount takes that fails, and how often it is tried again.
const TRY: Duration = Duration::from_secs(2);
/// The container that is the task's; the one of a preflight has another name.
const TASK: &str = "task";

impl Cluster {
    /// A Pod on its node, from the first container to the last.
    pub(super) async fn run(&self, uid: &str, pod: &str, node: &'static str) {
        let plan = { self.state().lives.get(uid).map(|life| life.plan) };
        let Some(plan) = plan else { return };
        let runs = async {
            self.lives(uid, pod, node, plan).await;
            false
        };
        let deleted = async {
            self.leaving(uid, pod).await;
            true
        };
        if runs.or(deleted).await {
            self.stop(uid, pod, node, plan).await;
        }
    }

    async fn lives(&self, uid: &str, pod: &str, node: &'static str, plan: Plan) {
        self.reached(node).await;
        self.lag().await;
        if let Some((Trouble::Refused, _)) = plan.trouble {
            self.note(uid, |truth| truth.trouble = Some(Trouble::Refused));
            self.change(uid, pod, |pod| {
                let [reason, message] = Trouble::Refused.event();
                pod["status"] = json!({"phase": "Failed", "reason": reason, "message": message});
            });
            return;
        }
        self.wait_all(uid, pod, ["ContainerCreating", ""]);
        self.executor.sleep(plan.prepares).await;
        if let Some((trouble, until)) = plan.trouble {
            self.suffers(uid, pod, node, trouble, until).await;
        }
        for init in self.names(pod, "initContainers") {
            self.reached(node).await;
            let is_sidecar = self.is_sidecar(pod, &init);
            self.set_container(uid, pod, &init, &json!({"running": {"startedAt": self.moment()}}));
            if is_sidecar {
                continue;
            }
            self.executor.sleep(self.executor.duration(Duration::from_millis(10), Duration::from_secs(3))).await;
            self.reached(node).await;
            let code = plan.init_fails.unwrap_or_default();
            self.set_container(uid, pod, &init, &self.ended(code, false));
            if code != 0 {
                self.note(uid, |truth| truth.init = Some(code));
                return self.change(uid, pod, |pod| pod["status"]["phase"] = "Failed".into());
            }
        }
        self.reached(node).await;
        for name in self.names(pod, "containers") {
            if name == TASK {
                self.starts(uid);
            }
            self.set_container(uid, pod, &name, &json!({"running": {"startedAt": self.moment()}}));
        }
        self.change(uid, pod, |pod| pod["status"]["phase"] = "Running".into());
        let Some(length) = plan.length else { return std::future::pending().await };
        self.executor.sleep(length).await;
        self.reached(node).await;
        self.ends(uid, pod, plan.exit_code, plan.is_oom);
        let all = self.names(pod, "containers");
        if all.iter().any(|name| name != TASK && name != "main") {
            // What was put beside it runs on.
            return std::future::pending().await;
        }
        self.lag().await;
        let sidecars: Vec<String> =
            self.names(pod, "initContainers").into_iter().filter(|init| self.is_sidecar(pod, init)).collect();
        self.reached(node).await;
        for name in sidecars {
            self.set_container(uid, pod, &name, &self.ended(137, false));
        }
        let phase = if plan.exit_code == 0 { "Succeeded" } else { "Failed" };
        self.change(uid, pod, |pod| pod["status"]["phase"] = phase.into());
    }

    /// Something is in the way, until it is not.
    async fn suffers(&self, uid: &str, pod: &str, node: &str, trouble: Trouble, until: Option<Duration>) {
        let ends = until.map(|until| self.executor.now() + until);
        self.note(uid, |truth| truth.trouble = Some(trouble));
        let pod_uid = self.state().pod(uid).and_then(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned));
        let mut pause = TRY;
        while ends.is_none_or(|ends| ends > self.executor.now()) {
            self.reached(node).await;
            self.wait_all(uid, pod, trouble.waiting());
            if let Some(pod_uid) = &pod_uid {
                self.say(pod_uid, "Warning", trouble.event());
            }
            self.executor.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(300));
        }
        self.wait_all(uid, pod, ["ContainerCreating", ""]);
    }

    /// The Pod was deleted: what runs is asked to end, and then made to.
    async fn stop(&self, uid: &str, pod: &str, node: &str, plan: Plan) {
        self.reached(node).await;
        let (grace, runs, is_over) = {
            let state = self.state();
            let Some(pod) = state.store.get(Kind::Pod, pod) else { return };
            let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or_default();
            let mut all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            let runs = all.any(|one| one["name"] == TASK && !one["state"]["running"].is_null());
            let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            (Duration::from_secs(grace), runs, is_over)
        };
        if is_over {
            return;
        }
        if runs {
            let heeds = plan.heeds.filter(|heeds| *heeds <= grace);
            self.executor.sleep(heeds.unwrap_or(grace)).await;
            self.reached(node).await;
            self.ends(uid, pod, if heeds.is_some() { 143 } else { 137 }, false);
        }
        self.lag().await;
        self.reached(node).await;
        let has_succeeded = self.exit_code(pod) == Some(0);
        self.change(uid, pod, |pod| {
            pod["status"]["phase"] = if has_succeeded { "Succeeded" } else { "Failed" }.into();
        });
    }

    /// Ends when a Pod is being deleted, or over, or gone.
    async fn leaving(&self, uid: &str, pod: &str) {
        loop {
            let changed = {
                let state = self.state();
                let Some(pod) = state.store.get(Kind::Pod, pod) else { return };
                if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
                    return;
                }
                if !pod["metadata"]["deletionTimestamp"].is_null() {
                    break;
                }
                state.changed(uid)
            };
            changed.await;
        }
        self.lag().await;
    }

    /// The task's container starts.
    fn starts(&self, uid: &str) {
        let of = self.state().lives.get(uid).and_then(|life| life.of.clone());
        let Some((task, execution)) = of.filter(|(_, execution)| self.truths.of(execution).job == uid) else { return };
        self.journal.note(|| format!("cluster: {execution} starts"));
        let truth = self.truths.note(&execution, |truth| {
            truth.starts += 1;
            truth.started = Some(self.executor.now());
            truth.clone()
        });
        self.check_start(&task, &execution, &truth);
    }

    fn ends(&self, uid: &str, pod: &str, code: i32, is_oom: bool) {
        let now = self.executor.now();
        self.note(uid, |truth| truth.end = truth.end.or(Some((now, code, is_oom))));
        let of = self.state().lives.get(uid).and_then(|life| life.of.clone());
        if let Some((_, execution)) = of {
            self.journal.note(|| format!("cluster: {execution} ended: {code} {is_oom}"));
        }
        for name in self.names(pod, "containers") {
            if name == TASK || name == "main" {
                self.set_container(uid, pod, &name, &self.ended(code, is_oom));
            }
        }
    }

    fn ended(&self, code: i32, is_oom: bool) -> Value {
        let reason = match code {
            _ if is_oom => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": self.moment()}})
    }

    fn exit_code(&self, pod: &str) -> Option<i64> {
        let state = self.state();
        let all = state.store.get(Kind::Pod, pod)?["status"]["containerStatuses"].as_array()?;
        all.iter().find(|one| one["name"] == TASK)?["state"]["terminated"]["exitCode"].as_i64()
    }

    fn names(&self, pod: &str, list: &str) -> Vec<String> {
        let state = self.state();
        let all = state.store.get(Kind::Pod, pod).and_then(|pod| pod["spec"][list].as_array().cloned());
        all.into_iter().flatten().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    }

    fn is_sidecar(&self, pod: &str, name: &str) -> bool {
        let state = self.state();
        let all = state.store.get(Kind::Pod, pod).and_then(|pod| pod["spec"]["initContainers"].as_array().cloned());
        all.into_iter().flatten().any(|one| one["name"] == name && one["restartPolicy"] == "Always")
    }

    /// All containers wait, for this reason.
    fn wait_all(&self, uid: &str, pod: &str, [reason, message]: [&str; 2]) {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        let moment = self.moment();
        self.change(uid, pod, |pod| {
            for (list, statuses) in [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")] {
                let all = pod["spec"][list].as_array().cloned().unwrap_or_default();
                let all = all.iter().map(|one| json!({"name": one["name"], "image": one["image"], "state": state}));
                let mut all: Vec<Value> = all.collect();
                all.sort_by_key(|one| one["name"].to_string());
                pod["status"][statuses] = all.into();
            }
            set_condition(pod, "ContainersReady", "False", ["ContainersNotReady", ""], &moment);
        });
    }

    fn set_container(&self, uid: &str, pod: &str, name: &str, to: &Value) {
        self.change(uid, pod, |pod| {
            for statuses in ["initContainerStatuses", "containerStatuses"] {
                let all = pod["status"][statuses].as_array_mut().into_iter().flatten();
                all.filter(|one| one["name"] == name).for_each(|one| one["state"] = to.clone());
            }
        });
    }

    /// Changes this Pod, unless another has taken its place.
    fn change(&self, uid: &str, pod: &str, change: impl FnOnce(&mut Value)) {
        let is_it = self.state().lives.get(uid).is_some_and(|life| life.pod == pod);
        if is_it {
            self.update(uid, Kind::Pod, change);
            let mut state = self.state();
            state.make_room();
        }
    }
}
