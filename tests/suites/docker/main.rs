//! Backend `docker` on real engines: Debian's, and a current one. It starts engines, which nobody wants of `cargo test`, so it
//! runs when it is asked for:
//! `cargo test -p oz-worker-tests --test docker --test docker_on_async_std -- --ignored --nocapture --test-threads=1`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod faults;
mod images;
mod scene;
mod steps;
mod tasks;

use std::time::Instant;

use oz_worker_tests::peers::docker::{Engine, Release};
use scene::Chapter;

/// What happens on every engine, in this order.
const CHAPTERS: [(&str, Chapter); 23] = [
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
    ("only allowed images run, and each policy pulls as it says", images::policies),
    ("unused volumes of sidecars are collected", images::collected),
    ("trace and page say which step a task is in", steps::told),
    ("what a killed worker left is taken up, and what is not its own is left alone", faults::adoption),
    ("what ended meanwhile, or never began, is told", faults::ended_meanwhile),
    ("an engine that stands still fails no task", faults::hung),
    ("a prune beside tasks fails none", faults::pruned),
    ("an engine may be reached by ssh", faults::over_ssh),
    ("an engine that cannot be reached is one line", faults::not_reached),
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

fn story(release: Release) {
    let Some(engine) = Engine::start_of(release) else { return };
    scene::make_images(&engine);
    // One chapter alone, while it is being written.
    let only = std::env::var("CHAPTER").unwrap_or_default();
    for (title, chapter) in CHAPTERS.into_iter().filter(|(title, _)| only.split('|').any(|only| title.contains(only))) {
        let (before, begun) = (scene::left(&engine), Instant::now());
        chapter(&engine);
        println!("{release:?}, {:.1} s: {title}", begun.elapsed().as_secs_f64());
        assert_eq!(scene::left(&engine), before, "{title}: containers and volumes before and after");
    }
}
