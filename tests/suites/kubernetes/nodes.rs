//! What becomes of a node, or of a Pod's place on it.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::scene::{Place, Scene, WAITS, task, template, wait_for};

/// The cluster's only node.
const NODE: &str = "node1";

/// A worker whose tasks' template is changed so.
fn with_template(place: &Place<'_>, change: impl FnOnce(&mut Value)) -> Scene {
    let mut template = template();
    change(&mut template);
    Scene::with(place, |launch| launch.config("pod_template", template))
}

pub fn refused(place: &Place<'_>) {
    // Past the scheduler: it is the kubelet that finds no room.
    let mut scene = with_template(place, |template| template["nodeName"] = NODE.into());
    let shape = json!({"vcpus": 1000, "memory_gb": 1});
    let (code, message) = scene.fails(&task("T1", "").with("instance_shape", shape), "job_failed");
    assert!(code.is_none() && message.contains("OutOfcpu"), "{message}");
    scene.succeeds(&task("T2", ""));
    scene.leave();
}

pub fn drained_after_its_end(place: &Place<'_>) {
    let mut scene = with_template(place, |template| {
        let endless = json!({"name": "mesh", "image": super::scene::IMAGE, "command": ["sleep", "600"]});
        template["containers"].as_array_mut().unwrap().push(endless);
    });
    scene.claim(&task("T1", WAITS));
    let pod = place.running();
    // Nobody sees it end until its Pod is gone.
    scene.worker.signal(Signal::STOP);
    place.end_task(&pod, 3);
    place.pod("the task's end", |pod| {
        let mut all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        all.any(|container| container["name"] == "task" && container["state"]["terminated"]["exitCode"] == 3)
    });
    place.evict(&pod);
    place.has_no_pods();
    scene.worker.signal(Signal::CONT);
    let (code, message) = scene.failed("container_exit");
    assert_eq!(code, Some(3), "{message}");
    scene.leave();
}

pub fn preempted(place: &Place<'_>) {
    // There is one of this, and who is more urgent gets it.
    let resource = format!("example.com/{}", place.namespace);
    let one = json!({&resource: "1"});
    let status = json!({"status": {"capacity": one, "allocatable": one}});
    place.patch(&format!("node {NODE} --subresource=status"), &status);
    place.apply(&json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000,
        "metadata": {"name": &place.namespace}}));
    let resources = json!({"requests": one, "limits": one});
    let mut scene = with_template(place, |template| template["containers"][0]["resources"] = resources.clone());
    scene.claim(&task("T1", "sleep 600"));
    place.running();
    let urgent = json!({"name": "urgent", "image": super::scene::IMAGE, "command": ["sleep", "600"],
        "resources": resources});
    place.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "urgent"},
        "spec": {"priorityClassName": &place.namespace, "terminationGracePeriodSeconds": 1, "containers": [urgent]}}));
    let (code, message) = scene.failed("evicted");
    assert!(code.is_none() && message.contains("PreemptionByScheduler"), "{message}");
    // The next one waits for its turn.
    scene.claim(&task("T2", ""));
    place.kubectl("delete --wait=false --grace-period=0 --force pod urgent");
    scene.completes();
    scene.leave();
}

