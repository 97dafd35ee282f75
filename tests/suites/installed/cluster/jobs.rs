//! The release with the default backend: each task is a Job, which outlives the worker's Pod.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use oz_worker_tests::{chart::text, connection::Connection, message::Assignment};
use serde_json::{Value, json};

use super::story::{Dial, NAMESPACE, POD_BOUND, RELEASE, Story, finish, name};
use super::{CLIENTS, KEY};

/// What a task does that goes on until somebody lets it end: exit with the code that it is given.
const UNTIL_TOLD: &str = "until test -s /workspace/code; do sleep 0.1; done; exit $(cat /workspace/code)";

impl Story {
    pub fn install(&mut self) {
        self.documented("kubectl create namespace", "");
        // What is copied for a task is copied by root, which `restricted` forbids.
        self.enforce("baseline");
        self.documented("kubectl -n warp-oz create secret", &format!("{KEY}\n"));
        self.cluster.wait(&format!("--for=create serviceaccount/default configmap/kube-root-ca.crt -n {NAMESPACE}"));
        self.before = self.all_objects();
        let helm = self.start("helm install oz-agent-worker ./charts/oz-agent-worker -n");
        let dial = self.dial();
        let told = finish(helm).unwrap();
        assert!(told.contains("The worker my-worker is about to connect"), "{told}");
        assert!(told.contains("Each task is a Job in the namespace warp-oz."), "{told}");
        assert_eq!((dial.worker_id.as_str(), dial.key.as_str()), ("my-worker", KEY));
        self.sessions = vec![dial.session];

        let pod = self.pod();
        assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true, "{pod:#}");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
        let warnings = self.cluster.get(&format!("events -n {NAMESPACE} --field-selector type=Warning"));
        // It is not ready before it is connected, and that may be asked meanwhile.
        let is_right =
            |warning: &Value| text(&warning["message"]).starts_with("Readiness probe failed: HTTP probe failed");
        let warnings = warnings["items"].as_array().unwrap().iter().filter(|warning| !is_right(warning));
        assert_eq!(warnings.count(), 0, "no other probe has failed, nothing else either");
        self.no_job_is_left("");
    }

    pub fn jobs_run(&mut self) {
        let script = "set -e; echo work >file; test \"$(cat file)\" = work; test \"$PWD\" = /workspace
            test -z \"${WARP_API_KEY-}\"; test \"$OZ_WORKER_BACKEND\" = kubernetes";
        let account = format!("system:serviceaccount:{NAMESPACE}:{RELEASE}");
        let before = self.calls(&account).len();
        self.claimed(&Assignment::new("T1").run(script));
        self.ends("T1", "task_completed");
        self.no_job_is_left("");
        assert_eq!(self.calls(&account).len() - before, 2, "a task that completes is created and deleted");
        let before = self.calls(&account).len();
        self.claimed(&Assignment::new("T2").run("echo what went wrong; exit 7"));
        let failure = self.ends("T2", "task_failed");
        assert_eq!(
            (text(&failure["failure_reason"]), &failure["exit_code"]),
            ("container_exit", &json!(7)),
            "{failure}"
        );
        self.cluster.log_line(&format!("deployment/{RELEASE} -n {NAMESPACE}"), "what went wrong");
        let calls = self.calls(&account).len() - before;
        assert!((2..=5).contains(&calls), "a task that fails: {calls} calls");
        let failed = self.cluster.get(&format!("jobs -n {NAMESPACE} -l oz-task-id=t2"));
        assert_eq!(failed["items"].as_array().unwrap().len(), 1, "it is kept, to be looked at");
        self.claimed(&Assignment::new("T3").with("instance_shape", json!({"vcpus": 1000})));
        let failure = self.ends("T3", "task_failed");
        assert_eq!(text(&failure["failure_reason"]), "unschedulable", "{failure}");
        assert!(text(&failure["message"]).contains("Insufficient cpu"), "{failure}");
    }

    pub fn helm_test(&mut self) {
        let told = self.documented("helm test", "");
        assert_eq!(told.matches("Phase:          Succeeded").count(), told.matches("TEST SUITE:").count(), "{told}");
        assert!(told.contains("oz-agent-worker-task-test"), "{told}");
        self.cluster.wait(&format!("--for=delete jobs -l oz-worker-id=my-worker-test -n {NAMESPACE}"));
        assert_eq!(self.pods_of(RELEASE).len(), 1);
    }

    pub fn upgraded_meanwhile(&mut self) {
        let old = self.pod_name();
        self.claimed(&Assignment::new("T4").run(UNTIL_TOLD));
        self.runs("T4");
        self.change(&json!({"worker": {"maxConcurrentTasks": 5}}));
        let helm = self.start("helm upgrade");
        assert_eq!(self.sessions.remove(0).expect_close(), Some(1000));
        let dial = self.dial();
        finish(helm).unwrap();
        self.settled();
        assert_ne!(self.pod_name(), old);
        self.taken_up(dial, "T4", 0, "task_completed");
    }

    pub fn killed_meanwhile(&mut self) {
        let old = self.pod_name();
        self.claimed(&Assignment::new("T5").run(UNTIL_TOLD));
        self.runs("T5");
        self.cluster.kubectl(&format!("delete pod {old} -n {NAMESPACE} --force --grace-period=0"));
        self.sessions.remove(0).expect_end_within(POD_BOUND);
        let dial = self.dial();
        self.taken_up(dial, "T5", 7, "task_failed");
    }

    /// A node that only the API server knows, so that it can be lost without this one: what its kubelet would say is said for it.
    pub fn node_lost(&mut self) {
        let capacity = json!({"cpu": "2000", "memory": "1Ti", "pods": "9"});
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "lost", "labels": {"kubernetes.io/hostname": "lost"}},
            "status": {"capacity": capacity, "allocatable": capacity, "conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null},
            ]},
        });
        self.cluster.try_kubectl_reading("create -f -", &node.to_string()).unwrap();
        let deadline = Instant::now() + POD_BOUND;
        while !self.cluster.get("node lost")["spec"]["taints"].is_null() {
            assert!(Instant::now() < deadline, "the node is not taken for one that is ready");
        }
        // Only that node has room for it.
        self.claimed(&Assignment::new("T8").with("instance_shape", json!({"vcpus": 1500})));
        let task = format!("pod -l oz-task-id=t8 -n {NAMESPACE}");
        self.cluster.wait(&format!("--for=create {task}"));
        self.cluster.wait(&format!("--for=jsonpath={{.spec.nodeName}}=lost {task}"));
        let pods = self.cluster.get(&task);
        let task = format!("{} -n {NAMESPACE}", name(&pods["items"][0]));
        let running = json!({"status": {"phase": "Running", "containerStatuses": [{
            "name": "task", "image": "", "imageID": "", "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }]}});
        self.cluster
            .kubectl(&format!("patch pod {task} --subresource=status -p {}", running.to_string().replace(' ', "")));
        // As who runs the cluster says it of a machine that is switched off.
        self.cluster.kubectl("taint node lost node.kubernetes.io/out-of-service=nodeshutdown:NoExecute");
        let failure = self.ends("T8", "task_failed");
        assert_eq!((text(&failure["failure_reason"]), &failure["exit_code"]), ("evicted", &Value::Null), "{failure}");
        assert!(text(&failure["message"]).contains("DeletionByTaintManager"), "{failure}");
        self.claimed(&Assignment::new("T8-then"));
        self.ends("T8-then", "task_completed");
        self.cluster.kubectl("delete node lost");
        self.cluster.kubectl(&format!("delete pod {task} --force --grace-period=0 --ignore-not-found"));
    }

    pub fn rights(&mut self) {
        // The Job of an earlier execution is in the way: it is looked at.
        self.claimed(&Assignment::new("T2"));
        self.ends("T2", "task_completed");
        self.no_job_is_left("-l oz-task-id=t2");

        let role = self.cluster.get(&format!("role {RELEASE} -n {NAMESPACE}"));
        let mut granted = BTreeSet::new();
        for rule in role["rules"].as_array().unwrap() {
            for resource in rule["resources"].as_array().unwrap() {
                for verb in rule["verbs"].as_array().unwrap() {
                    let resource = format!("{}/{}", text(&rule["apiGroups"][0]), text(resource));
                    granted.insert(format!("{} {resource} in {NAMESPACE}", text(verb)));
                }
            }
        }
        let account = format!("system:serviceaccount:{NAMESPACE}:{RELEASE}");
        assert_eq!(self.used(&account), granted, "what the worker asked for, and what its Role grants");
    }

    /// The calls of an account, as the API server wrote them down; a watch when it begins.
    fn calls(&self, account: &str) -> Vec<Value> {
        let log = self.cluster.audit_log();
        let calls = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_begun_watch = |call: &Value| call["verb"] == "watch" && call["stage"] == "ResponseComplete";
        calls.filter(|call| call["user"]["username"] == account && !is_begun_watch(call)).collect()
    }

    /// What an account asked the API server for, none of which it was refused.
    fn used(&self, account: &str) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for call in self.calls(account) {
            assert_ne!(call["responseStatus"]["code"], 403, "{call}");
            let object = &call["objectRef"];
            let part = object["subresource"].as_str().map_or_else(String::new, |part| format!("/{part}"));
            let resource = format!("{}/{}{part}", text(&object["apiGroup"]), text(&object["resource"]));
            // Everybody may ask what they may do.
            if resource != "authorization.k8s.io/selfsubjectaccessreviews" {
                used.insert(format!("{} {resource} in {}", text(&call["verb"]), text(&object["namespace"])));
            }
        }
        used
    }

    /// Jobs in another namespace than the release: its own is the worker's business as far as it must see its like there.
    pub fn elsewhere(&mut self) {
        let [_, jobs_run_here] = CLIENTS;
        // The worker's own Pod is as strict as Kubernetes has it, from here on.
        self.enforce("restricted");
        let more = format!("--set kubernetesBackend.namespace={jobs_run_here} --set worker.workerId=by-default");
        self.helm(&format!("install by-default ./charts/oz-agent-worker -f values.yaml {more}")).unwrap();
        let mut session = self.dial().session;
        session.send(Assignment::new("T6").run(UNTIL_TOLD));
        assert_eq!(next(&mut session)["type"], "task_claimed");
        let task = format!("pod -l oz-task-id=t6 -n {jobs_run_here}");
        self.cluster.wait(&format!("--for=create {task}"));
        self.cluster.wait(&format!("--for=condition=Ready {task}"));
        let deployment = format!("deployment/by-default-oz-agent-worker -n {NAMESPACE}");
        self.cluster.kubectl(&format!("rollout restart {deployment}"));
        session.expect_end_within(POD_BOUND);
        session = self.dial().session;
        let pods = self.cluster.get(&task);
        let inside = format!("{} -n {jobs_run_here}", name(&pods["items"][0]));
        self.cluster.try_exec(&inside, "echo 0 >/workspace/code").unwrap();
        assert_eq!(next(&mut session)["type"], "task_completed");
        let account = format!("system:serviceaccount:{NAMESPACE}:by-default-oz-agent-worker");
        let used = self.used(&account);
        assert!(used.contains("list /pods in warp-oz") && used.contains("list /pods in elsewhere"), "{used:?}");
        assert_eq!(used.iter().filter(|call| call.ends_with(" in warp-oz")).count(), 1, "{used:?}");

        // The worker may not do all that it must: it says what is missing.
        let patch = r#"[{"op":"remove","path":"/rules/0/verbs/1"}]"#;
        let role = format!("role by-default-oz-agent-worker -n {jobs_run_here} --type=json");
        self.cluster.kubectl(&format!("patch {role} -p {patch}"));
        self.cluster.kubectl(&format!("rollout restart {deployment}"));
        session.expect_end_within(POD_BOUND);
        let line = "the worker may not get jobs in namespace elsewhere: its Role lacks that verb";
        self.cluster.log_line(&deployment, line);
        self.helm("uninstall by-default --wait").unwrap();
    }

    /// A task in this image succeeds.
    pub fn job(&mut self, task_id: &str, image: &str) {
        self.claimed(&Assignment::new(task_id).with("docker_image", image.into()));
        self.ends(task_id, "task_completed");
        self.no_job_is_left("");
    }

    pub fn enforce(&self, standard: &str) {
        let label = format!("pod-security.kubernetes.io/enforce={standard}");
        self.cluster.kubectl(&format!("label namespace {NAMESPACE} {label} --overwrite"));
    }

    fn claimed(&mut self, assignment: &Assignment) {
        let session = &mut self.sessions[0];
        session.send(assignment);
        assert_eq!(session.expect("task_claimed")["worker_id"], "my-worker");
    }

    /// Waits for the end of this task.
    fn ends(&mut self, task_id: &str, kind: &str) -> Value {
        let mut end = next(&mut self.sessions[0]);
        assert_eq!((text(&end["type"]), text(&end["data"]["task_id"])), (kind, task_id), "{end}");
        end["data"].take()
    }

    /// Waits until the agent of a task runs.
    fn runs(&self, task_id: &str) {
        let task_id = task_id.to_lowercase();
        self.cluster.wait(&format!("--for=create pod -l oz-task-id={task_id} -n {NAMESPACE}"));
        self.cluster.wait(&format!("--for=condition=Ready pod -l oz-task-id={task_id} -n {NAMESPACE}"));
    }

    /// A task of the worker before is the next one's: its end is told, once, and as it was.
    fn taken_up(&mut self, dial: Dial, task_id: &str, code: u8, kind: &str) {
        assert_eq!(dial.worker_id, "my-worker");
        self.sessions = vec![dial.session];
        let pod = format!("pod -l oz-task-id={} -n {NAMESPACE}", task_id.to_lowercase());
        let pods = self.cluster.get(&pod);
        assert_eq!(pods["items"].as_array().unwrap().len(), 1, "{pods:#}");
        let task = name(&pods["items"][0]).to_owned();
        self.exec(&task, &format!("echo {code} >/workspace/code"));
        self.ends(task_id, kind);
        // Once: what comes next is another's.
        self.claimed(&Assignment::new(&format!("{task_id}-then")));
        self.ends(&format!("{task_id}-then"), "task_completed");
    }

    /// A Job goes once the worker knows that the end of its task was heard: its Ping is answered meanwhile.
    fn no_job_is_left(&mut self, of: &str) {
        let deadline = Instant::now() + POD_BOUND;
        while self.cluster.get(&format!("jobs -n {NAMESPACE} {of}"))["items"] != json!([]) {
            assert!(Instant::now() < deadline, "a Job is left");
            let more = self.sessions[0].recv_within(Duration::from_millis(50));
            assert!(more.is_none(), "{more:?}");
        }
    }
}

/// The next message; a Pod may have to be started before it.
fn next(session: &mut Connection) -> Value {
    session.recv_within(POD_BOUND).unwrap_or_else(|| panic!("nothing came"))
}
