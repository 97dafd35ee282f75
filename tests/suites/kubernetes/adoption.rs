//! Workers that are killed, and the next ones: whose a Job is, and who tells its end.

use oz_worker_tests::{server::Server, worker::Launch};
use serde_json::{Value, json};

use super::access::RULES;
use super::scene::{CLUSTER_BOUND, Place, Scene, WAITS, task, wait_for};

fn is_marked(job: &Value) -> bool {
    job["metadata"]["annotations"]["oz-agent-worker/told"] == "true"
}

fn instance(job: &Value) -> &str {
    job["metadata"]["annotations"]["oz-agent-worker/instance"].as_str().unwrap()
}

pub fn killed(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", WAITS).env("SECRET", "secret-canary"));
    let pod = place.running();
    let before = instance(&place.has_jobs(1)[0]).to_owned();
    scene.worker.kill();
    scene.start_again();
    assert_eq!(scene.claimed(), "T1");
    assert_ne!(instance(&place.has_jobs(1)[0]), before);
    // It holds a slot, and is known: the server asks once more, and is answered as of a task that runs.
    scene.claim(&task("T1", WAITS));
    place.end_task(&pod, 0);
    scene.completes();
    place.has_jobs(0);
    // One that is cancelled afterwards is gone like any other.
    scene.claim(&task("T2", "sleep 600"));
    place.running();
    scene.worker.kill();
    scene.start_again();
    scene.claimed();
    scene.cancel("T2");
    place.has_jobs(0);
    scene.leave();
}

pub fn ended_meanwhile(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    for (task_id, script) in [("T1", "sleep 1"), ("T2", "sleep 1; echo to-the-log $SECRET; exit 7")] {
        scene.claim(&task(task_id, script).env("SECRET", "secret-canary"));
    }
    place.has_jobs(2);
    scene.worker.kill();
    wait_for("the ends", || {
        let jobs = place.jobs();
        let conditions = |job: &Value| job["status"]["conditions"].to_string();
        let has_ended = |job: &Value| conditions(job).contains("Complete\"") || conditions(job).contains("Failed\"");
        jobs.iter().all(has_ended).then_some(())
    });
    scene.start_again();
    for _ in 0..2 {
        scene.claimed();
    }
    let mut ends = [scene.end(), scene.end()];
    ends.sort_by_key(|(_, data)| data["task_id"].as_str().map(str::to_owned));
    assert_eq!(ends[0].0, "task_completed", "{ends:?}");
    assert_eq!((&ends[1].1["failure_reason"], &ends[1].1["exit_code"]), (&json!("container_exit"), &json!(7)));
    scene.worker.wait_for_line("to-the-log ***");
    wait_for("the mark", || {
        let jobs = place.jobs();
        (jobs.len() == 1 && is_marked(&jobs[0])).then_some(())
    });
    // The one that failed stays, and is not told again.
    scene.worker.kill();
    scene.start_again();
    scene.succeeds(&task("T3", ""));
    scene.leave();
}

pub fn of_two(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", WAITS));
    let pod = place.running();
    scene.worker.kill();
    // Two of one id start at once, as during an upgrade.
    let servers = [Server::start(), Server::start()];
    let launches = servers.each_ref().map(|server| place.launch(server).worker_id(scene.launch.id()));
    let workers = launches.each_ref().map(Launch::start);
    let parts = servers.into_iter().zip(launches).zip(workers);
    let mut scenes: Vec<Scene> =
        parts.map(|((server, launch), worker)| Scene::started(server, launch, worker)).collect();
    let has: Vec<bool> = scenes.iter_mut().map(|scene| !scene.is_silent()).collect();
    assert_eq!(has.iter().filter(|has| **has).count(), 1, "one has it");
    place.end_task(&pod, 0);
    for (scene, has) in scenes.iter_mut().zip(&has) {
        if *has {
            assert_eq!(scene.claimed(), "T1");
            scene.completes();
            place.has_jobs(0);
        }
    }
    assert!(scenes.iter_mut().all(Scene::is_silent));
    scenes.into_iter().for_each(Scene::leave);
}

pub fn gone_later(place: &Place<'_>) {
    let mut scene = Scene::new(place);
    scene.claim(&task("T1", WAITS));
    let pod = place.running();
    let job = place.has_jobs(1).remove(0);
    let name = job["metadata"]["name"].as_str().unwrap().to_owned();
    let mark = instance(&job).to_owned();
    scene.worker.kill();
    // Its worker was a Pod that is there: it keeps its Job.
    place.kubectl("run worker --image=busybox:1.36 --restart=Never --command -- sleep 600");
    place.cluster.wait(&format!("--for=condition=Ready pod/worker -n {}", place.namespace));
    let worker = place.cluster.get(&format!("pod worker -n {}", place.namespace));
    let of_pod = |uid: &str| format!("{}/worker/{uid}/{mark}", place.namespace);
    let annotate = |value: &str| {
        place.kubectl(&format!("annotate --overwrite job {name} oz-agent-worker/instance={value}"));
    };
    annotate(&of_pod(worker["metadata"]["uid"].as_str().unwrap()));
    scene.start_again();
    assert!(scene.is_silent());
    // Gone, it is taken up without a restart; one of its name is another.
    place.kubectl("delete --grace-period=0 --force pod worker");
    assert_eq!(scene.claimed(), "T1");
    // Another worker took it up meanwhile: this one says nothing more.
    annotate(&of_pod("another"));
    scene.worker.wait_for_line_within("another worker took up the Job", CLUSTER_BOUND);
    place.end_task(&pod, 0);
    // It is nobody's again: taken up from its last state.
    scene.claimed();
    scene.completes();
    place.has_jobs(0);
    scene.leave();
}

pub fn older_role(place: &Place<'_>) {
    let mut rules = RULES;
    rules[0].0 = &["create", "get", "list", "watch", "delete"];
    let token = place.account(&rules);
    let server = Server::start();
    let launch = place.launch(&server);
    let kubeconfig = place.kubeconfig(launch.dir(), &json!({"token": token}));
    let launch = launch.config("kubeconfig", kubeconfig.to_str().unwrap());
    let mut scene = Scene::of(server, launch);
    scene.claim(&task("T1", WAITS));
    let pod = place.running();
    scene.worker.kill();
    scene.start_again();
    scene.claimed();
    assert_eq!(scene.worker.lines_with("may not patch jobs").len(), 1);
    place.end_task(&pod, 4);
    scene.failed("container_exit");
    assert!(!is_marked(&place.has_jobs(1)[0]));
    scene.leave();
}

pub fn in_preflight(place: &Place<'_>) {
    let server = Server::start();
    let mut worker = place.launch(&server).start();
    // Its limits come a moment after it.
    let is_limited = |job: &Value| job["spec"]["ttlSecondsAfterFinished"].is_number();
    wait_for("a preflight", || place.all("jobs").iter().any(is_limited).then_some(()));
    worker.kill();
    wait_for("the preflight's end", || place.all("jobs").is_empty().then_some(()));
}
