//! What befalls a cluster: its API server forgets, stands still and is restarted; quotas, queues, evictions, and people who
//! delete what is not theirs or make what looks like ours.

use std::time::Duration;

use serde_json::json;

use super::Cluster;
use super::plan::Plan;
use super::store::{Kind, set_condition};
use crate::executor::OUTSIDE;

impl Cluster {
    /// One thing that happens to it.
    pub fn befall(&self) {
        let (faulty, rough) = {
            let state = self.state();
            (state.faulty, state.rough)
        };
        match self.executor.random(|random| random.u32(..20)) {
            0 if faulty => self.forget_often(),
            1..3 if faulty => {
                self.journal.note(|| "cluster: what has happened is forgotten".to_owned());
                self.state().store.compact();
            }
            3..5 if faulty => self.hang(),
            5..7 if faulty => self.restart(),
            7 if rough => self.cordon(),
            8 if rough => self.lose_node(),
            9 if rough => self.limit(),
            10..12 if rough => self.evict(),
            12 if rough => self.evict_by_kubelet(),
            13 if rough => self.intend_to_evict(),
            14..16 if rough => self.delete_one(),
            16 if rough => self.remove_pod_at_once(),
            17.. => self.put_job(),
            _ => {}
        }
    }

    /// It forgets what has happened, again and again.
    fn forget_often(&self) {
        self.journal.note(|| "cluster: what happens is forgotten at once, for a while".to_owned());
        let own = self.clone();
        self.executor.spawn(OUTSIDE, async move {
            for _ in 0..200 {
                own.executor.sleep(Duration::from_millis(100)).await;
                own.touch();
                own.state().store.compact();
            }
        });
    }

