//! Pods that do not start, and Pods that somebody takes away.

use serde_json::{Value, json};

use super::scene::{Place, Scene, task, template};

/// Whether the container of a task waits for this reason.
fn waits_for(pod: &Value, reason: &str) -> bool {
    let mut all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.any(|container| container["state"]["waiting"]["reason"] == reason)
}

pub fn images(place: &Place<'_>) {
    let mut scene = Scene::with(place, |launch| launch.config("image_pull_grace", "5s"));
    let with_image = |task_id: &str, image: &str| task(task_id, "").with("docker_image", image.into());
    // Nobody listens there: that may pass.
    let (code, message) = scene.fails(&with_image("T1", "127.0.0.1:1/none:1"), "image_pull");
    assert!(code.is_none() && message.contains("127.0.0.1:1/none:1"), "{message}");
    let (code, message) = scene.fails(&with_image("T2", "NO:NAME:1"), "invalid_image");
    assert!(code.is_none() && message.contains("InvalidImageName"), "{message}");
    // What was given up is gone: nothing of it starts later.
    let jobs = place.has_jobs(1);
    assert_eq!(jobs[0]["metadata"]["annotations"]["oz-agent-worker/task-id"], "T2");
    scene.leave();
    let mut scene = Scene::with(place, |launch| launch.config("image_pull_policy", "Never"));
    let (_, message) = scene.fails(&with_image("T3", "localhost/absent:1"), "image_pull");
    assert!(message.contains("ErrImageNeverPull"), "{message}");
    scene.leave();
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
}

pub fn evicted(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", "sleep 600"));
    let pod = place.running();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", place.namespace);
    let words = format!("create --raw {path} -f -");
    place.cluster.try_kubectl_reading(&words, &eviction.to_string()).unwrap();
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
        super::scene::wait_for("the Pod's end", || place.all("pods -l oz-task-id").is_empty().then_some(()));
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
    let mut scene = Scene::with(place, |launch| launch.config("unschedulable_timeout", "3s"));
    scene.claim(&task("T1", "test -e /workspace && sleep 600"));
    place.running();
    let job = place.has_jobs(1)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    // As a queue does that wants its room back; the Pod goes, and that is nobody's end.
    place.kubectl(&format!("patch job {job} --type=merge --patch {{\"spec\":{{\"suspend\":true}}}}"));
    super::scene::wait_for("the Pod's end", || place.all("pods -l oz-task-id").is_empty().then_some(()));
    place.quota("0");
    place.kubectl(&format!("patch job {job} --type=merge --patch {{\"spec\":{{\"suspend\":false}}}}"));
    // From here on it counts.
    let (_, message) = scene.failed("unschedulable");
    assert!(message.contains("exceeded quota"), "{message}");
    scene.leave();
}
