//! Tasks as they run every day: their ends, their stops, what their Pods hold.

use serde_json::{Value, json};

use super::scene::{Place, Scene, task, template, wait_for};

pub fn plain(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    let script = "test \"$PWD\" = /workspace && test \"$TASK_ID\" = T1 && test \"$VALUE\" = 'a $(b) $$'";
    scene.succeeds(&task("T1", script).env("VALUE", "a $(b) $$"));
    place.has_jobs(0);
    scene.leave();
}

pub fn fails(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    let script = "echo to-the-log $SECRET; exit 3";
    let (code, message) = scene.fails(&task("T1", script).env("SECRET", "secret-canary"), "container_exit");
    assert_eq!(code, Some(3), "{message}");
    scene.worker.wait_for_line("to-the-log ***");
    assert_eq!(scene.worker.lines_with("canary"), [""; 0]);
    // It stays, and everybody knows that its end was told.
    wait_for("the mark", || {
        let jobs = place.jobs();
        (jobs[0]["metadata"]["annotations"]["oz-agent-worker/told"] == "true").then_some(())
    });
    // What the kernel kills is told by the container's last state.
    scene.stop();
    let mut scene = Scene::with(place, |launch| {
        let mut template = template();
        template["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
        launch.config("pod_template", template)
    });
    let script = "exec dd if=/dev/zero of=/dev/null bs=200M count=1";
    let (code, _) = scene.fails(&task("T2", script), "container_oom");
    assert_eq!(code, Some(137));
    scene.leave();
}

pub fn cancelled(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", "trap 'exit 0' TERM; sleep 600 & wait"));
    place.running();
    scene.cancel("T1");
    place.has_jobs(0);
    place.has_no_pods();
    // Without a Pod nothing of it ever starts.
    place.quota("0");
    scene.claim(&task("T2", ""));
    place.has_jobs(1);
    scene.cancel("T2");
    place.has_jobs(0);
    place.kubectl("delete resourcequota q");
    scene.succeeds(&task("T3", ""));
    let pods = place.cluster.get(&format!("events -n {} --field-selector reason=SuccessfulCreate", place.namespace));
    assert!(!pods.to_string().contains("oz-task-t2"), "{pods:#}");
    scene.leave();
}

pub fn sidecars(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    let sidecar =
        |read_write| json!([{"image": super::scene::IMAGE, "mount_path": "/tools", "read_write": read_write}]);
    scene.succeeds(
        &task("T1", "/tools/bin/busybox true && ! touch /tools/x").with("additional_sidecars", sidecar(false)),
    );
    scene.succeeds(&task("T2", "/tools/bin/busybox true && touch /tools/x").with("additional_sidecars", sidecar(true)));
    scene.leave();
    // This node's containerd is of a time before image volumes.
    let server = oz_worker_tests::server::Server::start();
    let ended = place.launch(&server).config("use_image_volumes", true).start();
    ended.wait_for_line_within("does this cluster support image volumes?", super::scene::CLUSTER_BOUND);
}

pub fn companions(place: &Place<'_>) {
    let endless = |name: &str| json!({"name": name, "image": super::scene::IMAGE, "command": ["sleep", "600"]});
    let mut scene = Scene::with(place, |launch| {
        let mut template = template();
        let own = template["containers"][0].clone();
        // As a webhook would put its container: before all others.
        template["containers"] = json!([endless("mesh"), own]);
        let mut native = endless("native");
        native["restartPolicy"] = "Always".into();
        template["initContainers"] = json!([native]);
        launch.config("pod_template", template).config("ttl_seconds_after_finished", 3)
    });
    scene.claim(&task("T1", "exit 0"));
    scene.completes();
    let (code, _) = scene.fails(&task("T2", "exit 5"), "container_exit");
    assert_eq!(code, Some(5));
    // Nor does it keep a Job that nobody needs any more.
    place.has_jobs(0);
    place.has_no_pods();
    assert!(scene.is_silent());
    scene.leave();
}

pub fn names(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    let long = "x".repeat(300);
    let ids = ["日本語", "A.b", "a-b", "-", long.as_str()];
    for id in ids {
        // All of one execution's end, so that only the tasks' ids tell them apart.
        scene.claim(&task(id, "sleep 2").execution("e-12345678"));
    }
    let jobs = place.has_jobs(ids.len());
    let told: Vec<&Value> = jobs.iter().map(|job| &job["metadata"]["annotations"]["oz-agent-worker/task-id"]).collect();
    assert!(ids.iter().all(|id| told.contains(&&json!(id))), "{told:?}");
    for _ in ids {
        scene.completes();
    }
    place.has_jobs(0);
    scene.leave();
}

pub fn deadline(place: &Place<'_>) {
    let mut scene = Scene::with(place, |launch| launch.config("active_deadline_seconds", 3));
    let (code, _) = scene.fails(&task("T1", "sleep 600"), "active_deadline");
    assert_eq!(code, None);
    scene.leave();
}
