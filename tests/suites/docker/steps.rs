//! Which step a task is in, as its trace and the page tell it.

use oz_worker_tests::{
    peers::{docker::Engine, registry::Registry},
    spans::SpanReceiver,
    worker::http_get,
};

use super::images::push;
use super::scene::{Scene, task, wait_for};

pub fn told(engine: &Engine) {
    let Some(registry) = Registry::open() else { return };
    let image = push(engine, &registry, "steps:1", false);
    let receiver = SpanReceiver::start();
    let mut scene = Scene::with(engine, |launch| receiver.trace(launch.with_metrics()));
    scene.claim(&task("T1", "sleep 600").with("docker_image", image.as_str().into()));
    scene.running("T1");
    let address = scene.worker.metrics_address();
    wait_for("the page's word", || http_get(&address, "/").1.contains(">Running</bdi>").then_some(()));
    scene.cancel("T1");
    let of_task = receiver.span_of("T1");
    let spans = receiver.spans();
    let steps: Vec<_> = spans.iter().filter(|step| step.parent_span_id == of_task.span_id).collect();
    let (pull, run) = (steps[0], steps[steps.len() - 1]);
    assert_eq!((pull.name.as_str(), run.name.as_str()), ("oz_worker.task.pull", "oz_worker.task.run"), "{steps:#?}");
    assert_eq!(pull.attributes["container.image.name"], image);
    assert!(steps.is_sorted_by(|step, next| step.end <= next.start), "{steps:#?}");
    scene.gone("T1");
    engine.docker(["rmi", &image]);
    scene.leave();
}