pub fn scaled_up(place: &Place<'_>) {
    let pool = format!("pool-{}", place.namespace);
    let label = |value: &str| place.kubectl(&format!("label --overwrite node {NODE} {pool}{value}"));
    let scene_waiting = |timeout: &str| {
        label("=yes");
        let mut template = template();
        template["nodeSelector"] = json!({&pool: "yes"});
        let scene = Scene::with(place, |launch| {
            launch.config("pod_template", template).config("unschedulable_timeout", timeout)
        });
        // There is no such node any more.
        label("-");
        scene
    };
    let waits = |pod: &Value| {
        let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
        all.any(|condition| condition["type"] == "PodScheduled" && condition["reason"] == "Unschedulable")
    };
    let mut scene = scene_waiting("3m");
    scene.claim(&task("T1", ""));
    place.pod("a Pod without a node", waits);
    label("=yes");
    scene.completes();
    place.has_no_pods();
    scene.leave();
    // An autoscaler that takes longer than is waited for.
    let mut scene = scene_waiting("15s");
    scene.claim(&task("T2", ""));
    let pod = place.pod("a Pod without a node", waits);
    let uid = place.cluster.get(&format!("pod {pod} -n {}", place.namespace))["metadata"]["uid"].clone();
    place.apply(&json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "scale-up"}, "type": "Normal",
        "reason": "TriggeredScaleUp", "message": "pod triggered scale-up", "source": {"component": "cluster-autoscaler"},
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {"kind": "Pod", "name": pod, "namespace": &place.namespace, "uid": uid}}));
    let (_, message) = scene.failed("unschedulable");
    assert!(message.contains("TriggeredScaleUp") && message.contains("unschedulable_timeout"), "{message}");
    place.has_jobs(0);
    scene.leave();
}

pub fn tainted(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", "sleep 600"));
    place.running();
    place.kubectl(&format!("taint node {NODE} chapter=this:NoExecute"));
    let end = scene.end();
    place.kubectl(&format!("taint node {NODE} chapter=this:NoExecute-"));
    let message = end.1["message"].as_str().unwrap_or_default();
    assert_eq!((&end.1["failure_reason"], &end.1["exit_code"]), (&json!("evicted"), &Value::Null), "{end:?}");
    assert!(message.contains("DeletionByTaintManager"), "{message}");
    scene.succeeds(&task("T2", ""));
    scene.leave();
}

/// Does this while the cluster has another node, which is well and takes no Pods. One that loses all its nodes at once takes
/// itself for what is lost, and evicts nobody.
fn beside_another<T>(place: &Place<'_>, goes_on: impl FnOnce() -> T) -> T {
    let ready = |beat: u64| {
        json!({"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": format!("2026-01-01T00:{:02}:{:02}Z", beat / 60, beat % 60)}]})
    };
    let taints = json!([{"key": "takes", "value": "none", "effect": "NoSchedule"}]);
    place.apply(
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "another"}, "spec": {"taints": taints},
        "status": ready(0)}),
    );
    let (lasts, over) = mpsc::channel::<()>();
    let done = thread::scope(|scope| {
        scope.spawn(move || {
            for beat in 1.. {
                place.kubectl(&format!(
                    "patch node another --subresource=status --patch {}",
                    json!({"status": ready(beat)})
                ));
                if over.recv_timeout(Duration::from_secs(3)) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        let _lasts = lasts;
        goes_on()
    });
    place.kubectl("delete node another");
    done
}

pub fn lost(place: &Place<'_>) {
    let at_once = |key: &str| {
        json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 0})
    };
    let mut template = template();
    template["tolerations"] = json!([at_once("unreachable"), at_once("not-ready")]);
    let mut scene =
        Scene::with(place, |launch| launch.config("pod_template", template).top("max_concurrent_tasks", 1.into()));
    scene.claim(&task("T1", "sleep 600"));
    place.running();
    place.cluster.signal("kubelet", Signal::STOP);
    let end = beside_another(place, || scene.end());
    // It comes back, and finds that it is to end its Pod.
    place.cluster.signal("kubelet", Signal::CONT);
    assert_eq!((&end.1["failure_reason"], &end.1["exit_code"]), (&json!("evicted"), &Value::Null), "{end:?}");
    place.cluster.wait(&format!("--for=condition=Ready node/{NODE}"));
    place.has_no_pods();
    assert!(scene.is_silent(), "it is told once");
    // Its slot is free.
    wait_for("the node's taints to go", || {
        place.cluster.get(&format!("node {NODE}"))["spec"]["taints"].is_null().then_some(())
    });
    scene.succeeds(&task("T2", ""));
    scene.leave();
}
