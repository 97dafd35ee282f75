//! Images: sidecars and their volumes, credentials, registries that fail.

use std::fs;
use std::os::unix::fs::symlink;

use oz_worker_tests::{
    message::Assignment,
    peers::{
        docker::Engine,
        registry::{PASSWORD, Registry, USER},
    },
};
use serde_json::{Value, json};

use super::scene::{AGENT, Scene, TASK, put, task, wait_for};

/// Nobody serves images there.
const NOWHERE: &str = "127.0.0.1:1";

fn with_sidecars(task_id: &str, script: &str, sidecars: &Value) -> Assignment {
    task(task_id, script).with("additional_sidecars", sidecars.clone())
}

pub fn sidecars(engine: &Engine) {
    // No shell, links, another user's file, a file that only its owner reads, many files.
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "one/file", "content", 0o640);
    symlink("file", folder.path().join("one/link")).unwrap();
    symlink("/nowhere/at/all", folder.path().join("one/broken")).unwrap();
    fs::hard_link(folder.path().join("one/file"), folder.path().join("one/hard")).unwrap();
    std::os::unix::fs::chown(folder.path().join("one"), Some(1234), Some(1235)).unwrap();
    for number in 0..3000 {
        put(folder.path(), &format!("many/{number}"), "", 0o644);
    }
    engine.shell("tar --numeric-owner -c . | docker import - oz-test/files:1", folder.path());
    let empty = tempfile::tempdir().unwrap();
    engine.import("oz-test/empty:1", empty.path(), &["CMD [\"-\"]"]);

    let mut scene = Scene::new(engine);
    let all = json!([
        {"image": "oz-test/files:1", "mount_path": "/mnt/files"},
        {"image": "oz-test/empty:1", "mount_path": "/full"},
        {"image": "oz-test/files:1", "mount_path": "/mnt/own", "read_write": true},
    ]);
    let script = "set -e; cd /mnt/files
        test \"$(cat one/link)\" = content; test -L one/broken; test \"$(ls many | wc -l)\" = 3000
        test \"$(stat -c %u:%g:%a one)\" = 1234:1235:$(stat -c %a one); test \"$(stat -c %a one/file)\" = 640
        test \"$(stat -c %h one/hard)\" = 2
        if echo x > one/new; then exit 9; fi
        test ! -e /full/of-the-image
        cd /mnt/own; test \"$(cat one/file)\" = content; echo mine > one/file; echo x > left";
    scene.succeeds(&with_sidecars("T1", script, &all));
    // What that task wrote is its own.
    scene.succeeds(&with_sidecars("T2", script, &all));
    let (_, message) =
        scene.fails(&with_sidecars("T3", "", &json!([{"image": "", "mount_path": "/x"}])), "sidecar_prep");
    assert_eq!(message, r#"cannot prepare sidecar "" for "/x": it has no image"#);
    scene.leave();
}

pub fn first_use(engine: &Engine) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "entrypoint.sh", "#!/bin/sh\neval \"${SCRIPT-}\"\n", 0o755);
    put(folder.path(), "a-big", &"x".repeat(20 << 20), 0o644);
    put(folder.path(), "z-last", "there", 0o644);
    engine.import("oz-test/big:1", folder.path(), &[]);
    let mut scene = Scene::new(engine);
    let script = "test \"$(cat /agent/z-last)\" = there";
    for number in 0..4 {
        scene.session.send(task(&format!("T{number}"), script).with("sidecar_image", "oz-test/big:1".into()));
    }
    let mut ends = 0;
    while ends < 4 {
        let (kind, data) = scene.end();
        assert!(kind == "task_claimed" || kind == "task_completed", "{kind} {data}");
        ends += usize::from(kind == "task_completed");
    }
    scene.leave();
}

