//! The image, built by a real Docker engine from the Dockerfile.

use oz_worker_tests::peers::docker::Engine;

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn the_dockerfile_makes_an_image_of_the_worker() {
    let Some(engine) = Engine::start() else { return };
    let Some(image) = engine.worker() else { return };
    let says = engine.docker(["run", "--rm", image, "--version"]);
    assert!(says.starts_with("oz-agent-worker 0.1.0"), "{says}");
}
