//! Canaries: an API key and a task's secret, looked for in every place that they must never reach.

use oz_worker_tests::{
    agent::Agent,
    message::{Assignment, Cancellation},
    process,
    server::Server,
    worker::Launch,
};
use rustix::process::Signal;

use crate::scene::Scene;

const KEY: &str = "wk-canary-of-the-api-key";
const TASK_SECRET: &str = "canary-of-the-task";
const FILE_SECRET: &str = "canary-of-the-file";
const FLAG_SECRET: &str = "canary-of-the-flag";

/// The worker's own log. What the task itself prints is the task's business; here it prints nothing.
fn assert_silent(text: &str, whereabouts: &str) {
    for canary in [KEY, TASK_SECRET, FILE_SECRET, FLAG_SECRET] {
        assert!(!text.contains(canary), "{canary} is in {whereabouts}: {text}");
    }
}

#[test]
fn no_secret_leaves_its_place() {
    for format in ["text", "json"] {
        let mut scene = Scene::with(|launch: Launch| {
            launch
                .with_metrics()
                .env("WARP_API_KEY", KEY)
                .flags(["--log-level", "debug", "--log-format", format, "--cancel-grace-period", "1s"])
                .flags(["-e", &format!("FLAG_SECRET={FLAG_SECRET}")])
                .config("setup_command", "case $TASK_ID in bad-setup) exit 3;; esac")
                .config("teardown_command", "case $TASK_ID in bad-teardown) exit 3;; esac")
                .config("environment", serde_json::json!([{"name": "FILE_SECRET", "value": FILE_SECRET}]))
        });
        let with_secret = |task_id: &str| Assignment::new(task_id).env("TASK_SECRET", TASK_SECRET);

        // A task that holds its secret, beside one that has none.
        scene.claim(&with_secret("holder").run("record; say started; sleep 600"));
        scene.claim(&Assignment::new("other").run("record; say started; sleep 600"));
        for task_id in ["holder", "other"] {
            scene.agent.wait_for(task_id, "started");
        }
        assert_eq!(scene.agent.record("holder").environment["TASK_SECRET"], TASK_SECRET);
        for (task_id, canaries) in [("holder", &[KEY][..]), ("other", &[KEY, TASK_SECRET])] {
            for value in scene.agent.record(task_id).environment.values() {
                assert!(!canaries.iter().any(|canary| value.contains(canary)), "{task_id} was given {value}");
            }
        }
        for pid in process::descendants(scene.worker.pid()).into_iter().chain([scene.worker.pid()]) {
            let arguments = process::arguments(pid);
            assert!(!process::contains(&arguments, KEY) && !process::contains(&arguments, TASK_SECRET), "of {pid}");
            if pid != scene.worker.pid() {
                assert!(!process::contains(&process::environment(pid), KEY), "environment of {pid}");
            }
        }
        assert_silent(&scene.worker.scrape_text(), "the metrics");

        // Everything that can go wrong with a task that has a secret.
        let mut frames = Vec::new();
        scene.session.send(Cancellation::of("holder"));
        frames.push(scene.session.recv());
        for task_id in ["bad-setup", "bad-teardown", ".."] {
            frames.push(scene.run(&with_secret(task_id)));
        }
        frames.push(scene.run(&with_secret("bad-exit").run("exit 3")));
        let broken = with_secret("broken").with("additional_oz_args", TASK_SECRET.into());
        scene.session.send(&broken);
        frames.push(scene.session.recv());
        scene.session.send(with_secret("broken").with("task_id", serde_json::json!([TASK_SECRET])));
        // The type of an unknown message is named, its data never.
        scene.session.text(&format!("{{\"type\": \"odd\", \"data\": \"{TASK_SECRET}\"}}"));
        scene.session.text(&format!("{{\"{TASK_SECRET}"));
        scene.session.binary(TASK_SECRET.as_bytes());
        scene.session.send(Assignment::new("odd-name").env("A=B\0", TASK_SECRET));
        frames.push(scene.session.recv());
        if frames.last().is_some_and(|frame| frame["type"] == "task_claimed") {
            frames.push(scene.session.recv());
        }
        scene.session.reset();
        scene.server.request().refuse("401 Unauthorized", "no");
        scene.accept_again();
        for frame in &frames {
            assert_silent(&frame.to_string(), "a message");
        }

        scene.worker.signal(Signal::TERM);
        while scene.session.recv()["data"]["task_id"] != "other" {}
        scene.session.expect_close();
        scene.session.hang_up();
        let ended = scene.worker.ended();
        assert_silent(&ended.stderr, "the log");
        assert_silent(&ended.stdout, "standard output");
    }
}

/// Setup and teardown are the operator's own commands: they have the worker's environment, key and all. While each of the three
/// runs, its environment and its arguments are looked at from outside.
#[test]
fn setup_and_teardown_have_the_key_in_their_environment_and_the_agent_never_has() {
    let agent = Agent::new();
    let step = |word: &str| {
        format!("echo \"$OZ_RUN_ID {word} $$\" > '{0}/events'; read -r _ < '{0}/gate'", agent.path("").display())
    };
    let server = Server::start();
    let launch = Launch::direct(&server, &agent).env("WARP_API_KEY", KEY);
    let launch = launch.config("setup_command", step("setup")).config("teardown_command", step("teardown"));
    let worker = launch.start();
    let mut session = server.accept();
    session.send(Assignment::new("T1").env("TASK_SECRET", TASK_SECRET).run("say agent $$; gate"));
    session.expect("task_claimed");
    for (word, has_key) in [("setup", true), ("agent", false), ("teardown", true)] {
        let pid = agent.hear_pid("T1", word);
        let environment = process::environment(pid);
        assert!(process::contains(&environment, TASK_SECRET), "of {word}");
        assert_eq!(process::contains(&environment, KEY), has_key, "environment of {word}");
        for pid in process::descendants(worker.pid()) {
            let arguments = process::arguments(pid);
            assert!(!process::contains(&arguments, KEY) && !process::contains(&arguments, TASK_SECRET), "of {word}");
        }
        agent.open_gate();
    }
    session.expect("task_completed");
}

#[test]
fn secrets_of_flags_and_file_are_in_no_complaint_about_them() {
    let ended = Launch::bare()
        .env("WARP_API_KEY", KEY)
        .worker_id("w1")
        .flags(["--log-level", "debug", "-e", &format!("={FLAG_SECRET}")])
        .backend("direct", &serde_json::json!({"environment": [{"name": "", "value": FILE_SECRET}]}))
        .run();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert_silent(&ended.stderr, "the complaint");
    let ended = Launch::bare()
        .env("WARP_API_KEY", KEY)
        .worker_id("w1")
        .flags(["--check", "-e", &format!("A={FLAG_SECRET}")])
        .backend(
            "direct",
            &serde_json::json!({"oz_path": "/bin/true", "environment": [{"name": "B", "value": FILE_SECRET}]}),
        )
        .run();
    assert_silent(&format!("{}{}", ended.stdout, ended.stderr), "what --check says");
}

#[test]
fn api_key_that_no_header_can_carry_is_not_repeated() {
    let ended = Launch::bare()
        .env("WARP_API_KEY", &format!("{KEY}\nX-Injected: yes"))
        .worker_id("w1")
        .flags(["--web-socket-url", "ws://127.0.0.1:9/"])
        .backend("direct", &serde_json::json!({"oz_path": "/bin/true"}))
        .run();
    assert_ne!(ended.code, Some(0));
    assert_silent(&ended.stderr, "the complaint");
    assert!(!ended.stderr.contains("X-Injected"), "{}", ended.stderr);
}