pub fn volumes_in_the_way(engine: &Engine) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "file", "whole", 0o644);
    engine.import("oz-test/inway:1", folder.path(), &[]);
    let id = engine.docker(["image", "inspect", "--format", "{{.Id}}", "oz-test/inway:1"]);
    let name = format!("oz-test-inway-{}", &id["sha256:".len()..][..12]);
    let sidecar = json!([{"image": "oz-test/inway:1", "mount_path": "/mnt/x"}]);
    let script = "test \"$(cat /mnt/x/file)\" = whole && test ! -e /mnt/x/foreign";
    let mut scene = Scene::new(engine);
    // A volume of that name which is somebody else's.
    engine.docker(["volume", "create", &name]);
    engine.docker([
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &format!("{name}:/v"),
        TASK,
        "/bin/sh",
        "-c",
        "echo > /v/foreign",
    ]);
    scene.succeeds(&with_sidecars("T1", script, &sidecar));
    scene.gone("T1");
    let kept = engine.docker(["run", "--rm", "--network", "none", "-v", &format!("{name}:/v"), TASK, "/bin/ls", "/v"]);
    assert_eq!(kept, "foreign");
    // One of ours without what says that it is whole; and one that was removed.
    let ours = format!("{name}-2");
    engine.docker(["rm", &format!("oz-agent-worker.whole.{ours}")]);
    engine.docker([
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &format!("{ours}:/v"),
        TASK,
        "/bin/sh",
        "-c",
        "echo half > /v/file",
    ]);
    scene.succeeds(&with_sidecars("T2", script, &sidecar));
    engine.docker(["rm", &format!("oz-agent-worker.whole.{ours}")]);
    scene.gone("T2");
    engine.docker(["volume", "rm", &ours]);
    scene.succeeds(&with_sidecars("T3", script, &sidecar));
    scene.leave();
    engine.docker(["rm", &format!("oz-agent-worker.whole.{ours}")]);
    engine.docker(["volume", "rm", &name, &ours]);
}

/// Puts an image into a registry.
pub fn push(engine: &Engine, registry: &Registry, name: &str, login: bool) -> String {
    let image = format!("{}/{name}", registry.address);
    engine.docker(["tag", TASK, &image]);
    if login {
        engine.docker(["login", "--username", USER, "--password", PASSWORD, &registry.address]);
    }
    engine.docker(["push", &image]);
    if login {
        engine.docker(["logout", &registry.address]);
    }
    engine.docker(["rmi", &image]);
    image
}

/// Runs a task in this image, which is pulled for it and removed afterwards.
fn pulls(scene: &mut Scene<'_>, task_id: &str, image: &str) {
    scene.succeeds(&task(task_id, "").with("docker_image", image.into()));
    scene.gone(task_id);
    scene.engine.docker(["rmi", image]);
}

/// Runs a task in this image, which cannot be had; gives why.
fn is_refused(scene: &mut Scene<'_>, task_id: &str, image: &str) -> String {
    scene.fails(&task(task_id, "").with("docker_image", image.into()), "image_pull").1
}

pub fn credentials(engine: &Engine) {
    let Some(registry) = Registry::with_password() else { return };
    let image = push(engine, &registry, "private:1", true);
    let address = &registry.address;
    let mut scene = Scene::with(engine, |launch| {
        let path = format!("{}:{}", launch.dir().join("helpers").display(), std::env::var("PATH").unwrap());
        launch.env("PATH", &path)
    });
    let (home, helpers) = (scene.launch.home().join(".docker"), scene.launch.dir().join("helpers"));
    let config = |value: &Value| drop(put(&home, "config.json", &value.to_string(), 0o600));
    let helper = |text: &str| drop(put(&helpers, "docker-credential-test", &format!("#!/bin/sh\n{text}\n"), 0o755));
    let pair = |password: &str| data_encoding::BASE64.encode(format!("{USER}:{password}").as_bytes());
    let known = |password: &str| json!({"auths": {address.clone(): {"auth": pair(password)}}});

    is_refused(&mut scene, "T1", &image);
    config(&known("wrong-canary"));
    is_refused(&mut scene, "T2", &image);
    // Asked anew at every pull.
    config(&known(PASSWORD));
    pulls(&mut scene, "T3", &image);
    config(&json!({"credHelpers": {address.clone(): "test"}, "credsStore": "none"}));
    let answer = format!("read server\ntest \"$server\" = {address} || exit 7\necho to-stderr >&2");
    helper(&format!("{answer}\necho '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'"));
    pulls(&mut scene, "T4", &image);
    helper("echo credentials not found in native keychain; exit 1");
    let message = is_refused(&mut scene, "T5", &image);
    assert!(!message.contains("docker-credential"), "{message}");
    helper("echo helper-canary; exit 3");
    let message = is_refused(&mut scene, "T6", &image);
    let problem = format!("docker-credential-test has no credentials for \"{address}\": it exited with code 3");
    assert!(message.ends_with(&problem), "{message}");
    scene.worker.wait_for_line(&format!("the pull goes on without credentials: {problem}"));
    fs::remove_file(helpers.join("docker-credential-test")).unwrap();
    let message = is_refused(&mut scene, "T7", &image);
    assert!(message.contains("no executable file docker-credential-test on PATH"), "{message}");
    // An image that is there is not handed out to whoever may not have it.
    config(&known(PASSWORD));
    scene.succeeds(&task("T8", "").with("docker_image", image.as_str().into()));
    scene.stop();
    scene.launch = scene.launch.clone().config("pull_policy", "always");
    config(&known("wrong-canary"));
    scene.start_again();
    scene.fails(&task("T9", "").with("docker_image", image.as_str().into()).without("sidecar_image"), "image_pull");
    for text in ["canary", PASSWORD, &pair(PASSWORD)] {
        assert_eq!(scene.worker.lines_with(text), [""; 0]);
    }
    scene.stop();
    let variable = known(PASSWORD).to_string();
    scene.launch = scene.launch.clone().env("DOCKER_AUTH_CONFIG", &variable).config("pull_policy", "if-not-present");
    engine.docker(["rmi", &image]);
    scene.start_again();
    pulls(&mut scene, "T10", &image);
    scene.leave();
}

