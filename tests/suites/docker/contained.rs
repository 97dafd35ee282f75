//! A worker that runs in a container of the engine that runs its tasks.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use oz_worker_tests::{
    binary::worker_binary,
    connection::Connection,
    page::blocks,
    peers::{
        container::Container,
        docker::{ENGINE_NAME, Engine, HOST, WORKER},
        rootless::USER,
    },
    server::Server,
    worker::{API_KEY, Launch},
};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::faults::{WAITS, let_go};
use super::scene::{ENGINE_BOUND, TASK, gone, put, running, shell_root, task};

/// The program at the place where the image has it, and what it is linked with, in an image that is somebody else's.
const MADE: &str = "oz-test/worker:1";
/// There is no registry to pull from.
const SETTINGS: &str = "backend: {docker: {pull_policy: if-not-present}}\n";
const PAGE: &str = "docs/install-docker.md";

/// What its log says when it knows where it is.
const KNOWS: &str = "this worker runs in container";
/// And when the engine's user has no group to put containers into.
const CANNOT_LIMIT: &str = "the engine cannot limit memory";

/// Workers with one id, each in a container.
struct Contained<'engine> {
    engine: &'engine Engine,
    server: Server,
    settings: TempDir,
}

/// The flags of `docker run` that make an image of a shell the worker's.
fn program() -> [String; 6] {
    let program = format!("{}:/usr/bin/oz-agent-worker:ro", worker_binary().unwrap().display());
    ["--volume", &program, "--volume", "/lib:/lib:ro", "--volume", "/lib64:/lib64:ro"].map(str::to_owned)
}

impl<'engine> Contained<'engine> {
    fn new(engine: &'engine Engine) -> Self {
        let settings = tempfile::tempdir().unwrap();
        put(settings.path(), "worker.yaml", SETTINGS, 0o644);
        Self { engine, server: Server::listen(&format!("{HOST}:0")).unwrap(), settings }
    }

    /// Starts one; its host name is its container's id unless a flag says otherwise.
    fn start(&self, flags: &[&str]) -> (Container<'engine>, Connection) {
        let program = program();
        let socket = format!("{}:/var/run/docker.sock", self.engine.host().trim_start_matches("unix://"));
        let settings = format!("{}:/etc/oz:ro", self.settings.path().display());
        let mut command = vec!["run", "--detach"];
        command.extend(program.iter().map(String::as_str));
        command.extend(["--volume", &socket, "--volume", &settings]);
        let key = format!("WARP_API_KEY={API_KEY}");
        command.extend(["--env", &key, "--env", "OTEL_METRICS_EXPORTER=none"]);
        command.extend(flags);
        let url = self.server.url().replace("localhost", HOST);
        command.extend([TASK, "/usr/bin/oz-agent-worker", "--config-file", "/etc/oz/worker.yaml"]);
        command.extend(["--worker-id", "contained", "--web-socket-url", &url]);
        let worker = Container::new(self.engine, &self.engine.docker(command));
        let session = self.server.accept();
        worker.wait_for_line("connected");
        (worker, session)
    }
}

fn ends(session: &mut Connection, task_id: &str, exit_code: i32) {
    let end = session.recv_within(ENGINE_BOUND).expect("a task ends");
    session.answer();
    assert_eq!((&end["data"]["task_id"], &end["data"]["exit_code"]), (&json!(task_id), &json!(exit_code)), "{end}");
}

