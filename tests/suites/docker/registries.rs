//! Registries that refuse, and images that are pruned and pulled again.

use std::thread;

use oz_worker_tests::peers::{
    docker::Engine,
    images::{make, make_as},
    registry::Registry,
};
use serde_json::json;
use tiny_http::{Response, Server};

use super::faults::beside;
use super::scene::{Scene, TASK, task};

/// What registries say with each status (Distribution specification, error codes).
const REFUSALS: [(u16, &str, bool); 3] =
    [(403, "DENIED", false), (429, "TOOMANYREQUESTS", true), (503, "UNAVAILABLE", true)];

/// A registry that has nothing to say but this. It lives as long as the test process.
fn registry_that_says(status: u16, code: &str) -> String {
    let server = Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_string();
    let body = json!({"errors": [{"code": code, "message": "that is how it is"}]}).to_string();
    thread::spawn(move || {
        for request in server.incoming_requests() {
            let is_first = request.url() == "/v2/";
            let response = if is_first { Response::from_string("{}") } else { Response::from_string(body.clone()) };
            let _ = request.respond(response.with_status_code(if is_first { 200 } else { status }));
        }
    });
    address
}

pub fn refusals(engine: &Engine) {
    // Side by side: engines try again, at length.
    thread::scope(|scope| {
        for (status, code, may_be_used) in REFUSALS {
            scope.spawn(move || refusal(engine, status, code, may_be_used));
        }
    });
}

fn refusal(engine: &Engine, status: u16, code: &str, may_be_used: bool) {
    let mut scene = Scene::with(engine, |launch| launch.config("pull_policy", "always"));
    let image = format!("{}/refused:1", registry_that_says(status, code));
    let own = |task_id: String| task(&task_id, "").with("docker_image", image.as_str().into());
    let own = |task_id: String| own(task_id).without("sidecar_image");
    engine.docker(["tag", TASK, &image]);
    // Without a sidecar there is nothing to run: it fails after its image was taken, or for want of it.
    let reason = if may_be_used { "container_start" } else { "image_pull" };
    let (_, message) = scene.fails(&own(format!("{status}-here")), reason);
    println!("{status}: {message}");
    let warned = scene.worker.lines_with("and uses the one that the engine has");
    assert_eq!(warned.iter().any(|line| line.contains(&image)), may_be_used, "{status}: {warned:?}");
    engine.docker(["rmi", &image]);
    scene.fails(&own(format!("{status}-not-here")), "image_pull");
    scene.leave();
}

pub fn pruned(engine: &Engine) {
    let Some(registry) = Registry::open() else { return };
    let [own, agent] = ["task:1", "agent:1"].map(|name| format!("{}/{name}", registry.address));
    make_as(engine, &own, &agent, "LABEL oz-test=pruned");
    for image in [&own, &agent] {
        engine.docker(["push", image]);
    }
    let prune = || engine.prune("oz-test=pruned");
    let mut scene = Scene::new(engine);
    beside(prune, || {
        for number in 0..4 {
            let task = task(&format!("T{number}"), "test -e /agent/entrypoint.sh");
            let task = task.with("docker_image", own.as_str().into()).with("sidecar_image", agent.as_str().into());
            scene.claim(&task);
        }
        let ends: Vec<_> = (0..4).map(|_| scene.end()).collect();
        assert!(ends.iter().all(|(kind, _)| kind == "task_completed"), "{ends:?}");
    });
    scene.leave();
    prune();
    // What no registry has.
    make(engine);
}
