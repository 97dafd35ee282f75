//! The chart in a real Kubernetes, as docs/install-helm.md installs it: one cluster and, in the end, one release's whole life.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use oz_worker_tests::{
    agent::write_program,
    chart::{self, text},
    connection::Connection,
    message::Assignment,
    metrics::Scrape,
    peers::{
        Peer,
        docker::Engine,
        kubernetes::{Cluster, HOST, said},
        prometheus::Prometheus,
    },
    server::{Request, Server},
    worker::http_get,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a Pod may take until its worker dials.
const POD_BOUND: Duration = Duration::from_secs(120);

/// The worker's image, with what the direct backend needs.
const IMAGE: &str = "with-an-agent:1";

const KEY: &str = "wk-cluster-key";
const NAMESPACE: &str = "warp-oz";
const RELEASE: &str = "oz-agent-worker";

#[test]
#[ignore = "starts a Kubernetes; .ci/run asks for it"]
fn a_release_lives_in_a_real_cluster() {
    let Some(mut story) = Story::begins() else { return };
    let began = Instant::now();
    for (what, chapter) in CHAPTERS {
        let start = Instant::now();
        chapter(&mut story);
        eprintln!("{:6.1} s {what}", start.elapsed().as_secs_f64());
    }
    eprintln!("{:6.1} s in all", began.elapsed().as_secs_f64());
}