pub fn adoption(engine: &Engine) {
    let contained = Contained::new(engine);
    let (first, mut session) = contained.start(&[]);
    first.wait_for_line(KNOWS);
    session.send(task("T1", &format!("{WAITS}; exit 5")));
    session.expect("task_claimed");
    let id = running(engine, "T1");

    // While it lives nothing of it is taken, by whoever has its id; nor when both outlive the engine.
    engine.keep_containers(true);
    engine.restart(Signal::TERM);
    engine.keep_containers(false);
    let (second, mut beside) = contained.start(&[]);
    beside.send(task("T2", "exit 6"));
    assert_eq!(beside.expect("task_claimed")["task_id"], "T2");
    ends(&mut beside, "T2", 6);
    gone(engine, "T2");
    drop((second, beside));

    // It is removed, and so is the one that took its task up.
    drop((first, session));
    let (third, mut session) = contained.start(&["--hostname", "third"]);
    assert_eq!(session.expect("task_claimed")["task_id"], "T1");
    drop((third, session));
    let (fourth, mut session) = contained.start(&["--hostname", "fourth"]);
    assert_eq!(session.expect("task_claimed")["task_id"], "T1");
    // The same container once more is another worker.
    drop(session);
    fourth.start_again();
    let mut session = contained.server.accept();
    assert_eq!(session.expect("task_claimed")["task_id"], "T1");
    let_go(engine, &id);
    ends(&mut session, "T1", 5);
    gone(engine, "T1");

    // What was told is not told again.
    drop((fourth, session));
    let (fifth, mut session) = contained.start(&[]);
    session.send(task("T3", "exit 7"));
    assert_eq!(session.expect("task_claimed")["task_id"], "T3");
    ends(&mut session, "T3", 7);
    gone(engine, "T3");

    // One that has another's network has that one's files, and outlives it.
    let network = format!("container:{}", fifth.id());
    let (sixth, mut joined) = contained.start(&["--network", &network]);
    assert_eq!(sixth.lines_with(KNOWS), [""; 0]);
    joined.send(task("T4", &format!("{WAITS}; exit 8")));
    joined.expect("task_claimed");
    let id = running(engine, "T4");
    drop((fifth, session));
    let (seventh, mut session) = contained.start(&[]);
    session.send(task("T5", "exit 9"));
    assert_eq!(session.expect("task_claimed")["task_id"], "T5");
    ends(&mut session, "T5", 9);
    gone(engine, "T5");
    drop((seventh, session));
    let_go(engine, &id);
    // It has lost its network, and not its task. What nobody can hear stays to be seen.
    sixth.wait_for_line("the container exited with code 8");
    drop((sixth, joined));
    assert_eq!(engine.docker(["inspect", "--format", "{{.State.ExitCode}}", &id]), "8");
    engine.docker(["rm", "--volumes", &id]);
}

/// The page's command whose engine is reached so, in this folder, with a server to dial and with what it is told here beside.
fn of_the_page(
    engine: &Engine,
    folder: &Path,
    holds: &str,
    server: &Server,
    change: impl Fn(String) -> String,
) -> String {
    let found: Vec<String> =
        blocks(PAGE).into_iter().map(|(_, block)| block).filter(|block| block.contains(holds)).collect();
    let [command] = found.try_into().unwrap_or_else(|found| panic!("blocks with {holds:?}: {found:?}"));
    let command = change(command.trim_end().replace(WORKER, MADE));
    let url = server.url().replace("localhost", HOST);
    let run = format!("docker run -d {} -v \"$PWD/worker.yaml:/etc/oz/worker.yaml:ro\"", program().join(" "));
    let command = command.replace("docker run -d --name oz-agent-worker", &run);
    let socket = engine.host().trim_start_matches("unix://").to_owned();
    let command = command
        .replace("$XDG_RUNTIME_DIR/docker.sock", &socket)
        .replace("-v /var/run/docker.sock", &format!("-v {socket}"));
    let command = command.replace("%g /var/run/docker.sock", &format!("%g {socket}"));
    engine.shell(&format!("{command} --config-file /etc/oz/worker.yaml --web-socket-url {url}"), folder)
}

/// What the page's commands need: the image, and a folder with the files that they name.
fn surroundings(engine: &Engine) -> TempDir {
    let root = shell_root();
    let of_image = ["USER 10001:10001", "ENV HOME=/var/lib/oz", "ENTRYPOINT [\"/usr/bin/oz-agent-worker\"]"];
    engine.import(MADE, root.path(), &of_image);
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "api-key", API_KEY, 0o444);
    put(folder.path(), "worker.yaml", SETTINGS, 0o644);
    folder
}

