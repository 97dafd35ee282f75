//! A real Docker engine, the image of the worker built by it, and containers.
//!
//! The engine has process ids and mounts of its own, so that nothing of it can outlive it, and a bridge without a rule of
//! iptables: a container reaches the host, and the host what a container publishes. Images stay in the folder of the peers.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};
use serde_json::json;
use tempfile::TempDir;

use super::{Peer, podman, rootless, service::Service};
use crate::{
    chart::repository,
    process::{self, Watch, with_input},
    tls::Authority,
};

/// The image that [`Engine::worker`] builds, with the name that the docs give it.
pub const WORKER: &str = concat!("oz-agent-worker:", env!("CARGO_PKG_VERSION"));

/// The commit that it is said to be built from: always the same, so that it is built again only when it would be another.
pub const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// Debian 12 with a busybox, as [`Engine::debian`] gives it.
pub const DEBIAN: &str = "oz-worker-debian:12-1";

/// The host as containers see it.
pub const HOST: &str = "10.199.0.1";

/// The engine's name in the certificate that it has.
pub const ENGINE_NAME: &str = "engine.example";

/// The oldest API of the current engine, as of those that are released.
const OLDEST_API: &str = "1.44";

/// A proxy that there is none of.
const NOWHERE: &str = "http://127.0.0.1:1";

const BRIDGE: &str = "oz-docker0";
/// What programs on Debian trust.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

const CGROUP: &str = "oz-worker-docker";

/// How long containers have to end before the engine is killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian's 20.10, whose newest API is 1.41.
    Debian,
    /// A current one, whose images are kept by containerd.
    Current,
    /// Podman 4.3, whose service speaks Docker's API.
    Podman,
    /// The current one, run by a plain user.
    Rootless,
}

impl Release {
    /// The daemon and the folder of its own runc; `None` when it cannot be had.
    fn daemon(self) -> Option<(&'static Path, Option<&'static Path>)> {
        match self {
            Self::Debian => Some((Peer::Docker.programs()?.first()?, None)),
            Self::Current | Self::Rootless => {
                let daemon = Peer::Engine.programs()?.first()?;
                (self == Self::Current || rootless::is_there()).then_some((daemon, daemon.parent()))
            }
            Self::Podman => Some((Peer::Podman.programs()?.first()?, None)),
        }
    }

    /// Where it keeps its images for the next time, if it does.
    fn kept(self) -> PathBuf {
        match self {
            Self::Debian | Self::Podman | Self::Rootless => kept(),
            Self::Current => kept().join("current"),
        }
    }
}

/// A Docker engine that runs until it is dropped. There is one at a time: others wait for it.
pub struct Engine {
    service: Service,
    release: Release,
    program: PathBuf,
    client: &'static Path,
    dir: TempDir,
    turn: File,
    /// Where it listens for TLS: on this machine, and for containers.
    ports: [u16; 2],
}

impl Engine {
    /// Starts Debian's. `None` when there is none to be had.
    pub fn start() -> Option<Self> {
        Self::start_of(Release::Debian)
    }

    /// Starts one. `None` when there is none to be had.
    pub fn start_of(release: Release) -> Option<Self> {
        let [turn, client] = Peer::Docker.programs()? else { panic!("docker.sh prints two programs") };
        release.daemon()?;
        // Its bridge and its groups have names that are the whole machine's, and the program is there for everybody.
        let turn = File::open(turn).expect("docker.sh prints programs");
        flock(&turn, FlockOperation::LockExclusive).expect("a lock");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority::new("The engine's authority");
        authority.write(&dir.path().join("ca.pem"));
        for (names, to) in [(&[ENGINE_NAME, "localhost"][..], "server"), (&["client"], "client")] {
            let (certificate, key) = authority.issue_for(names, dir.path());
            fs::rename(certificate, dir.path().join(format!("{to}-cert.pem"))).expect("one's own directory");
            fs::rename(key, dir.path().join(format!("{to}-key.pem"))).expect("one's own directory");
        }
        Self::begin(release, client, dir, turn)
    }

