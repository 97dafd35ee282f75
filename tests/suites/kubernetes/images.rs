//! Images: those that cannot be pulled, and those that can after a while.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    message::Assignment,
    peers::kubernetes::{HOST, said},
    process::with_input,
};
use serde_json::{Value, json};
use tiny_http::{Header, Response};

use super::scene::{Place, Scene, task};

/// The media types of an image of layers that are not compressed.
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// How long a registry is no good that is asked for what comes late, and how long of that it is too busy.
const AWAY: Duration = Duration::from_secs(25);
const BUSY: Duration = Duration::from_secs(5);

fn with_image(task_id: &str, image: &str) -> Assignment {
    task(task_id, "").with("docker_image", image.into())
}

pub fn never(place: &Place<'_>) {
    let mut scene = Scene::with(place, |launch| launch.config("image_pull_grace", "5s"));
    // Nobody listens there: that may pass.
    let (code, message) = scene.fails(&with_image("T1", "127.0.0.1:1/none:1"), "image_pull");
    assert!(code.is_none() && message.contains("127.0.0.1:1/none:1"), "{message}");
    let (code, message) = scene.fails(&with_image("T2", "NO:NAME:1"), "invalid_image");
    assert!(code.is_none() && message.contains("InvalidImageName"), "{message}");
    // What was given up is gone: nothing of it starts later.
    let jobs = place.has_jobs(1);
    assert_eq!(jobs[0]["metadata"]["annotations"]["oz-agent-worker/task-id"], "T2");
    scene.leave();
    let mut scene = Scene::with(place, |launch| launch.config("image_pull_policy", "Never"));
    let (_, message) = scene.fails(&with_image("T3", "localhost/absent:1"), "image_pull");
    assert!(message.contains("ErrImageNeverPull"), "{message}");
    scene.leave();
}

pub fn later(place: &Place<'_>) {
    let name = format!("{}.registry.test", place.namespace);
    serve(place, &name);
    let mut scene = Scene::new(place);
    // The registry knows no such tag.
    let assigned = Instant::now();
    let (code, message) = scene.fails(&with_image("T1", &format!("{name}/shell:absent")), "image_pull");
    assert!(code.is_none() && message.contains("not found"), "{message}");
    assert!(assigned.elapsed() < Duration::from_secs(30), "a tag that does not exist is told within some 20 s");
    place.has_jobs(0);
    // It is busy, then away, and then there.
    scene.succeeds(&with_image("T2", &format!("{name}/shell:late")));
    place.has_jobs(0);
    scene.leave();
}

/// A blob: its digest, its media type and its bytes.
struct Blob {
    digest: String,
    kind: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn of_text(kind: &'static str, text: String) -> Self {
        let summed = said(with_input(&mut Command::new("sha256sum"), &text)).unwrap();
        Self { digest: format!("sha256:{}", summed.split(' ').next().unwrap()), kind, bytes: text.into_bytes() }
    }

    fn described(&self) -> Value {
        json!({"mediaType": self.kind, "size": self.bytes.len(), "digest": self.digest})
    }
}

/// The shell's image: its manifest, and what that names.
fn shell(place: &Place<'_>) -> [Blob; 3] {
    let of_archive = |file: &str| {
        let taken = Command::new("tar").arg("-xOf").arg(place.cluster.images).arg(file).output().unwrap();
        assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
        taken.stdout
    };
    let config = String::from_utf8(of_archive("busybox.json")).unwrap();
    let parsed: Value = serde_json::from_str(&config).unwrap();
    let digest = parsed["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
    let (config, layer) = (Blob::of_text(CONFIG, config), Blob { digest, kind: LAYER, bytes: of_archive("layer.tar") });
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.described(),
        "layers": [layer.described()]});
    [Blob::of_text(MANIFEST, manifest.to_string()), config, layer]
}

/// Serves the shell's image as a registry of this name does.
fn serve(place: &Place<'_>, name: &str) {
    let blobs = shell(place);
    let server = tiny_http::Server::http((HOST, 0)).unwrap();
    let folder = place.cluster.folder().join("registries").join(name);
    fs::create_dir(&folder).unwrap();
    let at = format!("\"http://{}\"", server.server_addr());
    fs::write(folder.join("hosts.toml"), format!("server = {at}\n[host.{at}]\n")).unwrap();
    thread::spawn(move || {
        let mut asked = None;
        for request in server.incoming_requests() {
            let path = request.url().split('?').next().unwrap_or_default();
            let is_late = path.ends_with("/late");
            let since = if is_late { asked.get_or_insert_with(Instant::now).elapsed() } else { AWAY };
            let (code, blob) = match found(&blobs, path) {
                _ if since < BUSY => (429, None),
                _ if since < AWAY => (503, None),
                Some(blob) => (200, Some(blob)),
                None => (404, None),
            };
            let response = blob.map_or_else(
                || Response::from_data(Vec::new()),
                |blob| {
                    let header = |name: &str, value: &str| Header::from_bytes(name, value).unwrap();
                    Response::from_data(blob.bytes.clone())
                        .with_header(header("Content-Type", blob.kind))
                        .with_header(header("Docker-Content-Digest", &blob.digest))
                },
            );
            // A client that has gone asks again.
            let _ = request.respond(response.with_status_code(code));
        }
    });
}

/// What is at this path.
fn found<'a>(blobs: &'a [Blob; 3], path: &str) -> Option<&'a Blob> {
    let [manifest, ..] = blobs;
    let named = blobs.iter().find(|blob| path.ends_with(&blob.digest));
    named.or_else(|| path.ends_with("/late").then_some(manifest))
}
