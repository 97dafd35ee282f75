//! The chart in a real Kubernetes, as docs/install-helm.md installs it: one cluster and, in the end, one release's whole life.

mod jobs;
mod policy;
mod story;

use std::time::Instant;

use oz_worker_tests::{
    chart::{self, Helm, text},
    message::Assignment,
    metrics::Scrape,
    peers::{kubernetes::HOST, prometheus::Prometheus},
    server::Server,
    worker::http_get,
};
use serde_json::{Value, json};

use story::{CLIENTS, NAMESPACE, POD_BOUND, RELEASE, Story, WITH_AN_AGENT, finish, in_its_own_pod, name};

const KEY: &str = "wk-cluster-key";

/// The API of Kubernetes: as a Service, and as it is.
const API: [(&str, u16); 2] = [("198.18.2.1", 443), ("198.18.0.2", 6443)];

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
const CHAPTERS: [Chapter; 23] = [
    ("the API server takes what every value file makes", Story::value_files),
    ("the documented commands install a worker that becomes ready", Story::install),
    ("tasks are Jobs: one succeeds and leaves nothing, one fails and is kept, one finds no node", Story::jobs_run),
    ("helm test runs a task and leaves nothing", Story::helm_test),
    ("the Service is scraped, and found by its annotations", Story::scrapes),
    ("a Job outlives an upgrade, and its end is told once", Story::upgraded_meanwhile),
    ("a Job outlives the worker's Pod, and its end is told once", Story::killed_meanwhile),
    ("a node is lost, and the task on it is evicted", Story::node_lost),
    ("the Role grants what the worker asks for, and nothing else", Story::rights),
    ("Jobs may be elsewhere, and a Role that is too small is told", Story::elsewhere),
    ("the release moves to tasks in the worker's own Pod", Story::in_the_pod),
    ("the Pod may do no more than it must", Story::confinement),
    ("a task runs and succeeds", Story::task),
    ("an upgrade waits for the running task, whose end arrives", Story::upgrade),
    ("every other object is accepted", Story::everything),
    ("the policy lets through what it names, and nothing else", Story::policy),
    ("the disruption budget keeps the last worker", Story::budget),
    ("two workers have two names", Story::replicas),
    ("a rotated key reaches the worker without a restart", Story::rotation),
    ("what is wrong is said where one looks", Story::mistakes),
    ("the release moves back to Jobs", Story::back),
    ("uninstalled, nothing is left", Story::uninstall),
    ("the command of the monitoring page installs a worker that runs tasks", Story::in_one_command),
];

impl Story {
    fn value_files(&mut self) {
        let helm = Helm::here().unwrap();
        let mut objects = String::new();
        for (name, values) in chart::value_files() {
            let rendering = helm.try_render(&values).unwrap_or_else(|error| panic!("{name}: {error}"));
            objects.push_str(&rendering.text);
        }
        let taken = self.cluster.try_kubectl_reading("create --dry-run=server -f -", &objects).unwrap();
        assert!(taken.lines().count() > 400, "{taken}");
    }

    /// From here on tasks run in the worker's own Pod, and nothing needs a right in the cluster.
    fn in_the_pod(&mut self) {
        let (repository, tag) = WITH_AN_AGENT.split_once(':').unwrap();
        self.change(&json!({"image": {"repository": repository, "tag": tag}, "worker": in_its_own_pod()}));
        let helm = self.start("helm upgrade");
        let dial = self.dial();
        finish(helm).unwrap();
        assert_eq!(self.sessions.remove(0).expect_close(), Some(1000));
        self.sessions = vec![dial.session];
        self.settled();
        let pod = self.pod();
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1843);
        self.cluster.try_kubectl(&format!("get role {RELEASE} -n {NAMESPACE}")).unwrap_err();
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

