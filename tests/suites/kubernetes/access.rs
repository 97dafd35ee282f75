//! Who the worker is to the cluster: a Role that is too small, tokens that are rotated, plugins that fail.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Instant};

use data_encoding::BASE64;
use oz_worker_tests::{agent::write_program, peers::kubernetes::API, proxy::Proxy, server::Server, tls::Authority};
use serde_json::{Value, json};

use super::{
    relay::Relay,
    scene::{CLUSTER_BOUND, Place, Scene, WAITS, task, wait_for},
};

type Rule = (&'static [&'static str], &'static str, &'static str);

/// What the chart's Role grants.
pub const RULES: [Rule; 4] = [
    (&["create", "get", "list", "watch", "delete", "patch"], "batch", "jobs"),
    (&["get", "list", "watch"], "", "pods"),
    (&["get"], "", "pods/log"),
    (&["list"], "", "events"),
];

pub fn roles(place: &Place<'_>) {
    for (lacking, resource) in [
        ("create", "jobs"),
        ("get", "jobs"),
        ("list", "jobs"),
        ("watch", "jobs"),
        ("delete", "jobs"),
        ("list", "pods"),
        ("watch", "pods"),
    ] {
        let rules: Vec<(Vec<&str>, &str, &str)> = RULES
            .iter()
            .map(|(verbs, group, of)| {
                let is_it = |verb: &&str| *of == resource && *verb == lacking;
                (verbs.iter().copied().filter(|verb| !is_it(verb)).collect(), *group, *of)
            })
            .collect();
        let rules: Vec<(&[&str], &str, &str)> =
            rules.iter().map(|(verbs, group, of)| (&verbs[..], *group, *of)).collect();
        let token = place.account(&rules);
        let server = Server::start();
        let launch = place.launch(&server);
        let kubeconfig = place.kubeconfig(launch.dir(), &json!({"token": token}));
        let mut worker = launch.config("kubeconfig", kubeconfig.to_str().unwrap()).start();
        worker.wait_for_line_within(&format!("may not {lacking} {resource} in namespace"), CLUSTER_BOUND);
        assert_eq!(worker.exit_within(CLUSTER_BOUND).code(), Some(1), "without {lacking} on {resource}");
    }
    // The chart's Role is enough.
    let token = place.account(&RULES);
    let mut scene = as_user(place, &json!({"token": token}));
    scene.fails(&task("T1", "echo shown; exit 1"), "container_exit");
    scene.worker.wait_for_line("shown");
    assert_eq!(scene.worker.lines_with("may not"), [""; 0]);
    scene.leave();
}

/// A worker that is this user.
fn as_user(place: &Place<'_>, user: &Value) -> Scene {
    let server = Server::start();
    let launch = place.launch(&server);
    let kubeconfig = place.kubeconfig(launch.dir(), user);
    let launch = launch.config("kubeconfig", kubeconfig.to_str().unwrap());
    Scene::of(server, launch)
}

/// What the administrator's kubeconfig has under this key, decoded.
fn decoded(text: &str, key: &str) -> Vec<u8> {
    let (_, rest) = text.split_once(&format!("{key}: ")).unwrap();
    BASE64.decode(rest.split(['}', ',']).next().unwrap().as_bytes()).unwrap()
}

pub fn kubeconfigs(place: &Place<'_>) {
    place.account(&RULES);
    let (folder, proxy) = (tempfile::tempdir().unwrap(), Proxy::to(API.into()));
    let admin = fs::read_to_string(&place.cluster.kubeconfig).unwrap();
    fs::create_dir(folder.path().join("pki")).unwrap();
    for (file, key) in [
        ("pki/ca.crt", "certificate-authority-data"),
        ("admin.crt", "client-certificate-data"),
        ("admin.key", "client-key-data"),
    ] {
        fs::write(folder.path().join(file), decoded(&admin, key)).unwrap();
    }
    let cluster =
        json!({"server": format!("https://{API}"), "certificate-authority": "pki/ca.crt", "proxy-url": proxy.url()});
    // An administrator who acts as the service account.
    let user = json!({"client-certificate": "admin.crt", "client-key": "admin.key",
        "as": format!("system:serviceaccount:{}:w", place.namespace)});
    let files = [
        json!({"clusters": [{"name": "c", "cluster": cluster}], "current-context": "x"}),
        json!({"users": [{"name": "u", "user": user}], "current-context": "y",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}),
    ];
    let paths = ["one", "two"].map(|name| folder.path().join(name));
    for (path, text) in paths.iter().zip(files) {
        fs::write(path, text.to_string()).unwrap();
    }
    let listed = format!("{}:{}:{}", paths[0].display(), folder.path().join("absent").display(), paths[1].display());
    let mut scene = Scene::with(place, |launch| launch.without_config("kubeconfig").env("KUBECONFIG", &listed));
    scene.succeeds(&task("T1", ""));
    place.has_jobs(0);
    assert_eq!(scene.worker.lines_with("may not"), [""; 0]);
    let asked = format!("CONNECT {API}");
    assert!(proxy.requests().iter().filter(|request| request.starts_with(&asked)).count() > 3);
    scene.leave();
    // An address of the sixth version, and a certificate that is for another.
    let mut scene = Relay::at("[::1]:0").scene(place);
    scene.succeeds(&task("T2", ""));
    scene.leave();
}

