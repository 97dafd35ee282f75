//! Pods that do not start, and Pods that somebody takes away.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use super::scene::{Place, Scene, task, template, wait_for};

/// Whether the container of a task waits for this reason.
fn waits_for(pod: &Value, reason: &str) -> bool {
    let mut all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.any(|container| container["state"]["waiting"]["reason"] == reason)
}

pub fn quota(place: &Place<'_>) {
    let mut scene = Scene::with(place, |launch| launch.config("unschedulable_timeout", "60s"));
    place.quota("0");
    scene.claim(&task("T1", ""));
    place.has_jobs(1);
    place.kubectl("delete resourcequota q");
    scene.completes();
    scene.leave();
    let mut scene = Scene::with(place, |launch| launch.config("unschedulable_timeout", "5s"));
    place.quota("0");
    let (_, message) = scene.fails(&task("T2", ""), "unschedulable");
    assert!(message.contains("exceeded quota"), "{message}");
    place.has_jobs(0);
    place.kubectl("delete resourcequota q");
    // No node is that large.
    let shape = json!({"vcpus": 1000, "memory_gb": 1});
    let (_, message) = scene.fails(&task("T3", "").with("instance_shape", shape), "unschedulable");
    assert!(message.contains("Insufficient cpu"), "{message}");
    place.has_jobs(0);
    scene.leave();
}

pub fn late_secret(place: &Place<'_>) {
    let mut scene = Scene::with(place, |launch| {
        let mut template = template();
        template["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "late"}}]);
        launch.config("pod_template", template)
    });
    scene.claim(&task("T1", "test \"$KEY\" = value"));
    place.pod("a Pod without its Secret", |pod| waits_for(pod, "CreateContainerConfigError"));
    place.kubectl("create secret generic late --from-literal=KEY=value");
    scene.completes();
    place.kubectl("delete secret late");
    let (_, message) = scene.fails(&task("T2", ""), "container_create");
    assert!(message.contains("secret \"late\" not found"), "{message}");
    place.has_jobs(0);
    scene.leave();
    // The same of a volume, without which no container begins.
    let mut scene = Scene::with(place, |launch| {
        let mut template = template();
        let volume = json!({"name": "late", "secret": {"secretName": "late"}});
        template["volumes"].as_array_mut().unwrap().push(volume);
        let mount = json!({"name": "late", "mountPath": "/late"});
        template["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
        launch.config("pod_template", template)
    });
    scene.claim(&task("T3", ""));
    wait_for("a volume without its Secret", || place.all("events --field-selector reason=FailedMount").pop());
    place.kubectl("create secret generic late");
    scene.completes();
    place.has_jobs(0);
    scene.leave();
}

pub fn evicted(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", "sleep 600"));
    let pod = place.running();
    place.evict(&pod);
    let (code, message) = scene.failed("evicted");
    assert!(code.is_none() && message.contains("EvictionByEvictionAPI"), "{message}");
    scene.leave();
}

pub fn deleted(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    for (task_id, what) in [("T1", "pod -l oz-task-id=t1"), ("T2", "job -l oz-task-id=t2")] {
        scene.claim(&task(task_id, "trap 'exit 0' TERM; sleep 600 & wait"));
        place.running();
        place.kubectl(&format!("delete --wait=false {what}"));
        // It ends well when it is asked to, and that is its end.
        scene.completes();
        place.has_no_pods();
    }
    scene.claim(&task("T3", "sleep 600"));
    place.running();
    place.kubectl("delete --wait=false --grace-period=0 --force pod -l oz-task-id=t3");
    let (code, message) = scene.failed("container_exit");
    assert!(code == Some(143) && message.contains("deleted"), "{message}");
    // One that never ran is told so.
    place.quota("0");
    scene.claim(&task("T4", ""));
    place.has_jobs(1);
    place.kubectl("delete --wait=false job -l oz-task-id=t4");
    let (code, message) = scene.failed("job_watch");
    assert!(code.is_none() && message.contains("somebody deleted the Job"), "{message}");
    scene.leave();
}

pub fn suspended(place: &Place<'_>) {
    let timeout = Duration::from_secs(3);
    let mut scene = Scene::with(place, |launch| launch.config("unschedulable_timeout", "3s"));
    let suspend = |suspended: bool| {
        let job = place.has_jobs(1)[0]["metadata"]["name"].as_str().unwrap().to_owned();
        place.patch(&format!("job {job}"), &json!({"spec": {"suspend": suspended}}));
    };
    scene.claim(&task("T1", "sleep 600"));
    place.running();
    // As a queue does that wants its room back; the Pod goes, and that is nobody's end.
    suspend(true);
    place.has_no_pods();
    place.quota("0");
    // Twice as long as a node may take to be found.
    thread::sleep(timeout * 2);
    assert!(scene.is_silent(), "it waits for its turn");
    suspend(false);
    // From here on it counts.
    let (_, message) = scene.failed("unschedulable");
    assert!(message.contains("exceeded quota"), "{message}");
    place.has_jobs(0);
    // One that had to wait before it ever had a Pod, and then gets one.
    scene.claim(&task("T2", ""));
    suspend(true);
    place.kubectl("delete resourcequota q");
    thread::sleep(timeout * 2);
    assert!(scene.is_silent(), "it waits for its turn");
    suspend(false);
    scene.completes();
    scene.leave();
}
