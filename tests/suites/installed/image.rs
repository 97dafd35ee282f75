//! The image, built by a real Docker engine from the Dockerfile and run as the docs tell: their commands are taken from
//! `docs/install-docker.md` as they stand there.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use oz_worker_tests::{
    chart::repository,
    connection::Connection,
    message::Assignment,
    metrics::Scrape,
    page::blocks,
    peers::{
        Peer,
        container::Container,
        docker::{DEBIAN, Engine, HOST, REVISION, WORKER},
    },
    server::Server,
    tls::Authority,
    worker::{API_KEY, http_get, try_http_get},
};
use serde_json::Value;
use tempfile::TempDir;

/// The most that the image may take, in bytes. The docs say what it takes.
const MOST_BYTES: u64 = 12_000_000;

/// An agent, and a dispatch command, that does what the assignment says.
const AGENT: &str = "#!/bin/sh\neval \"${SCRIPT-}\"\n";

/// The block of code in the docs that holds this text.
fn docs(holds: &str) -> String {
    let blocks = blocks("docs/install-docker.md").into_iter().map(|(_, block)| block);
    let mut found: Vec<String> = blocks.filter(|block| block.contains(holds)).collect();
    assert_eq!(found.len(), 1, "blocks of install-docker.md with {holds:?}");
    found.remove(0)
}

/// One operator's folder, with the files that the docs name: those of an image with an agent, the worker's, the key.
fn folder(dockerfile: &str, worker: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // No image can be fetched here; this one is what it is called after.
    write("Dockerfile", &dockerfile.replace("debian:bookworm-slim", DEBIAN), 0o644);
    write("oz", AGENT, 0o755);
    write("submit-job", AGENT, 0o755);
    write("worker.yaml", worker, 0o644);
    write("api-key", &format!("{API_KEY}\n"), 0o444);
    folder
}

/// Runs the docs' `docker run` in this folder, after its `docker build`, with a server to dial and a port that is free.
fn run<'engine>(engine: &'engine Engine, folder: &TempDir, server: &Server) -> Container<'engine> {
    let commands = docs("docker build -t oz-agent-worker-with-oz");
    let (run, curl) = commands.split_once("\ncurl").unwrap();
    assert!(curl.contains("localhost:9464/readyz"), "{curl}");
    let (build, run) = run.split_once('\n').unwrap();
    engine.shell(build, folder.path());
    let run = run.replace("127.0.0.1:9464:", "127.0.0.1::");
    Container::new(engine, &engine.shell(&format!("{run} --web-socket-url {}", server.url()), folder.path()))
}

fn server_for_containers() -> Server {
    Server::listen(&format!("{HOST}:0")).unwrap()
}

fn status(address: &str, path: &str) -> Option<u16> {
    try_http_get(address, path).ok().map(|(status, _)| status)
}