/// A worker that this command has started runs a task, and leaves when it is told to.
fn runs_a_task(engine: &Engine, id: &str, server: &Server) {
    let worker = Container::new(engine, id);
    let mut session = server.accept();
    session.send(task("T1", "exit 3"));
    assert_eq!(session.expect("task_claimed")["task_id"], "T1");
    ends(&mut session, "T1", 3);
    gone(engine, "T1");
    worker.wait_for_line(KNOWS);
    let code = worker.stop_while(|| {
        assert_eq!(session.expect_close(), Some(1000));
        session.hang_up();
    });
    assert_eq!(code, "0");
}

/// On an engine that a plain user runs: the worker in a container of it, and beside it.
pub fn rootless_as_the_page_says(engine: &Engine) {
    let folder = surroundings(engine);
    // What the user may read.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let (binary, copy) = (worker_binary().unwrap(), folder.path().join("oz-agent-worker"));
    fs::copy(&binary, &copy).unwrap();
    let server = Server::listen(&format!("{HOST}:0")).unwrap();
    let [binary, copy] = [binary, copy].map(|path| path.display().to_string());
    // The engine has no bridge.
    let mine = |command: String| command.replace(&binary, &copy).replace("--read-only", "--read-only --network host");
    let id = of_the_page(engine, folder.path(), "$XDG_RUNTIME_DIR", &server, mine);
    runs_a_task(engine, &id, &server);

    let user = ["--reuid", "--regid"].map(|flag| format!("{flag}={USER}"));
    let through = ["setpriv", &user[0], &user[1], "--clear-groups", "sh", "-c", "shift; exec \"$0\" \"$@\"", &copy];
    let launch = Launch::dialling(&server.url()).backend("docker", &json!({"pull_policy": "if-not-present"}));
    let socket = engine.host();
    let (_, socket) = socket.split_once("://").unwrap();
    let launch = launch.through(through).env("XDG_RUNTIME_DIR", Path::new(socket).parent().unwrap());
    // As the page has it of a machine that has another engine.
    let has_other = Path::new("/var/run/docker.sock").exists();
    let launch = if has_other { launch.env("DOCKER_HOST", &engine.host()) } else { launch };
    for path in [launch.dir(), &launch.home()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let worker = launch.start();
    worker.wait_for_line(CANNOT_LIMIT);
    let mut session = server.accept();
    session.send(task("T2", "test \"$(id -u)\" = 0 && exit 4"));
    assert_eq!(session.expect("task_claimed")["task_id"], "T2");
    ends(&mut session, "T2", 4);
    gone(engine, "T2");
}

pub fn as_the_page_says(engine: &Engine) {
    let folder = surroundings(engine);
    fs::create_dir(folder.path().join("certs")).unwrap();
    engine.write_certificates(&folder.path().join("certs"));
    let server = Server::listen(&format!("{HOST}:0")).unwrap();
    let named = format!("{ENGINE_NAME}:{}", engine.tls_port());
    let remote = move |command: String| {
        let command = command.replace("engine.example:2376", &named);
        command.replace("--read-only", &format!("--read-only --add-host {ENGINE_NAME}:{HOST}"))
    };
    for holds in ["--group-add \"", "$XDG_RUNTIME_DIR", "DOCKER_CERT_PATH"] {
        let id = of_the_page(engine, folder.path(), holds, &server, &remote);
        runs_a_task(engine, &id, &server);
    }
    // Nobody gave it the socket's group.
    let without = |command: String| {
        let (before, after) = command.split_once(" --group-add").unwrap();
        format!("{before} {}", after.split_once('\n').unwrap().1).replace("--restart on-failure", "")
    };
    let id = of_the_page(engine, folder.path(), "--group-add \"", &server, without);
    let worker = Container::new(engine, &id);
    let line = worker.wait_for_line("--group-add");
    assert!(line.contains("cannot connect to /var/run/docker.sock"), "{line}");
    assert_eq!(engine.docker(["wait", worker.id()]), "1");
}
