//! Backend `docker` on real engines: Debian's, a current one that root runs or a plain user, and Podman. It starts engines, which
//! nobody wants of `cargo test`, so it runs when it is asked for:
//! `cargo test -p oz-worker-tests --test docker --test docker_on_async_std -- --ignored --nocapture --test-threads=1`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod contained;
mod engines;
mod faults;
mod images;
mod kills;
mod registries;
mod scene;
mod steps;
mod tasks;

use std::time::Instant;

use oz_worker_tests::binary::Build;
use oz_worker_tests::peers::docker::{Engine, Release};
use scene::Chapter;

/// What happens on every engine, in this order.
const CHAPTERS: [(&str, Chapter); 32] = [
    ("a task runs and nothing of it is left", tasks::plain),
    ("a task that fails gives its code, and its output without secrets", tasks::fails),
    ("a task that is cancelled is stopped and removed", tasks::cancelled),
    ("a worker that is told to leave takes its tasks along", tasks::leaves),
    ("a shape is a limit, and only the engine says that memory ran out", tasks::shape),
    ("the operator's volumes, options and labels are there", tasks::options),
    ("what is not removed is stopped all the same, and never taken up", tasks::kept),
    ("volumes that an image asks for go with its task", tasks::anonymous_volumes),
    ("a log that cannot be read is one line", tasks::no_log),
    ("sidecars hold what their images do, and nothing else", images::sidecars),
    ("two tasks that use a sidecar first get a whole one", images::first_use),
    (
        "a volume that is in the way is not touched, and one that is not whole is filled anew",
        images::volumes_in_the_way,
    ),
    ("credentials are those of the docker client", images::credentials),
    ("an image that cannot be pulled is used where that may be", images::local_images),
    ("what a registry answers decides whether an image that is here may be used", registries::refusals),
    ("only allowed images run, and each policy pulls as it says", images::policies),
    ("unused volumes of sidecars are collected", images::collected),
    ("trace and page say which step a task is in", steps::told),
    ("what a killed worker left is taken up, and what is not its own is left alone", faults::adoption),
    ("what ended meanwhile, or never began, is told", faults::ended_meanwhile),
    ("an end that the server cannot hear is told by the next worker", faults::unheard),
    ("workers that are killed again and again lose no task that ran, and run none twice", kills::again_and_again),
    ("a worker in a container takes up what one in another left", contained::adoption),
    ("an engine that stands still fails no task", faults::hung),
    ("a prune beside tasks fails none", faults::pruned),
    ("what is pruned and pulled again fails no task", registries::pruned),
    ("an engine that is restarted fails no task that outlives it", engines::restarted),
    ("a connection that is cut when it is idle ends nothing", engines::cut_when_idle),
    ("a task takes few calls", engines::few_calls),
    ("an engine may be reached over TLS", engines::over_tls),
    ("an engine may be reached by ssh", faults::over_ssh),
    ("an engine that cannot be reached is one line", faults::not_reached),
];

/// What Podman does as well.
const ON_PODMAN: [(&str, Chapter); 6] = [
    ("a task runs and nothing of it is left", tasks::plain),
    ("a task that fails gives its code, and its output without secrets", tasks::fails),
    ("a task that is cancelled is stopped and removed", tasks::cancelled),
    ("sidecars hold what their images do, and nothing else", images::sidecars),
    ("what ended meanwhile, or never began, is told", faults::ended_meanwhile),
    ("an end that the server cannot hear is told by the next worker", faults::unheard),
];

/// What an engine that a plain user runs does as well.
const ON_ROOTLESS: [(&str, Chapter); 7] = [
    ("a task runs and nothing of it is left", tasks::plain),
    ("a task that fails gives its code, and its output without secrets", tasks::fails),
    ("a task that is cancelled is stopped and removed", tasks::cancelled),
    ("sidecars hold what their images do, and nothing else", images::sidecars),
    ("what a killed worker left is taken up, and what is not its own is left alone", faults::adoption),
    ("what ended meanwhile, or never began, is told", faults::ended_meanwhile),
    ("a worker runs as its page says", contained::rootless_as_the_page_says),
];

/// What takes long and is the same on every engine and for every build: on Debian's, with the default build.
const ONCE: [(&str, Chapter); 4] = [
    ("a worker in a container runs as its page says", contained::as_the_page_says),
    ("an engine that stands still for a minute fails no task", engines::hung_for_a_minute),
    ("much output takes no memory", tasks::much_output),
    ("the playground tells its story with containers", tasks::playground),
];

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn on_debians_engine() {
    story(Release::Debian);
}

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn on_a_current_engine() {
    story(Release::Current);
}

#[test]
#[ignore = "starts Podman's service; .ci/run asks for it"]
fn on_podman() {
    story(Release::Podman);
}

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn on_an_engine_that_a_plain_user_runs() {
    if is_default() {
        story(Release::Rootless);
    }
}

#[test]
#[ignore = "starts Docker engines; .ci/run asks for it"]
fn an_engine_may_become_another_under_a_worker() {
    if is_default() {
        engines::replaced();
    }
}

/// Whether this is not the program that tries the other build.
fn is_default() -> bool {
    Build::chosen().runtime == "smol"
}

fn story(release: Release) {
    let Some(engine) = Engine::start_of(release) else { return };
    scene::make_images(&engine);
    // One chapter alone, while it is being written.
    let only = std::env::var("CHAPTER").unwrap_or_default();
    let all = match release {
        Release::Podman => ON_PODMAN.to_vec(),
        Release::Rootless => ON_ROOTLESS.to_vec(),
        Release::Debian if is_default() => [&CHAPTERS[..], &ONCE].concat(),
        Release::Debian | Release::Current => CHAPTERS.to_vec(),
    };
    for (title, chapter) in all.into_iter().filter(|(title, _)| only.split('|').any(|only| title.contains(only))) {
        let (before, begun) = (scene::left(&engine), Instant::now());
        chapter(&engine);
        println!("{release:?}, {:.1} s: {title}", begun.elapsed().as_secs_f64());
        assert_eq!(scene::left(&engine), before, "{title}: containers and volumes before and after");
    }
}
