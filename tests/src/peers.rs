//! Real peers to try the worker against: installed by `tests/peers` where that can be done, skipped in one line where not.
//!
//! A test that needs one begins with `let Some(programs) = Peer::Chromium.programs() else { return };`. With `CI` set
//! nothing is skipped: a peer that cannot be had fails the test.

pub mod chromium;
pub mod container;
pub mod docker;
pub mod events;
pub mod images;
pub mod kubernetes;
pub mod otelcol;
pub mod otlp;
mod podman;
pub mod prometheus;
pub mod queries;
pub mod registry;
pub mod rootless;
mod service;
pub mod systemd;
mod ticks;

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
};

use crate::{binary, process};

/// A program of somebody else's that the worker must get along with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Prometheus and promtool.
    Prometheus,
    /// The OpenTelemetry Collector.
    Collector,
    Chromium,
    Helm,
    /// Unit tests of charts.
    HelmUnittest,
    /// kubeconform, the schemas of the oldest Kubernetes and those of the newest.
    Kubeconform,
    /// What Grafana's own types say of a dashboard.
    GrafanaCheck,
    /// A Docker engine and its client.
    Docker,
    /// A current Docker engine, much younger than that one, and its runc.
    Engine,
    /// Podman, whose service speaks Docker's API.
    Podman,
    /// What a Docker engine needs that a plain user runs.
    Rootless,
    /// A registry of images.
    Registry,
    /// Debian as an archive, to make images of.
    Debian,
    /// What `CycloneDX` itself says of a list of components.
    Cyclonedx,
    /// systemd, and a Debian that it runs.
    Systemd,
    /// Kubernetes as one program, the folder of a node's programs, the images of every cluster, and the folder of the
    /// Prometheus Operator's kinds.
    Kubernetes,
}

impl Peer {
    const fn script(self) -> &'static str {
        match self {
            Self::Prometheus => "prometheus.sh",
            Self::Collector => "otelcol.sh",
            Self::Chromium => "chromium.sh",
            Self::Helm => "helm.sh",
            Self::HelmUnittest => "helm-unittest.sh",
            Self::Kubeconform => "kubeconform.sh",
            Self::GrafanaCheck => "grafana-check.sh",
            Self::Docker => "docker.sh",
            Self::Engine => "engine.sh",
            Self::Podman => "podman.sh",
            Self::Rootless => "rootless.sh",
            Self::Registry => "registry.sh",
            Self::Debian => "debian.sh",
            Self::Cyclonedx => "cyclonedx.sh",
            Self::Systemd => "systemd.sh",
            Self::Kubernetes => "kubernetes.sh",
        }
    }

    /// Its programs in the order in which `tests/peers/README.md` names them, installed first if need be. `None` when it
    /// cannot be had: that is said and counted already, and the calling test has nothing to do but return.
    pub fn programs(self) -> Option<&'static [PathBuf]> {
        self.install().map_err(skip_this).ok()
    }

    /// Once per process; other processes wait in the script.
    fn install(self) -> Result<&'static [PathBuf], &'static str> {
        static INSTALLED: [OnceLock<Result<Vec<PathBuf>, String>>; 16] = [const { OnceLock::new() }; 16];
        let installed = INSTALLED.get(self as usize).expect("one place per peer");
        installed.get_or_init(|| run(self.script())).as_deref().map_err(String::as_str)
    }
}

/// Runs a script of `tests/peers`; gives the programs, or why there are none.
fn run(script: &str) -> Result<Vec<PathBuf>, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
    let ended = Command::new("sh").arg(&path).stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| format!("sh cannot be run: {error}"))?;
    if ended.status.success() {
        Ok(String::from_utf8_lossy(&ended.stdout).lines().map(PathBuf::from).collect())
    } else {
        let said = String::from_utf8_lossy(&ended.stderr);
        Err(said.lines().next_back().unwrap_or("its script says nothing").to_owned())
    }
}

/// The calling test is skipped for this reason, and has nothing to do but return. Said even when all goes well (only what
/// comes from macros is captured), and written down for the program that counts.
pub fn skip_this(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci.is_empty()), "CI skips nothing, but {why}");
    let what = format!("{}: {why}", thread::current().name().unwrap_or("a test"));
    // A log that nobody reads is no reason to fail.
    let _ = writeln!(io::stderr(), "skipped {what}");
    let file = skipped_tests();
    let opened = fs::OpenOptions::new().create(true).append(true).open(&file);
    let written = opened.and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

/// What was skipped so far, by this and every other test program that the same cargo runs; forgets it.
pub fn take_skipped() -> Vec<String> {
    let file = skipped_tests();
    let text = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(&file);
    text.lines().map(str::to_owned).collect()
}

/// A file that belongs to the program which runs the test programs, most likely cargo.
fn skipped_tests() -> PathBuf {
    let target = binary::target_dir().unwrap_or_else(env::temp_dir);
    let (pid, since) = process::parent_of_this();
    target.join(format!("skipped-tests-{pid}-{since}"))
}
