//! The page at `/` of a running worker, in a real browser.

use std::{fs, io::Read, path::Path, time::Instant};

use flate2::read::ZlibDecoder;
use oz_worker_tests::{
    BOUND,
    message::Assignment,
    peers::chromium::Chromium,
    worker::{Launch, http_get},
};
use serde_json::{Value, json};

use crate::scene::Scene;

/// The background of `telemetry/src/page.css`, light and dark.
const GROUND: [[u8; 3]; 2] = [[0xf7, 0xf7, 0xf5], [0x12, 0x14, 0x16]];

/// What a title must not be able to do.
const EVIL: &str =
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>bold</b> & 'co'";

fn titled(task_id: &str, title: &str) -> Assignment {
    Assignment::new(task_id).with("task", json!({"id": task_id, "title": title}))
}

fn url(scene: &Scene) -> String {
    format!("http://{}/", scene.worker.metrics_address())
}

/// Waits until the page says that so many tasks run: a claim is written before it is noted.
fn wait_until_running(scene: &Scene, count: usize) {
    let (address, title) = (scene.worker.metrics_address(), format!("<title>{count} running"));
    let deadline = Instant::now() + BOUND;
    while !http_get(&address, "/").1.contains(&title) {
        assert!(Instant::now() < deadline, "the page never says {title}");
    }
}

/// Red, green and blue of a PNG's first pixel, which stands for itself whatever its line's filter.
fn first_pixel(png: &[u8]) -> [u8; 3] {
    let mut chunks = &png[8..];
    let mut data = Vec::new();
    while let [a, b, c, d, kind @ ..] = chunks {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if kind.starts_with(b"IDAT") {
            data.extend_from_slice(&kind[4..4 + length]);
        }
        chunks = &kind[4 + length + 4..];
    }
    let mut start = [0; 4];
    ZlibDecoder::new(data.as_slice()).read_exact(&mut start).unwrap();
    [start[1], start[2], start[3]]
}

#[test]
fn a_title_with_markup_is_shown_as_text() {
    let Some(mut chromium) = Chromium::start() else { return };
    let mut scene = Scene::with(Launch::with_metrics);
    scene.claim(&titled("<i>T1", EVIL).run("gate"));
    wait_until_running(&scene, 1);
    let url = url(&scene);
    chromium.open(&url);
    assert_eq!(chromium.evaluate("document.querySelector('main .title').textContent"), EVIL);
    assert_eq!(chromium.evaluate("document.querySelector('main .id').textContent"), "<i>T1");
    assert_eq!(chromium.evaluate("document.querySelectorAll('script, img, b, i').length"), 0);
    assert_eq!(chromium.evaluate("document.title"), format!("1 running · {}", scene.worker.launch.id()));
    scene.agent.open_gate();
}

#[test]
fn the_page_loads_nothing_from_anywhere_and_loads_itself_anew() {
    let Some(mut chromium) = Chromium::start() else { return };
    let mut scene = Scene::with(Launch::with_metrics);
    let url = url(&scene);
    chromium.open(&url);
    assert_eq!(chromium.evaluate("document.querySelectorAll('.past li').length"), 0);
    scene.still_works("T1");
    // Perhaps not the next time: the end is written before it is noted.
    let shown = (0..3).any(|_| {
        chromium.wait_for("Page.loadEventFired");
        chromium.evaluate("document.querySelector('.past .id')?.textContent") == "T1"
    });
    assert!(shown, "the page does not change");
    for request in chromium.seen("Network.requestWillBeSent") {
        let wanted = request["request"]["url"].as_str().unwrap();
        assert!(wanted == url || wanted.starts_with("data:"), "{wanted}");
    }
    // Where a browser says what a page's policy has forbidden.
    assert_eq!(chromium.seen("Log.entryAdded"), [Value::Null; 0]);
}

/// The pictures are for a person to look at: in the folder for temporary files of the build. The one in `docs/` is one of them.
#[test]
fn it_is_readable_on_a_desktop_and_a_phone_by_day_and_by_night() {
    let Some(mut chromium) = Chromium::start() else { return };
    let adjust = |launch: Launch| launch.with_metrics().worker_id("build-7").flags(["--max-concurrent-tasks", "4"]);
    let mut scene = Scene::with(adjust);
    for (task_id, title, script) in [
        ("7f3c2a10-5b1e", "Upgrade the payment service to the new SDK", "exit 0"),
        ("0c94d8e7-11f2", "Find out why the nightly build takes forty minutes", "exit 0"),
        ("b81e44aa-93d0", "Move the customer table to the new layout", "exit 3"),
        ("5de0f6c3-2a7b", "Write the release notes for 2.14", "exit 0"),
        ("e7724b19-c05d", EVIL, "kill -9 $$"),
        ("94ab3f02-6e18", "", "exit 0"),
    ] {
        scene.run(&titled(task_id, title).run(script));
    }
    for (task_id, title) in [
        (
            "3fd1c6b5-80e4",
            "Make the search on the start page find what was written in the last hour, and say how old it is",
        ),
        ("a26e9d70-4c3f", "סקירת קוד \u{202e}desrever\u{202c} في المستودع"),
        ("61c8075e-fb92", &"wide".repeat(40)),
    ] {
        scene.claim(&titled(task_id, title).run("gate"));
    }
    wait_until_running(&scene, 3);
    let url = url(&scene);
    for (width, height, form) in [(1080, 900, "desktop"), (390, 844, "phone"), (320, 568, "small")] {
        for (dark, scheme) in [(false, "light"), (true, "dark")] {
            chromium.look(width, height, dark);
            chromium.open(&url);
            let overflow = chromium.evaluate("document.documentElement.scrollWidth - innerWidth");
            assert!(overflow.as_i64().unwrap() <= 0, "{form} scrolls sideways by {overflow}");
            let cut = "[...document.querySelectorAll('dd, .time')].filter(e => e.scrollWidth > e.clientWidth).length";
            assert_eq!(chromium.evaluate(cut), 0, "{form} cuts what does not fit");
            let picture = chromium.screenshot();
            assert_eq!(first_pixel(&picture), GROUND[usize::from(dark)], "{form} {scheme}");
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("status-page-{form}-{scheme}.png"));
            fs::write(file, picture).unwrap();
        }
    }
    for _ in 0..3 {
        scene.agent.open_gate();
    }
}

#[test]
fn it_can_be_switched_off_and_the_rest_stays() {
    let scene = Scene::with(|launch| launch.with_metrics().flag("--status-page=off"));
    let address = scene.worker.metrics_address();
    assert_eq!(http_get(&address, "/").0, 404);
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(http_get(&address, path).0, 200, "{path}");
    }
}