pub fn local_images(engine: &Engine) {
    let mut scene = Scene::with(engine, |launch| launch.config("pull_policy", "always"));
    let image = format!("{NOWHERE}/local:1");
    let agent = format!("{NOWHERE}/agent:1");
    engine.docker(["tag", TASK, &image]);
    engine.docker(["tag", AGENT, &agent]);
    let own = |task_id: &str| {
        task(task_id, "").with("docker_image", image.as_str().into()).with("sidecar_image", agent.as_str().into())
    };
    scene.succeeds(&own("T1"));
    scene.succeeds(&own("T2"));
    let warned = scene.worker.lines_with("and uses the one that the engine has");
    assert_eq!(warned.len(), 2, "one warning per image: {warned:?}");
    engine.docker(["rmi", &image]);
    let message = is_refused(&mut scene, "T3", &image);
    assert!(message.contains("refused"), "{message}");
    // Where a registry says that it has none, what is here is not used.
    if let Some(registry) = Registry::open() {
        let image = format!("{}/none:1", registry.address);
        engine.docker(["tag", TASK, &image]);
        is_refused(&mut scene, "T4", &image);
        engine.docker(["rmi", &image]);
    }
    let message = is_refused(&mut scene, "T5", "Bad//Image:::");
    assert!(message.contains("cannot use image \"Bad//Image:::\": its tag is"), "{message}");
    scene.leave();
    let all = engine.docker(["ps", "--all", "--quiet", "--filter", &format!("ancestor={agent}")]);
    engine.docker(["rm"].into_iter().chain(all.lines()));
    let volumes = engine.docker(["volume", "ls", "--quiet", "--filter", "name=127.0.0.1-1-agent"]);
    engine.docker(["volume", "rm"].into_iter().chain(volumes.lines()));
    engine.docker(["rmi", &agent]);
}

pub fn policies(engine: &Engine) {
    let mut scene = Scene::with(engine, |launch| {
        launch.config("pull_policy", "never").config("allowed_images", json!(["oz-test/*", "127.0.0.1:1/*"]))
    });
    scene.succeeds(&task("T1", ""));
    let message = is_refused(&mut scene, "T2", "127.0.0.1:1/none:1");
    assert!(message.ends_with("the engine does not have it, and pull_policy is never"), "{message}");
    let message = is_refused(&mut scene, "T3", "ubuntu:22.04");
    assert!(message.ends_with("allowed_images does not have it"), "{message}");
    scene.leave();
}

pub fn collected(engine: &Engine) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "file", "x", 0o644);
    engine.import("oz-test/unused:1", folder.path(), &[]);
    let mut scene = Scene::with(engine, |launch| launch.config("sidecar_volume_ttl", "2s"));
    let sidecar = json!([{"image": "oz-test/unused:1", "mount_path": "/mnt/x"}]);
    scene.claim(&with_sidecars("T1", "sleep 600", &sidecar));
    scene.running("T1");
    let volumes = || engine.docker(["volume", "ls", "--quiet", "--filter", "name=oz-test-unused"]);
    let used = volumes();
    assert!(!used.is_empty());
    scene.cancel("T1");
    wait_for("its removal", || volumes().is_empty().then_some(()));
    scene.succeeds(&with_sidecars("T2", "test -e /mnt/x/file", &sidecar));
    scene.leave();
}
