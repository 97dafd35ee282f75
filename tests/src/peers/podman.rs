//! Podman's service, as a command.

use std::{fs, path::Path, process::Command};

/// Its log says so once it listens.
pub(super) const LISTENS: &str = "API service listening on";

/// Containers have no network: there is no program here that would make one. Whoever may not raise a limit has one that may be
/// set.
const SETTINGS: &str = r#"
[containers]
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// Adds what the service is told: everything of it is in `dir`, the images too, for they remember where the rest is.
pub(super) fn describe(command: &mut Command, dir: &Path, host: &str) {
    fs::write(dir.join("containers.conf"), SETTINGS).expect("one's own directory");
    command.arg("--root").arg(dir.join("data")).arg("--runroot").arg(dir.join("run"));
    command.arg("--tmpdir").arg(dir.join("tmp")).args(["--log-level", "info"]);
    command.args(["system", "service", "--time", "0", host]);
    command.env("CONTAINERS_CONF", dir.join("containers.conf"));
}