/// The value after a name in `/proc/PID/status`.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Time and path of every entry in the image's layers.
fn entries(engine: &Engine, image: &str) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    engine.save(&[image], &archive);
    let tar = |arguments: &[&str], file: &Path| {
        let output = Command::new("tar").args(arguments).arg("-f").arg(file).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "tar {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    tar(&["-x"], &archive);
    let manifest: Value = serde_json::from_str(&fs::read_to_string(dir.path().join("manifest.json")).unwrap()).unwrap();
    let layers = manifest[0]["Layers"].as_array().unwrap().iter().map(|layer| layer.as_str().unwrap());
    let listed = layers.map(|layer| tar(&["--utc", "--full-time", "-tv"], &dir.path().join(layer))).collect::<String>();
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (format!("{} {}", fields[3], fields[4]), fields[5].trim_start_matches("./").to_owned())
    };
    listed.lines().map(entry).collect()
}

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn holds_the_worker_and_what_it_needs_and_says_what_it_is() {
    let Some(engine) = Engine::start() else { return };
    let Some(image) = engine.worker() else { return };
    let version = WORKER.split_once(':').unwrap().1;
    // What the docs say is what was built just now.
    assert!(docs("docker build --build-arg").contains(&format!("-t {WORKER} .")));

    let says = engine.docker(["run", "--rm", image, "--version"]);
    assert_eq!(says, format!("oz-agent-worker {version} (commit {}, runtime smol)", &REVISION[..12]));
    let about: Value = serde_json::from_str(&engine.docker(["image", "inspect", image])).unwrap();
    let labels = &about[0]["Config"]["Labels"];
    let label = |name: &str| labels[format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
    assert_eq!(label("title"), "oz-agent-worker");
    assert!(!label("description").is_empty());
    assert_eq!((label("version"), label("revision")), (version, REVISION));
    assert_eq!(label("licenses"), "MIT OR Apache-2.0");
    assert_eq!(about[0]["Config"]["User"], "10001:10001");
    let bytes = about[0]["Size"].as_u64().unwrap();
    println!("the image takes {bytes} bytes, at most {MOST_BYTES}");
    assert!(bytes <= MOST_BYTES);

    let entries = entries(&engine, image);
    for (time, path) in &entries {
        assert_eq!(time, "1970-01-01 00:00:00", "{path} has a time, so no other build makes the same image");
    }
    assert!(entries.iter().any(|(_, path)| path == "usr/share/zoneinfo/Europe/Berlin"));
    let is_file = |path: &&str| !path.ends_with('/') && !path.starts_with("usr/share/zoneinfo/");
    let mut files: Vec<&str> = entries.iter().map(|(_, path)| path.as_str()).filter(is_file).collect();
    files.retain(|path| !["libc.so.6", "libgcc_s.so.1", "libm.so.6"].iter().any(|library| path.ends_with(library)));
    files.retain(|path| !path.contains("/ld-linux-"));
    let others = [
        "etc/group",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/bin/oz-agent-worker",
    ];
    assert_eq!(files, others);
}

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn serves_confined_as_the_docs_start_it_and_drains_when_it_is_stopped() {
    let Some(engine) = Engine::start() else { return };
    let Some(_) = engine.worker() else { return };
    let folder = folder(&docs("COPY oz"), &docs("workspace_root"));
    let server = server_for_containers();
    let worker = run(&engine, &folder, &server);
    let mut session = server.accept();
    worker.wait_for_line("connected");

    let status_of_process = worker.proc("status");
    assert_eq!(field(&status_of_process, "Uid"), "10001 10001 10001 10001");
    assert_eq!(field(&status_of_process, "Gid"), "10001 10001 10001 10001");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&status_of_process, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&status_of_process, "NoNewPrivs"), "1");
    let (written, why) = worker.exec(&["--user", "0"], ["touch", "/etc/written"]);
    assert!(!written && why.contains("Read-only file system"), "{why}");

    let address = worker.address(9464);
    assert_eq!((status(&address, "/livez"), status(&address, "/readyz")), (Some(200), Some(200)));
    let scrape = Scrape::parse(&http_get(&address, "/metrics").1);
    assert_eq!(scrape.value("oz_worker_connected", &[]), 1.0);

    // Its workspace is on the volume, and its own.
    let script = "test $(id -u) = 10001 && touch here && test $(pwd) = /var/lib/oz/workspaces/T1 && exit 0; exit 9";
    session.send(Assignment::new("T1").run(script));
    session.expect("task_claimed");
    assert_eq!(session.expect("task_completed")["task_id"], "T1");

    session.send(Assignment::new("T2").run("mkfifo gate; echo waiting >&2; read _ <gate"));
    session.expect("task_claimed");
    worker.wait_for_line("waiting");
    let code = worker.stop_while(|| {
        worker.wait_for_line("draining");
        let (opened, why) = worker.exec(&[], ["sh", "-c", "echo >/var/lib/oz/workspaces/T2/gate"]);
        assert!(opened, "{why}");
        assert_eq!(session.expect("task_completed")["task_id"], "T2");
        goes_cleanly(&mut session);
    });
    assert_eq!(code, "0");
}