/// What must hold in a chapter, and the chapter.
type Chapter = (&'static str, fn(&mut Story));

/// What happens, in this order.
const CHAPTERS: [Chapter; 12] = [
    ("the documented commands install a worker that becomes ready", Story::install),
    ("the Pod may do no more than it must", Story::confinement),
    ("a task runs and succeeds", Story::task),
    ("helm test passes", Story::helm_test),
    ("the Service is scraped, and found by its annotations", Story::scrapes),
    ("an upgrade waits for the running task, whose end arrives", Story::upgrade),
    ("every other object is accepted", Story::everything),
    ("the disruption budget keeps the last worker", Story::budget),
    ("two workers have two names", Story::replicas),
    ("a rotated key reaches the worker without a restart", Story::rotation),
    ("what is wrong is said where one looks", Story::mistakes),
    ("uninstalled, nothing is left", Story::uninstall),
];

struct Story {
    cluster: Cluster,
    server: Server,
    folder: TempDir,
    values: Value,
    /// Everything that there was before the release.
    before: Vec<String>,
    /// The workers' sessions.
    sessions: Vec<Connection>,
}

/// A worker's dial, answered.
struct Dial {
    worker_id: String,
    key: String,
    session: Connection,
}

impl Dial {
    fn answer(request: Request) -> Self {
        let (_, worker_id) = request.query()[0];
        let (worker_id, key) = (worker_id.to_owned(), request.header("authorization").unwrap().to_owned());
        let mut session = request.upgrade();
        session.ping(b"established");
        session.expect_pong(b"established");
        Self { worker_id, key: key.trim_start_matches("Bearer ").to_owned(), session }
    }
}

impl Story {
    fn begins() -> Option<Self> {
        let helm = Peer::Helm.programs()?.first()?;
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::up(&[image_with_an_agent(folder.path())?])?;
        // What the documented commands take for granted: programs on the path, and the chart where one stands.
        fs::create_dir(folder.path().join("bin")).unwrap();
        symlink(cluster.program, folder.path().join("bin/kubectl")).unwrap();
        symlink(helm, folder.path().join("bin/helm")).unwrap();
        symlink(chart::repository().join("charts"), folder.path().join("charts")).unwrap();
        let server = Server::listen(&format!("{HOST}:0")).unwrap();
        let (repository, tag) = IMAGE.split_once(':').unwrap();
        let values = documented_values(&json!({
            "image": {"repository": repository, "tag": tag},
            "warp": {"webSocketURL": server.url()},
            "worker": {"backend": "direct", "logFormat": "json"},
        }));
        Some(Self { cluster, server, folder, values, before: Vec::new(), sessions: Vec::new() })
    }

    // ---- chapters ----

    fn install(&mut self) {
        self.documented("kubectl create namespace", "");
        self.documented("kubectl -n warp-oz create secret", &format!("{KEY}\n"));
        self.cluster.wait(&format!("--for=create serviceaccount/default configmap/kube-root-ca.crt -n {NAMESPACE}"));
        self.before = self.all_objects();
        let helm = self.start("helm install");
        let dial = self.dial();
        let told = finish(helm).unwrap();
        assert!(told.contains("The worker my-worker is about to connect"), "{told}");
        assert_eq!((dial.worker_id.as_str(), dial.key.as_str()), ("my-worker", KEY));
        self.sessions = vec![dial.session];

        let pod = self.pod();
        assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true, "{pod:#}");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1840);
        let warnings = self.cluster.get(&format!("events -n {NAMESPACE} --field-selector type=Warning"));
        assert_eq!(warnings["items"], json!([]), "no probe has failed, nothing else either");
    }

    fn confinement(&mut self) {
        let pod = self.pod_name();
        assert_eq!(self.exec(&pod, "id -u; id -g"), "10001\n10001");
        let refused = self.try_exec(&pod, "touch /x").unwrap_err();
        assert!(refused.contains("Read-only file system"), "{refused}");
        let status = self.exec(&pod, "cat /proc/1/status");
        for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.lines().any(|found| found == line), "{line}: {status}");
        }
        // Tasks run here: they get no access to the cluster.
        self.try_exec(&pod, "ls /var/run/secrets/kubernetes.io").unwrap_err();
        assert!(!self.exec(&pod, "cat /proc/1/cmdline").contains(KEY));
    }

    fn task(&mut self) {
        let script = "set -e; echo work >file; mktemp; test \"$(cat file)\" = work; test -z \"${WARP_API_KEY-}\"";
        let session = &mut self.sessions[0];
        session.send(Assignment::new("T1").run(script));
        assert_eq!(session.expect("task_claimed")["worker_id"], "my-worker");
        session.expect("task_completed");
    }

    fn helm_test(&mut self) {
        let told = self.documented("helm test", "");
        assert!(told.contains("Phase:          Succeeded"), "{told}");
        assert_eq!(self.cluster.get(&format!("pods -n {NAMESPACE}"))["items"].as_array().unwrap().len(), 1);
    }

    fn scrapes(&mut self) {
        let service = self.cluster.get(&format!("service {RELEASE}-metrics -n {NAMESPACE}"));
        let address = format!("{}:9464", text(&service["spec"]["clusterIP"]));
        let (status, body) = http_get(&address, "/metrics");
        assert_eq!(status, 200);
        let scrape = Scrape::parse(&body);
        assert_eq!(scrape.value("oz_worker_connected", &[]), 1.0);
        assert_eq!(scrape.value("oz_worker_tasks_completed_total", &[("result", "succeeded")]), 1.0);

        // The annotations are a promise: who finds the Service by them scrapes each Pod behind it at this port and path. (The
        // Prometheus that Debian builds cannot ask Kubernetes, so the test does.)
        let annotation = |name: &str| text(&service["metadata"]["annotations"][format!("prometheus.io/{name}")]);
        assert_eq!(annotation("scrape"), "true");
        let slices =
            self.cluster.get(&format!("endpointslices -n {NAMESPACE} -l kubernetes.io/service-name={RELEASE}-metrics"));
        let pods = slices["items"][0]["endpoints"].as_array().unwrap();
        let targets: Vec<String> =
            pods.iter().map(|pod| format!("{}:{}", text(&pod["addresses"][0]), annotation("port"))).collect();
        assert_eq!(targets.len(), 1, "{slices:#}");
        let Some(prometheus) = Prometheus::scraping_at(annotation("path"), &targets) else { return };
        prometheus.wait_for_value("oz_worker_connected", 1.0);
    }

    fn upgrade(&mut self) {
        let old = self.pod_name();
        let session = &mut self.sessions[0];
        session.send(Assignment::new("T2").run("until [ -e /tmp/go ]; do sleep 0.1; done"));
        session.expect("task_claimed");
        let was = self.pod()["metadata"]["annotations"]["checksum/config"].clone();
        // Its checksum is in the Pod: another one takes its place.
        self.change(&json!({"worker": {"maxConcurrentTasks": 5}}));
        let helm = self.start("helm upgrade");
        let dial = self.dial();
        finish(helm).unwrap();
        self.cluster.wait(&format!("--for=jsonpath={{.metadata.deletionTimestamp}} pod/{old} -n {NAMESPACE}"));
        self.exec(&old, "while wget -q -O /dev/null http://localhost:9464/readyz; do sleep 0.1; done");

        // The new worker takes tasks while the old one still has its own.
        let [mut before, mut session] = [self.sessions.remove(0), dial.session];
        before.send(Assignment::new("T3"));
        assert_eq!(before.expect("task_rejected")["reason"], "worker is shutting down");
        session.send(Assignment::new("T3"));
        session.expect("task_claimed");
        session.expect("task_completed");
        self.exec(&old, "touch /tmp/go");
        assert_eq!(before.expect("task_completed")["task_id"], "T2");
        assert_eq!(before.expect_close(), Some(1000));
        self.cluster.wait(&format!("--for=delete pod/{old} -n {NAMESPACE}"));
        assert_ne!(self.pod()["metadata"]["annotations"]["checksum/config"], was);
        self.sessions = vec![session];
    }

    fn everything(&mut self) {
        let pod = self.pod_name();
        self.change(&json!({
            "metrics": {
                "podMonitor": {"create": true, "additionalLabels": {"release": "prometheus"}},
                "serviceMonitor": {"create": true},
                "prometheusRule": {"create": true, "runbookURL": "https://wiki.example/runbooks"},
                "dashboard": {"create": true},
            },
            "networkPolicy": {
                "create": true,
                "scrapeFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                "serverTo": [{"ipBlock": {"cidr": "198.18.0.1/32"}}],
            },
            "podDisruptionBudget": {"create": true, "minAvailable": 1},
        }));
        finish(self.start("helm upgrade")).unwrap();
        for kind in ["podmonitor", "servicemonitor", "prometheusrule", "networkpolicy", "poddisruptionbudget"] {
            self.cluster.get(&format!("{kind} {RELEASE} -n {NAMESPACE}"));
        }
        let rules = self.cluster.get(&format!("prometheusrule {RELEASE} -n {NAMESPACE}"));
        let groups = rules["spec"]["groups"].as_array().unwrap();
        assert!(
            groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).any(|rule| rule["alert"].is_string())
        );
        let dashboard = self.cluster.get(&format!("configmap {RELEASE}-dashboard -n {NAMESPACE}"));
        let dashboard: Value = serde_json::from_str(text(&dashboard["data"]["oz-agent-worker.json"])).unwrap();
        assert!(dashboard["panels"].is_array());
        assert_eq!(self.pod_name(), pod, "nothing of it concerns the Pod, which stays");
    }

    fn budget(&mut self) {
        let budget = format!("poddisruptionbudget/{RELEASE} -n {NAMESPACE}");
        self.cluster.wait(&format!("--for=jsonpath={{.status.currentHealthy}}=1 {budget}"));
        let pod = self.pod_name();
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE},
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction");
        let refused = self.cluster.try_kubectl_reading(&format!("create --raw {path} -f -"), &eviction.to_string());
        let refused = refused.unwrap_err();
        assert!(refused.contains("would violate the pod's disruption budget"), "{refused}");
    }

    fn replicas(&mut self) {
        self.change(&json!({
            "worker": {
                "replicas": 2,
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"},
                ],
            },
        }));
        let helm = self.start("helm upgrade");
        // A Deployment that grows and changes at once first starts one more of what it has.
        let (mut named_by_pod, mut as_before) = (Vec::new(), Vec::new());
        while named_by_pod.len() < 2 {
            let dial = self.dial();
            if dial.worker_id == "my-worker" { &mut as_before } else { &mut named_by_pod }.push(dial);
        }
        finish(helm).unwrap();
        for mut session in self.sessions.drain(..).chain(as_before.into_iter().map(|dial| dial.session)) {
            assert_eq!(session.expect_close(), Some(1000));
        }
        self.settled();
        let mut pods: Vec<String> = self.pods().iter().map(|pod| format!("my-worker-{}", name(pod))).collect();
        let mut ids: Vec<String> = named_by_pod.iter().map(|dial| dial.worker_id.clone()).collect();
        pods.sort();
        ids.sort();
        assert_eq!(ids, pods);
        self.sessions = named_by_pod.into_iter().map(|dial| dial.session).collect();
    }

    fn rotation(&mut self) {
        self.change(&json!({
            "warp": {"apiKeySecret": {"mountAsFile": true}},
            "worker": {"replicas": 1, "topologySpreadConstraints": []},
        }));
        let helm = self.start("helm upgrade");
        let mut dial = self.dial();
        finish(helm).unwrap();
        for mut session in self.sessions.drain(..) {
            session.expect_end_within(POD_BOUND);
        }
        self.settled();
        assert_eq!(dial.key, KEY);
        let pod = self.pod_name();
        assert!(!self.exec(&pod, "env").contains("WARP_API_KEY"), "it is in the file alone");

        let create = format!("create secret generic {RELEASE} -n {NAMESPACE} --from-literal=WARP_API_KEY=wk-rotated");
        let secret = self.cluster.kubectl(&format!("{create} --dry-run=client -o json"));
        self.cluster.try_kubectl_reading("replace -f -", &secret).unwrap();
        self.exec(&pod, "until grep -q rotated /etc/oz-agent-worker-api-key/WARP_API_KEY; do sleep 0.2; done");
        dial.session.reset();
        let dial = self.dial();
        assert_eq!((dial.worker_id.as_str(), dial.key.as_str()), ("my-worker", "wk-rotated"));
        self.sessions = vec![dial.session];
        assert_eq!(self.pod_name(), pod);
        assert_eq!(self.pod()["status"]["containerStatuses"][0]["restartCount"], 0);
    }

    fn mistakes(&mut self) {
        // Refused before anything happens.
        let error = self.helm("upgrade oz-agent-worker ./charts/oz-agent-worker --reuse-values --set worker.replica=2");
        let error = error.unwrap_err();
        assert!(error.contains("replica"), "{error}");

        // Installed, not ready, and the log's last line says why.
        let refusing = Server::listen(&format!("{HOST}:0")).unwrap();
        let chart = "./charts/oz-agent-worker -f values.yaml --set podDisruptionBudget.create=false";
        for (release, more) in [
            ("wrong-key", format!("--set warp.webSocketURL={}", refusing.url())),
            ("no-server", format!("--set warp.webSocketURL=ws://{HOST}:1/")),
            ("as-by-default", "--set worker.backend=kubernetes".to_owned()),
        ] {
            let installed = self.helm(&format!("install {release} {chart} {more}"));
            installed.unwrap_or_else(|error| panic!("{release}: {error}"));
        }
        refusing.try_request(POD_BOUND).unwrap().refuse("401 Unauthorized", "no such key");
        for (release, reason) in
            [("wrong-key", "the API key was refused"), ("no-server", "refused"), ("as-by-default", "kubernetes")]
        {
            let pod = self.cluster.get(&format!("pods -n {NAMESPACE} -l app.kubernetes.io/instance={release}"));
            let pod = name(&pod["items"][0]);
            let line = self.cluster.log_line(&format!("{pod} -n {NAMESPACE}"), reason);
            assert!(!line.contains(KEY), "{line}");
            let last = self.cluster.kubectl(&format!("logs {pod} -n {NAMESPACE} --tail=1"));
            assert!(last.contains(reason), "{release}: {last}");
            let status = self.cluster.get(&format!("pod {pod} -n {NAMESPACE}"));
            assert_eq!(status["status"]["containerStatuses"][0]["ready"], false, "{release}");
        }
        for release in ["wrong-key", "no-server", "as-by-default"] {
            self.helm(&format!("uninstall {release} --wait")).unwrap();
        }
    }

    fn uninstall(&mut self) {
        self.documented("helm uninstall", "");
        assert_eq!(self.sessions.remove(0).expect_close(), Some(1000));
        // What the API server removes by itself a moment later.
        let left = || self.all_objects().into_iter().filter(|object| !self.before.contains(object));
        for object in left() {
            let (namespace, object) = object.split_once(' ').unwrap();
            let deleted = self.cluster.try_kubectl(&format!("wait --for=delete {object} -n {namespace} --timeout=60s"));
            deleted.unwrap_or_else(|error| panic!("{object} is left: {error}"));
        }
        assert_eq!(self.all_objects(), self.before);
    }

    // ---- what the chapters are made of ----

    /// The next dial of any worker.
    fn dial(&self) -> Dial {
        Dial::answer(self.server.try_request(POD_BOUND).unwrap_or_else(|error| panic!("no worker dialled: {error}")))
    }

    /// Lays this over the values.
    fn change(&mut self, more: &Value) {
        chart::merge(&mut self.values, more);
    }

    /// A shell that stands where the documented commands are meant to be given.
    fn shell(&self, command: &str) -> Command {
        fs::write(self.folder.path().join("values.yaml"), self.values.to_string()).unwrap();
        let mut shell = self.cluster.command(Path::new("sh"));
        let path = format!("{}:{}", self.folder.path().join("bin").display(), std::env::var("PATH").unwrap());
        shell.args(["-ec", command]).current_dir(&self.folder).env("PATH", path).env("HOME", self.folder.path());
        shell
    }

    /// Starts the command of docs/install-helm.md that begins like this.
    fn start(&self, beginning: &str) -> Child {
        self.shell(&documented_command(beginning)).spawn().unwrap()
    }

    /// Runs the command of docs/install-helm.md that begins like this.
    fn documented(&self, beginning: &str, input: &str) -> String {
        let ended = chart::with_input(self.shell(&documented_command(beginning)).stdin(Stdio::piped()), input);
        said(ended).unwrap_or_else(|error| panic!("{beginning}: {error}"))
    }

    fn helm(&self, words: &str) -> Result<String, String> {
        said(self.shell(&format!("helm -n {NAMESPACE} {words}")).output().unwrap())
    }

    /// Waits until the Deployment is as it should be and the Pods of the one before are gone.
    fn settled(&self) {
        self.cluster.kubectl(&format!("rollout status deployment/{RELEASE} -n {NAMESPACE} --timeout=120s"));
        for pod in self.cluster.get(&format!("pods -n {NAMESPACE}"))["items"].as_array().unwrap() {
            if pod["metadata"]["deletionTimestamp"].is_string() {
                self.cluster.wait(&format!("--for=delete pod/{} -n {NAMESPACE}", name(pod)));
            }
        }
    }

    fn pods(&self) -> Vec<Value> {
        let selector = format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/name=oz-agent-worker");
        let mut pods = self.cluster.get(&format!("pods -n {NAMESPACE} -l {selector}"));
        pods["items"].as_array_mut().map(std::mem::take).unwrap()
    }

    /// The release's one Pod.
    fn pod(&self) -> Value {
        let mut pods = self.pods();
        assert_eq!(pods.len(), 1, "{pods:#?}");
        pods.remove(0)
    }

    fn pod_name(&self) -> String {
        name(&self.pod()).to_owned()
    }

    fn exec(&self, pod: &str, script: &str) -> String {
        self.try_exec(pod, script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    fn try_exec(&self, pod: &str, script: &str) -> Result<String, String> {
        self.cluster.try_exec(&format!("{pod} -n {NAMESPACE}"), script)
    }

    /// Everything in the cluster but what it writes down about itself.
    fn all_objects(&self) -> Vec<String> {
        let kinds = self.cluster.kubectl("api-resources --verbs=list,create --output=name");
        let kinds: Vec<&str> =
            kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.starts_with("leases")).collect();
        let columns = "custom-columns=NAMESPACE:.metadata.namespace,KIND:.kind,NAME:.metadata.name";
        let list = format!("get {} --all-namespaces --ignore-not-found --no-headers -o {columns}", kinds.join(","));
        let mut objects: Vec<String> = Vec::new();
        for line in self.cluster.kubectl(&list).lines() {
            let [namespace, kind, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
            objects.push(format!("{namespace} {kind}/{name}"));
        }
        objects.sort();
        objects
    }
}

/// An archive of [`IMAGE`] in this folder. `None` when it cannot be had.
fn image_with_an_agent(folder: &Path) -> Option<PathBuf> {
    let engine = Engine::start()?;
    let (worker, debian) = (engine.worker()?, engine.debian()?);
    let context = folder.join("image");
    fs::create_dir(&context).unwrap();
    write_program(&context.join("oz"), "#!/bin/sh\neval \"${SCRIPT-}\"\n");
    let dockerfile = format!(
        "FROM {debian} AS debian\n\
         FROM {worker}\n\
         COPY --from=debian /bin/busybox /bin/\n\
         COPY oz /usr/local/bin/\n\
         USER 0\n\
         RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
         USER 10001:10001\n"
    );
    engine.build(IMAGE, &dockerfile, &context);
    let archive = folder.join("image.tar");
    engine.save(&[IMAGE], &archive);
    Some(archive)
}

/// The first command of docs/install-helm.md that begins like this.
fn documented_command(beginning: &str) -> String {
    let page = chart::read("docs/install-helm.md");
    let found = page.lines().map(str::trim).find(|line| line.starts_with(beginning));
    found.unwrap_or_else(|| panic!("docs/install-helm.md has no command {beginning:?}")).to_owned()
}

/// The first values of docs/install-helm.md, and these over them.
fn documented_values(more: &Value) -> Value {
    let page = chart::read("docs/install-helm.md");
    let (_, block) = page.split_once("```yaml\n").unwrap();
    let mut values = chart::yaml(block.split_once("```").unwrap().0);
    chart::merge(&mut values, more);
    values
}

fn finish(child: Child) -> Result<String, String> {
    said(child.wait_with_output().unwrap())
}

fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}