    fn scrapes(&mut self) {
        let service = self.cluster.get(&format!("service {RELEASE}-metrics -n {NAMESPACE}"));
        let scrape = scrape(&service);
        assert_eq!(scrape.value("oz_worker_connected", &[]), 1.0);
        assert_eq!(scrape.value("oz_worker_tasks_completed_total", &[("result", "succeeded")]), 1.0);
        assert_eq!(scrape.value("oz_worker_tasks_completed_total", &[("result", "failed")]), 2.0);

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
        session.send(Assignment::new("T2").run("mkfifo /tmp/go; read line </tmp/go"));
        session.expect("task_claimed");
        let was = self.pod()["metadata"]["annotations"]["checksum/config"].clone();
        // Its checksum is in the Pod: another one takes its place.
        self.change(&json!({"worker": {"maxConcurrentTasks": 6}}));
        let helm = self.start("helm upgrade");
        let dial = self.dial();
        finish(helm).unwrap();
        self.cluster.wait(&format!("--for=jsonpath={{.metadata.deletionTimestamp}} pod/{old} -n {NAMESPACE}"));
        self.cluster.log_line(&format!("{old} -n {NAMESPACE}"), "draining");

        // The new worker takes tasks while the old one still has its own.
        let [mut before, mut session] = [self.sessions.remove(0), dial.session];
        before.send(Assignment::new("T3"));
        assert_eq!(before.expect("task_rejected")["reason"], "worker is shutting down");
        session.send(Assignment::new("T3"));
        session.expect("task_claimed");
        session.expect("task_completed");
        self.exec(&old, "echo >/tmp/go");
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

    fn policy(&mut self) {
        let pod = self.pod();
        let address = text(&pod["status"]["podIP"]);
        let other = Server::listen(&format!("{HOST}:0")).unwrap();
        // By real packets, from a Pod to an address and a port.
        let reaches = |from: &str, host: &str, port: u16| {
            self.cluster.try_exec(from, &format!("nc -w 5 {host} {port} -e true")).is_ok()
        };
        let worker = format!("{} -n {NAMESPACE}", name(&pod));
        let [monitoring, elsewhere] = CLIENTS.map(|namespace| {
            self.cluster.wait(&format!("--for=condition=Ready pod/client -n {namespace}"));
            format!("client -n {namespace}")
        });
        let peer = self.cluster.get(&format!("pod {elsewhere}"));
        let other_pod = text(&peer["status"]["podIP"]);
        // From, host, port, and whether it is let through.
        let ways = [
            (&worker, HOST, other.address().port(), false),
            (&worker, other_pod, 8080, false),
            (&worker, API[0].0, API[0].1, false),
            (&worker, API[1].0, API[1].1, false),
            (&worker, "198.18.0.2", 53, true),
            (&monitoring, address, 9464, true),
            (&elsewhere, address, 9464, false),
        ];
        for (from, host, port, _) in ways {
            assert!(reaches(from, host, port), "without a policy, {from} reaches {host}:{port}");
        }
        let rules = self.cluster.get(&format!("networkpolicy {RELEASE} -n {NAMESPACE}"));
        policy::enforce(&self.cluster, &rules);
        for (from, host, port, is_let_through) in ways {
            assert_eq!(reaches(from, host, port), is_let_through, "{from} reaches {host}:{port}");
        }
        self.exec(name(&pod), "nslookup kubernetes.default.svc.cluster.local");
        let session = &mut self.sessions[0];
        session.reset();
        self.sessions = vec![self.dial().session];

        // The test's Pod is known once it is there, as to a plugin.
        let mut test = self.start("helm test");
        while test.try_wait().unwrap().is_none() {
            policy::enforce(&self.cluster, &rules);
        }
        finish(test).unwrap();
        self.cluster.wait(&format!("--for=condition=Ready pod/{} -n {NAMESPACE}", name(&pod)));

        // The backend kubernetes needs the API, and gets no more than that.
        let template =
            "template oz-agent-worker ./charts/oz-agent-worker -f values.yaml --set worker.backend=kubernetes";
        let rules = self.helm(&format!("{template} --show-only templates/networkpolicy.yaml")).unwrap();
        policy::enforce(&self.cluster, &chart::yaml(&rules));
        for (host, port) in API {
            assert!(reaches(&worker, host, port), "{host}:{port}");
        }
        assert!(!reaches(&worker, other_pod, 8080));
        policy::relax(&self.cluster);
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
        let mut pods: Vec<String> =
            self.pods_of(RELEASE).iter().map(|pod| format!("my-worker-{}", name(pod))).collect();
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
        assert!(error.contains("additional properties 'replica' not allowed"), "{error}");

        // Installed, not ready, and the log's last line says why.
        let refusing = Server::listen(&format!("{HOST}:0")).unwrap();
        let chart = "./charts/oz-agent-worker -f values.yaml --set podDisruptionBudget.create=false";
        for (release, more) in [
            ("wrong-key", format!("--set warp.webSocketURL={}", refusing.url())),
            ("no-server", format!("--set warp.webSocketURL=ws://{HOST}:1/")),
        ] {
            let installed = self.helm(&format!("install {release} {chart} {more}"));
            installed.unwrap_or_else(|error| panic!("{release}: {error}"));
        }
        refusing.try_request(POD_BOUND).unwrap().refuse("401 Unauthorized", "no such key");
        for (release, reason) in [
            ("wrong-key", "the API key was refused (HTTP 401)"),
            ("no-server", "cannot connect to 198.18.0.1 (198.18.0.1:1): Connection refused"),
        ] {
            let pod = self.pod_of(release);
            let pod = name(&pod);
            let line = self.cluster.log_line(&format!("{pod} -n {NAMESPACE}"), reason);
            assert!(!line.contains(KEY), "{line}");
            let last = self.cluster.kubectl(&format!("logs {pod} -n {NAMESPACE} --tail=1"));
            assert!(last.contains(reason), "{release}: {last}");
            let status = self.cluster.get(&format!("pod {pod} -n {NAMESPACE}"));
            assert_eq!(status["status"]["containerStatuses"][0]["ready"], false, "{release}");
        }
        // A worker that is not ready is the one whose metrics matter most.
        let service = self.cluster.get(&format!("service no-server-oz-agent-worker-metrics -n {NAMESPACE}"));
        assert_eq!(scrape(&service).value("oz_worker_connected", &[]), 0.0);
        for release in ["wrong-key", "no-server"] {
            self.helm(&format!("uninstall {release} --wait")).unwrap();
        }
    }

    fn back(&mut self) {
        self.enforce("baseline");
        // The strategy with it, which Kubernetes had filled in.
        self.change(&json!({"worker": {"backend": "kubernetes"}}));
        let helm = self.start("helm upgrade");
        let dial = self.dial();
        finish(helm).unwrap();
        assert_eq!(self.sessions.remove(0).expect_close(), Some(1000));
        self.sessions = vec![dial.session];
        let deployment = self.cluster.get(&format!("deployment {RELEASE} -n {NAMESPACE}"));
        assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    fn uninstall(&mut self) {
        self.documented("helm uninstall", "");
        self.documented("kubectl -n warp-oz delete jobs", "");
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

    fn in_one_command(&mut self) {
        let command = story::documented_command("helm install oz-agent-worker ./charts/oz-agent-worker --namespace");
        let helm = self.shell(&format!("{command} --set warp.webSocketURL={}", self.server.url())).spawn().unwrap();
        let dial = self.dial();
        finish(helm).unwrap();
        self.sessions = vec![dial.session];
        self.job("T7", WITH_AN_AGENT);
        let service = self.cluster.get(&format!("service {RELEASE}-metrics -n {NAMESPACE}"));
        assert_eq!(scrape(&service).value("oz_worker_tasks_completed_total", &[("result", "succeeded")]), 1.0);
        self.documented("helm uninstall", "");
    }
}

/// What a Service of metrics answers.
fn scrape(service: &Value) -> Scrape {
    let (status, body) = http_get(&format!("{}:9464", text(&service["spec"]["clusterIP"])), "/metrics");
    assert_eq!(status, 200);
    Scrape::parse(&body)
}