    /// Ends this engine with all its containers, and starts another that listens where it did. Its images are its own.
    pub fn replace(mut self, release: Release) -> Option<Self> {
        self.end();
        let (dir, turn) = (tempfile::tempdir().expect("a temporary directory"), self.turn.try_clone());
        let (dir, turn) = (std::mem::replace(&mut self.dir, dir), turn.expect("a descriptor"));
        Self::begin(release, self.client, dir, turn)
    }

    fn begin(release: Release, client: &'static Path, dir: TempDir, turn: File) -> Option<Self> {
        let (program, runc) = release.daemon()?;
        let kept = release.kept();
        fs::create_dir_all(&kept).unwrap_or_else(|error| panic!("cannot make {}: {error}", kept.display()));

        // One that was killed in its sleep has left it.
        remove_bridge();
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["address", "add", &format!("{HOST}/24"), "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);

        // The end of the thread that holds the engine is the end of `unshare`, of the shell, of the daemon, of every process
        // beside it. The shell starts the daemon again for as long as the file is there.
        let at = |name: &str| dir.path().join(name);
        fs::write(at("goes-on"), "").expect("one's own directory");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"])
            .args(["sh", "-c", "while test -e \"$0\"; do \"$@\"; done"])
            .arg(at("goes-on"));
        let ports = [free_port("127.0.0.1"), free_port(HOST)];
        write_settings(dir.path(), release, false);
        let (mut program, mut runc) = (program.to_owned(), runc.map(Path::to_owned));
        match release {
            Release::Podman => podman::describe(command.arg(&program), dir.path(), &host(dir.path())),
            Release::Rootless => {
                let folder = rootless::describe(&mut command, &program, dir.path(), &host(dir.path()));
                (program, runc) = (folder.join("dockerd"), Some(folder));
            }
            Release::Debian | Release::Current => describe(command.arg(&program), dir.path(), &kept, ports),
        }
        if let Some(runc) = runc {
            use_runc(&mut command, runc);
        }
        // Nothing is looked for outside: what cannot be reached fails at once.
        command.env("HTTP_PROXY", NOWHERE).env("HTTPS_PROXY", NOWHERE).env("NO_PROXY", "127.0.0.0/8,localhost");
        let service = Service::start("the Docker engine", &mut command);
        service.wait_for_line(if release == Release::Podman { podman::LISTENS } else { "API listen on" });
        let engine = Self { service, release, program, client, dir, turn, ports };
        engine.remove_containers();
        engine.docker(["image", "prune", "--force"]);
        Some(engine)
    }

    /// The daemon as it runs now.
    fn daemon(&self) -> Option<Watch> {
        let is_it = |pid: &i32| process::arguments(*pid).starts_with(self.program.as_os_str().as_encoded_bytes());
        process::descendants(self.service.pid()).into_iter().find(is_it).map(Watch::new)
    }

    /// Ends the daemon by this signal, has it started again, and waits until it answers.
    pub fn restart(&self, signal: Signal) {
        let daemon = self.daemon().expect("it runs");
        process::signal(daemon.pid, signal);
        assert!(daemon.ends_within(PATIENCE), "the daemon ends");
        let until = Instant::now() + PATIENCE;
        while !self.command().arg("version").output().is_ok_and(|asked| asked.status.success()) {
            assert!(Instant::now() < until, "the daemon answers");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Says whether containers outlive the daemon from now on.
    pub fn keep_containers(&self, are_kept: bool) {
        write_settings(self.dir.path(), self.release, are_kept);
        process::signal(self.daemon().expect("it runs").pid, Signal::HUP);
        let until = Instant::now() + PATIENCE;
        while self.docker(["info", "--format", "{{.LiveRestoreEnabled}}"]) != are_kept.to_string() {
            assert!(Instant::now() < until, "the daemon reads its file");
        }
    }

    /// The value of `DOCKER_HOST` for TLS, on this machine.
    pub fn tls_host(&self, name: &str) -> String {
        format!("tcp://{name}:{}", self.ports[0])
    }

    /// The port for TLS that containers reach at [`HOST`], where the engine is [`ENGINE_NAME`].
    pub fn tls_port(&self) -> u16 {
        self.ports[1]
    }

    /// Writes what a client needs for TLS as `DOCKER_CERT_PATH` has it.
    pub fn write_certificates(&self, to: &Path) {
        for (from, name) in [("ca", "ca"), ("client-cert", "cert"), ("client-key", "key")] {
            let from = self.dir.path().join(format!("{from}.pem"));
            fs::copy(from, to.join(format!("{name}.pem"))).expect("a folder");
        }
    }

    /// `docker`, as a command to add arguments to.
    pub fn command(&self) -> Command {
        self.reached_by(Command::new(self.client))
    }

    /// Runs a script as a person would write it into a shell in this folder, and gives what it printed.
    pub fn shell(&self, script: &str, folder: &Path) -> String {
        let mut command = self.reached_by(Command::new("sh"));
        let ended = command.args(["-euc", script]).current_dir(folder).stdin(Stdio::null()).output();
        succeeded(&command, &ended.expect("there is a shell"))
    }

    fn reached_by(&self, mut command: Command) -> Command {
        let path = env::var_os("PATH").unwrap_or_default();
        let own = self.client.parent().expect("docker.sh prints paths").to_owned();
        let path = env::join_paths([own].into_iter().chain(env::split_paths(&path))).expect("they were in a PATH");
        command.env("PATH", path).env("DOCKER_HOST", host(self.dir.path()));
        command.env("DOCKER_CONFIG", self.dir.path()).env("DOCKER_BUILDKIT", "1");
        if matches!(self.release, Release::Current | Release::Rootless) {
            // Debian's client knows no newer one than 1.41 by itself.
            command.env("DOCKER_API_VERSION", OLDEST_API);
        }
        command
    }

    /// The value of `DOCKER_HOST`.
    pub fn host(&self) -> String {
        host(self.dir.path())
    }

    /// Makes an image of the files in this folder, with these instructions of a Dockerfile.
    pub fn import(&self, tag: &str, folder: &Path, instructions: &[&str]) {
        let instructions: String =
            instructions.iter().fold(String::new(), |all, one| format!("{all} --change '{one}'"));
        self.shell(
            &format!("tar --numeric-owner --owner=0 --group=0 -c . | docker import{instructions} - {tag}"),
            folder,
        );
    }

    /// Stops the daemon for as long as `meanwhile` takes: it says nothing then, and what it was asked for waits.
    pub fn hung(&self, meanwhile: impl FnOnce()) {
        let daemon = self.daemon().expect("it runs");
        process::signal(daemon.pid, Signal::STOP);
        meanwhile();
        process::signal(daemon.pid, Signal::CONT);
    }

    /// A file below `/proc` of a process that has this number in the engine.
    pub(super) fn proc(&self, pid: &str, file: &str) -> String {
        let daemon = self.daemon().expect("it runs");
        let path = format!("/proc/{}/root/proc/{pid}/{file}", daemon.pid);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }

    /// Removes all that no container has which runs, as `docker system prune --all --force --volumes` does, and volumes with
    /// a name as well. Of Debian's engine only images with this label go: the others are kept for long.
    pub fn prune(&self, label: &str) {
        let label = format!("label={label}");
        let everything =
            [&["system", "prune", "--all", "--force"][..], &["volume", "prune", "--force", "--filter", "all=1"]];
        let some = [
            &["container", "prune", "--force"][..],
            &["volume", "prune", "--force"],
            &["image", "prune", "--all", "--force", "--filter", &label],
        ];
        for arguments in if self.release == Release::Debian { &some[..] } else { &everything[..] } {
            // Two at once are refused.
            let _ = self.command().args(*arguments).output();
        }
    }

    /// Runs `docker` with these arguments and gives what it printed, and panics with all it said if it fails.
    pub fn docker<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> String {
        let mut command = self.command();
        let ended = command.args(arguments).stdin(Stdio::null()).output().expect("docker can be run");
        succeeded(&command, &ended)
    }

    /// Builds `tag` from a Dockerfile that is given here and the files of `context`.
    pub fn build(&self, tag: &str, dockerfile: &str, context: &Path) {
        let mut command = self.command();
        command.args(["build", "--tag", tag, "--file", "-"]).arg(context);
        let ended = with_input(&mut command, dockerfile);
        succeeded(&command, &ended);
    }

    /// Writes images as `docker load` and `ctr images import` read them.
    pub fn save(&self, images: &[&str], archive: &Path) {
        self.docker(
            [OsStr::new("save"), OsStr::new("--output"), archive.as_os_str()]
                .into_iter()
                .chain(images.iter().map(OsStr::new)),
        );
    }

    /// Makes [`DEBIAN`], unless it is there. `None` when it cannot be had.
    pub fn debian(&self) -> Option<&'static str> {
        let archive = Peer::Debian.programs()?.first()?;
        if !self.has(DEBIAN) {
            self.docker([OsStr::new("import"), archive.as_os_str(), OsStr::new(DEBIAN)]);
        }
        Some(DEBIAN)
    }

    /// Builds the worker's image with the Rust that built this program. `None` when what it is built in cannot be had.
    pub fn worker(&self) -> Option<&'static str> {
        let build = self.build_flags()?;
        self.shell(&format!("docker build {build} --build-arg REVISION={REVISION} -t {WORKER} ."), repository());
        Some(WORKER)
    }

    /// What `docker build` is told here beside what the docs tell: no image of Rust can be fetched, and the bridge leads
    /// nowhere.
    pub fn build_flags(&self) -> Option<String> {
        Some(format!("--network host --build-arg BUILD_IMAGE={}", self.build_image()?))
    }

    /// What the official image of Rust is: Debian with a C compiler and Rust, here the one that built this program.
    fn build_image(&self) -> Option<String> {
        let debian = self.debian()?;
        let authorities = PathBuf::from(env::var("SSL_CERT_FILE").unwrap_or_else(|_| AUTHORITIES.to_owned()));
        let rust = rustc(&["--version"]);
        let mut hasher = DefaultHasher::new();
        (DEBIAN, &rust, fs::read(&authorities).unwrap_or_default()).hash(&mut hasher);
        let tag = format!("oz-worker-build:{:016x}", hasher.finish());
        if !self.has(&tag) {
            let (Some(dir), Some(file)) = (authorities.parent(), authorities.file_name()) else { return None };
            // Crates may come through a proxy that this machine trusts. Only cargo shall, not what is built.
            let file = file.to_string_lossy();
            let dockerfile = format!("FROM {debian}\nCOPY {file} /machine.crt\nENV CARGO_HTTP_CAINFO=/machine.crt\n");
            self.build(&tag, &dockerfile, dir);
            let dockerfile = format!("FROM {tag}\nCOPY bin /usr/local/bin/\nCOPY lib /usr/local/lib/\n");
            self.build(&tag, &dockerfile, Path::new(&rustc(&["--print", "sysroot"])));
        }
        Some(tag)
    }

    fn has(&self, image: &str) -> bool {
        let asked = self.command().args(["image", "inspect", image]).stdin(Stdio::null()).output();
        asked.is_ok_and(|asked| asked.status.success())
    }

    fn remove_containers(&self) {
        let all = self.docker(["ps", "--all", "--quiet"]);
        if !all.is_empty() {
            self.docker(["rm", "--force", "--volumes"].into_iter().chain(all.lines()));
        }
        let volumes = self.docker(["volume", "ls", "--quiet"]);
        if !volumes.is_empty() {
            self.docker(["volume", "rm"].into_iter().chain(volumes.lines()));
        }
    }
}

impl Engine {
    /// With grace, or what it was about to write of its images is lost; then whatever is left is killed with `unshare`.
    fn end(&mut self) {
        let _ = fs::remove_file(self.dir.path().join("goes-on"));
        let Some(daemon) = self.daemon() else { return };
        if !thread::panicking() {
            self.remove_containers();
        }
        process::signal(daemon.pid, Signal::TERM);
        daemon.ends_within(PATIENCE);
        self.service.kill();
        remove_bridge();
        remove_cgroups();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// Adds what a daemon of Docker's is told: everything of it is in `dir`, but for the images, which are in `kept`.
fn describe(command: &mut Command, dir: &Path, kept: &Path, ports: [u16; 2]) {
    let at = |name: &str| dir.join(name);
    command.arg("--host").arg(host(dir)).arg("--data-root").arg(kept.join("data"));
    command.arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
    for (address, port) in ["127.0.0.1", HOST].iter().zip(ports) {
        command.args(["--host", &format!("tcp://{address}:{port}")]);
    }
    command.arg("--tlsverify").arg("--tlscacert").arg(at("ca.pem"));
    command.arg("--tlscert").arg(at("server-cert.pem")).arg("--tlskey").arg(at("server-key.pem"));
    // Not the file of this machine's own engine. What builds have left is thrown away before it fills the disk.
    command.arg("--config-file").arg(at("daemon.json"));
    command.args(["--bridge", BRIDGE, "--iptables=false", "--ip-forward=false", "--ip-masq=false"]);
    command.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", CGROUP]);
}

/// Adds what a current daemon is told that has its runc in this folder.
fn use_runc(command: &mut Command, runc: PathBuf) {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = [runc].into_iter().chain(env::split_paths(&path));
    command.env("PATH", env::join_paths(all).expect("they were in a PATH"));
    // It is built without the library for seccomp.
    command.args(["--ip6tables=false", "--seccomp-profile=unconfined"]);
    command.env("DOCKER_MIN_API_VERSION", OLDEST_API);
}

fn write_settings(dir: &Path, release: Release, are_kept: bool) {
    let settings = match release {
        Release::Debian => {
            let collected = json!({"gc": {"enabled": true, "defaultKeepStorage": "6GB"}});
            json!({"live-restore": are_kept, "builder": collected})
        }
        Release::Current | Release::Podman | Release::Rootless => json!({"live-restore": are_kept}),
    };
    fs::write(dir.join("daemon.json"), settings.to_string()).expect("one's own directory");
}

/// A port at this address that nobody listens on.
fn free_port(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("an address of this machine");
    listener.local_addr().expect("a listener has an address").port()
}

/// What a command printed. Panics with all it said if it failed.
fn succeeded(command: &Command, ended: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{command:?}: {}\n{stdout}{stderr}", ended.status);
    stdout.trim_end().to_owned()
}

fn rustc(arguments: &[&str]) -> String {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let ended = command.args(arguments).output().expect("rustc built this program");
    succeeded(&command, &ended)
}

/// Where the engine keeps its images: with what the other peers keep, and as `tests/peers/lib.sh` finds that folder.
fn kept() -> PathBuf {
    let named = env::var_os("PEERS").map(PathBuf::from);
    let cache = || {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(env::var_os("HOME").expect("tests/peers/lib.sh asks for a home as well"));
        cache.unwrap_or_else(|| home().join(".cache")).join("oz-worker-peers")
    };
    named.unwrap_or_else(cache).join("docker")
}

fn host(dir: &Path) -> String {
    format!("unix://{}/docker.sock", dir.display())
}

fn ip(arguments: &[&str]) {
    let mut command = Command::new("ip");
    let ended = command.args(arguments).output().expect("docker.sh installs iproute2");
    succeeded(&command, &ended);
}

fn remove_bridge() {
    // Mostly there is none, which is as wanted.
    let _ = Command::new("ip").args(["link", "delete", BRIDGE]).output();
}

/// Removes what the engine leaves: empty groups in every hierarchy, below its root or below the group of this process.
fn remove_cgroups() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = read("/proc/self/cgroup");
    let groups = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).chain(["/"]);
    let groups: Vec<&str> = groups.map(|group| group.trim_start_matches('/')).collect();
    for mount in read("/proc/mounts").lines() {
        let mut fields = mount.split(' ');
        let (Some(at), Some(kind)) = (fields.nth(1), fields.next()) else { continue };
        if kind.starts_with("cgroup") {
            for group in &groups {
                let of_engine = Path::new(at).join(group).join(CGROUP);
                // What images were built in.
                let _ = fs::remove_dir(of_engine.join("buildkit"));
                let _ = fs::remove_dir(of_engine);
            }
        }
    }
}