pub fn authority(place: &Place<'_>) {
    let (token, folder) = (place.account(&RULES), tempfile::tempdir().unwrap());
    // The API server has a certificate of its own for this name, and nobody else calls it so.
    let (name, trusted) = ("renamed.test", folder.path().join("ca.crt"));
    fs::copy(place.cluster.folder().join("ca.crt"), &trusted).unwrap();
    let kubeconfig = json!({
        "clusters": [{"name": "c", "cluster":
            {"server": format!("https://{API}"), "certificate-authority": "ca.crt", "tls-server-name": name}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    let path = folder.path().join("kubeconfig");
    fs::write(&path, kubeconfig.to_string()).unwrap();
    let server = Server::start();
    let launch = place.launch_as(&server, &path);
    let mut scene = Scene::of(server, launch);
    scene.claim(&task("T1", WAITS));
    let pod = place.running();
    // From now on another authority's.
    let authority = Authority::new("another");
    let (certificate, key) = authority.issue(name, folder.path());
    fs::copy(certificate, place.cluster.folder().join("renamed.crt")).unwrap();
    fs::copy(key, place.cluster.folder().join("renamed.key")).unwrap();
    let kubectl = format!("--kubeconfig {} -n {} get jobs", path.display(), place.namespace);
    wait_for("the new certificate", || place.cluster.try_kubectl(&kubectl).err().filter(|said| said.contains("x509")));
    // Who does not know that one yet waits.
    let begun = Instant::now();
    scene.claim(&task("T2", ""));
    scene.worker.wait_for_line_within("its certificate has an unknown issuer", CLUSTER_BOUND);
    authority.write(&trusted);
    scene.completes();
    place.end_task(&pod, 0);
    scene.completes();
    place.has_jobs(0);
    let said = scene.worker.lines_with("no good credentials for the cluster").len();
    assert!(said as u64 <= 1 + begun.elapsed().as_secs() / 60, "one line a minute, not {said}");
    scene.worker.wait_for_line("the credentials for the cluster are good again");
    scene.leave();
}

/// A token that is revoked when the Secret of this name is deleted.
fn bound_token(place: &Place<'_>, secret: &str) -> String {
    place.kubectl(&format!("create secret generic {secret}"));
    place.kubectl(&format!("create token w --bound-object-kind Secret --bound-object-name {secret}"))
}

pub fn rotation(place: &Place<'_>) {
    place.account(&RULES);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let old = bound_token(place, "old");
    fs::write(&file, &old).unwrap();
    let mut scene = as_user(place, &json!({"tokenFile": file}));
    scene.claim(&task("T1", WAITS));
    let pod = place.running();
    fs::write(&file, bound_token(place, "new")).unwrap();
    place.kubectl("delete secret old");
    place.refuses(&old);
    // What is asked from now on is asked with the new one.
    scene.claim(&task("T2", ""));
    scene.completes();
    place.end_task(&pod, 0);
    scene.completes();
    place.has_jobs(0);
    scene.leave();
}

pub fn plugin(place: &Place<'_>) {
    place.account(&RULES);
    let folder = tempfile::tempdir().unwrap();
    let (program, mode) = (folder.path().join("plugin"), folder.path().join("mode"));
    let first = bound_token(place, "first");
    let write = |token: &str| {
        // It says that it expires soon: it is asked again and again.
        let answer = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": {"token": token}});
        fs::write(folder.path().join("answer"), answer.to_string()).unwrap();
    };
    write(&first);
    set(&mode, "works");
    let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\ncase \"$(cat mode)\" in\nfails) echo 'log in again' >&2; exit 1 ;;\n\
                  hangs) exec sleep 600 ;;\nesac\nexpires=$(date -u -d '+20 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
                  sed \"s/\\\"status\\\":{/&\\\"expirationTimestamp\\\":\\\"$expires\\\",/\" answer\n";
    write_program(&program, script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": program, "interactiveMode": "Never"});
    let mut scene = as_user(place, &json!({"exec": exec}));
    scene.succeeds(&task("T1", ""));
    // It fails, and what it gave before is refused: no task fails of it.
    set(&mode, "fails");
    place.kubectl("delete secret first");
    place.refuses(&first);
    scene.claim(&task("T2", ""));
    scene.worker.wait_for_line_within("log in again", CLUSTER_BOUND);
    let second = bound_token(place, "second");
    write(&second);
    set(&mode, "works");
    scene.completes();
    assert_eq!(scene.worker.lines_with("log in again").len(), 1, "one line while it fails");
    // The same of one that hangs.
    set(&mode, "hangs");
    place.kubectl("delete secret second");
    place.refuses(&second);
    scene.claim(&task("T3", ""));
    scene.worker.wait_for_line_within("it took longer than", CLUSTER_BOUND);
    write(&bound_token(place, "third"));
    set(&mode, "works");
    scene.completes();
    scene.leave();
}

fn set(mode: &Path, to: &str) {
    fs::write(mode, to).unwrap();
}