fn goes_cleanly(session: &mut Connection) {
    assert_eq!(session.expect_close(), Some(1000));
    session.hang_up();
}

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn command_of_an_image_that_has_a_shell_is_given_the_task() {
    let Some(engine) = Engine::start() else { return };
    let Some(_) = engine.worker() else { return };
    let dockerfile = docs("COPY oz").replace("COPY oz ", "COPY submit-job ");
    let folder = folder(&dockerfile, &docs("dispatch_command"));
    fs::write(folder.path().join("submit-job"), "#!/bin/sh\necho \"dispatching $OZ_RUN_ID\" >&2\n").unwrap();
    let server = server_for_containers();
    let worker = run(&engine, &folder, &server);
    let mut session = server.accept();
    session.send(Assignment::new("T1"));
    session.expect("task_claimed");
    worker.wait_for_line("dispatching T1");
    assert_eq!(worker.stop_while(|| goes_cleanly(&mut session)), "0");
}

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn connects_over_tls_without_a_shell_beside_it() {
    let Some(engine) = Engine::start() else { return };
    let Some(image) = engine.worker() else { return };
    let authority = Authority::new("An operator's authority");
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    authority.write(&folder.path().join("authority.pem"));
    // Some program: an agent is not started before there is a task.
    fs::write(
        folder.path().join("worker.yaml"),
        "backend: {direct: {oz_path: /usr/bin/oz-agent-worker, workspace_root: /tmp}}",
    )
    .unwrap();
    let name = "oz.example";
    let server = server_for_containers().with_tls(authority.server(name));
    let url = server.url().replace("localhost", name);
    let run = format!(
        "docker run -d --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp --add-host {name}:{HOST} \
         -v \"$PWD:/etc/oz:ro\" -e SSL_CERT_FILE=/etc/oz/authority.pem {image} \
         --config-file /etc/oz/worker.yaml --worker-id W --api-key {API_KEY} --web-socket-url {url}"
    );
    let worker = Container::new(&engine, &engine.shell(&run, folder.path()));
    let mut session = server.accept();
    let (has_shell, _) = worker.exec(&[], ["sh", "-c", "true"]);
    assert!(!has_shell);
    assert_eq!(worker.stop_while(|| goes_cleanly(&mut session)), "0");
}

#[test]
#[ignore = "starts a Docker engine; .ci/run asks for it"]
fn the_list_of_what_is_in_it_is_valid_and_true() {
    let Some(engine) = Engine::start() else { return };
    let Some([python, check]) = Peer::Cyclonedx.programs() else { return };
    let Some(flags) = engine.build_flags() else { return };
    let dir = tempfile::tempdir().unwrap();
    let command = docs("--target sbom").replace("docker build", &format!("docker build {flags}"));
    let command = command.replace("--output .", &format!("--output {}", dir.path().display()));
    engine.shell(&command, repository());
    let list = dir.path().join("oz-agent-worker.cdx.json");
    let checked = Command::new(python).arg(check).arg(&list).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let list: Value = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    assert_eq!(list["metadata"]["component"]["version"], WORKER.split_once(':').unwrap().1);
    let components = list["components"].as_array().unwrap();
    let urls: Vec<&str> = components.iter().map(|component| component["purl"].as_str().unwrap()).collect();
    let has = |start: &str| urls.iter().any(|url| url.starts_with(start));
    for linked in ["smol@2.", "rustls@0.23.", "ring@0.17.", "opentelemetry_sdk@0.33.", "tungstenite@0.30."] {
        assert!(has(&format!("pkg:cargo/{linked}")), "{linked} is missing in {urls:#?}");
    }
    // Of tests, of the other build, of builds only, and of other systems.
    for absent in
        ["proptest", "rcgen", "tempfile", "async-std", "cc", "serde_derive", "syn", "windows-sys", "oz-worker"]
    {
        assert!(!has(&format!("pkg:cargo/{absent}")), "{absent} is in no image: {urls:#?}");
    }
    let packages = urls.iter().filter_map(|url| Some(url.strip_prefix("pkg:deb/debian/")?.split_once('@')?.0));
    // Whose the files of the image are, the program apart.
    assert_eq!(packages.collect::<Vec<_>>(), ["ca-certificates", "libc6", "libgcc-s1", "tzdata"]);
    assert!(urls.iter().all(|url| !url.ends_with('@')), "{urls:#?}");
}