    /// Somebody changes every Job: it has a new version.
    fn touch(&self) {
        let touched = self.executor.now().as_millis().to_string();
        let mut state = self.state();
        let names: Vec<String> = state.store.all(Kind::Job).map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let touched = touched.as_str();
            state.store.update(Kind::Job, &name, |job| job["metadata"]["annotations"]["touched"] = touched.into());
        }
    }

    fn hang(&self) {
        let length = self.executor.duration(Duration::from_secs(1), Duration::from_secs(200));
        self.journal.note(|| format!("cluster: the API server stands still for {length:?}"));
        self.state().hangs_until = self.executor.now() + length;
    }

    fn restart(&self) {
        let length = self.executor.duration(Duration::from_millis(100), Duration::from_secs(300));
        self.journal.note(|| format!("cluster: the API server is restarted, and away for {length:?}"));
        self.set_outage(true);
        let stopped = std::mem::replace(&mut self.state().stopped, async_channel::bounded(1));
        stopped.0.close();
        let (own, forgets) = (self.clone(), self.executor.chance(50));
        self.executor.spawn(OUTSIDE, async move {
            own.executor.sleep(length).await;
            if forgets {
                own.state().store.compact();
            }
            own.set_outage(false);
        });
    }

    /// Whether nobody can reach the API server.
    fn set_outage(&self, outage: bool) {
        self.callers().iter().for_each(|caller| caller.way.set_outage(outage));
    }

    /// A namespace has no room for a while.
    fn limit(&self) {
        let length = self.executor.duration(Duration::from_secs(1), Duration::from_secs(300));
        self.journal.note(|| format!("cluster: the quota is used up for {length:?}"));
        self.state().quota = 0;
        let own = self.clone();
        self.executor.spawn(OUTSIDE, async move {
            own.executor.sleep(length).await;
            own.state().quota = usize::MAX;
        });
    }

    /// Lets a Job run after a while that a queue holds back.
    pub(super) fn resume_later(&self, uid: &str) {
        let after = self.executor.duration(Duration::from_secs(1), Duration::from_secs(200));
        let (own, uid) = (self.clone(), uid.to_owned());
        self.executor.spawn(OUTSIDE, async move {
            own.executor.sleep(after).await;
            own.journal.note(|| format!("cluster: {} is let go", own.name_of(&uid)));
            own.update(&uid, Kind::Job, |job| job["spec"]["suspend"] = false.into());
        });
    }

    /// A drain, a preemption, a taint.
    fn evict(&self) {
        let said = [
            ["EvictionByEvictionAPI", "Eviction API: evicting"],
            ["PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"],
            ["DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"],
        ];
        if let (Some(uid), Some(said)) = (self.any(), self.executor.random(|random| random.choice(said))) {
            self.disrupt(&uid, said, Some(self.executor.random(|random| random.u64(0..60))));
        }
    }

    /// It is said that a Pod is to go, and then it is let be.
    fn intend_to_evict(&self) {
        if let Some(uid) = self.any() {
            self.disrupt(&uid, ["PreemptionByScheduler", "default-scheduler: preempting"], None);
        }
    }

    /// A kubelet whose node is short of something ends a Pod.
    fn evict_by_kubelet(&self) {
        let (Some(uid), now, moment) = (self.any(), self.executor.now(), self.moment()) else { return };
        let runs = self.state().pod(&uid).is_some_and(|pod| {
            pod["status"]["phase"] == "Running"
                && pod["metadata"]["deletionTimestamp"].is_null()
                && pod["status"]["containerStatuses"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .all(|one| !one["state"]["running"].is_null())
        });
        if !runs {
            return;
        }
        self.journal.note(|| format!("cluster: the kubelet evicts the Pod of {}", self.name_of(&uid)));
        self.note(&uid, |truth| {
            truth.disrupted = Some(now);
            truth.end = Some((now, 137, false));
        });
        self.update(&uid, Kind::Pod, |pod| {
            let message = "The node was low on resource: memory.";
            set_condition(pod, "DisruptionTarget", "True", ["TerminationByKubelet", message], &moment);
            for one in pod["status"]["containerStatuses"].as_array_mut().into_iter().flatten() {
                one["state"] = json!({"terminated": {"exitCode": 137, "reason": "Error", "finishedAt": moment}});
            }
            (pod["status"]["phase"], pod["status"]["reason"]) = ("Failed".into(), "Evicted".into());
            pod["status"]["message"] = message.into();
        });
    }

    /// Somebody deletes a Job or a Pod of a worker's.
    fn delete_one(&self) {
        let Some(uid) = self.any() else { return };
        let (jobs, grace) = (self.executor.chance(50), self.executor.random(|random| random.u64(1..40)));
        self.journal.note(|| format!("cluster: somebody deletes {} (or its Pod: {})", self.name_of(&uid), !jobs));
        self.note(&uid, |truth| truth.is_removed = true);
        if jobs { self.remove_job(&uid) } else { self.delete_pod(&uid, Some(grace)) }
    }

    /// Somebody deletes a Pod by force.
    fn remove_pod_at_once(&self) {
        let Some(uid) = self.any() else { return };
        self.journal.note(|| format!("cluster: somebody removes the Pod of {} by force", self.name_of(&uid)));
        self.note(&uid, |truth| truth.is_removed = true);
        self.delete_pod(&uid, Some(0));
        self.remove_pod(&uid);
    }

    /// A task's Job that is there.
    fn any(&self) -> Option<String> {
        let all: Vec<String> = {
            let state = self.state();
            let of_tasks = state.lives.iter().filter(|(uid, life)| life.of.is_some() && state.job(uid).is_some());
            of_tasks.map(|(uid, _)| uid.clone()).collect()
        };
        self.executor.random(|random| random.choice(all))
    }

    /// Somebody else's Job: with a name that a task's could have, or with half of our labels.
    fn put_job(&self) {
        let (number, takes_name) = (self.executor.random(|random| random.u32(1..80)), self.executor.chance(50));
        let name = if takes_name { format!("oz-task-t{number}-exec-e{number}") } else { format!("foreign-{number}") };
        let hash = "60c5590f72eef292";
        let labels = if takes_name { json!({}) } else { json!({"oz-worker-id": "w1", "oz-worker-hash": hash}) };
        let template =
            json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "x"}]}});
        let job = json!({"metadata": {"labels": labels}, "spec": {"template": template}, "status": {}});
        let moment = self.moment();
        let Some(made) = self.state().store.create(Kind::Job, &name, job, &moment) else { return };
        self.journal.note(|| format!("cluster: somebody makes Job {name}"));
        let uid = made["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let plan = Plan::calm(Duration::from_secs(1), Some(Duration::from_secs(30)));
        self.begin(&uid, Self::life(&name, None, true, plan));
    }
}
