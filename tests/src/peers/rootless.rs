//! A current Docker engine as a plain user runs it, as a command: in a user namespace, with a network made in user space.
//!
//! The user is one of the engine's own mount namespace: the machine knows nothing of him.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use super::Peer;

/// The user, far above those of a machine, and the first of the many that he has in his namespaces.
pub const USER: u32 = 2_000_000_000;
const SUBORDINATES: u32 = USER + 1;
/// How many: as `useradd` gives them.
const COUNT: u32 = 65_536;

/// What `newuidmap` reads, in the user's own form.
const FILES: [&str; 4] = ["passwd", "group", "subuid", "subgid"];

/// Puts these files and the engine's programs where the user finds them, and a device for his network that he may open.
const AS_ROOT: &str = "mount --bind \"$1\" \"$0/engine\"
for file in passwd group subuid subgid; do mount --bind \"$0/etc/$file\" \"/etc/$file\"; done
mount -t tmpfs -o mode=755 tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
shift
exec \"$@\"";
/// What an engine of root's has left there is not for this one.
const AS_USER: &str = "rm -f /run/docker /run/containerd /run/xtables.lock; exec \"$@\"";

/// Whether it can be had.
pub(super) fn is_there() -> bool {
    Peer::Rootless.programs().is_some()
}

/// Adds what becomes this daemon: everything of it is in `dir`, the images too. Gives the folder where the user sees it.
pub(super) fn describe(command: &mut Command, daemon: &Path, dir: &Path, host: &str) -> PathBuf {
    let (etc, engine) = (dir.join("etc"), dir.join("engine"));
    for folder in [&etc, &engine] {
        fs::create_dir(folder).expect("one's own directory");
    }
    for name in FILES {
        let line = match name {
            "passwd" => format!("oz-rootless:x:{USER}:{USER}::{}:/bin/sh\n", dir.display()),
            "group" => format!("oz-rootless:x:{USER}:\n"),
            _ => format!("oz-rootless:{SUBORDINATES}:{COUNT}\n"),
        };
        // Who else there is has a name too.
        let before = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        fs::write(etc.join(name), before + &line).expect("one's own directory");
    }
    chown(dir, Some(USER), Some(USER)).expect("root may");

    command.args(["sh", "-euc", AS_ROOT]).arg(dir).arg(daemon.parent().expect("engine.sh prints paths"));
    let user = [format!("--reuid={USER}"), format!("--regid={USER}")];
    command.arg("setpriv").args(user).args(["--clear-groups", "--inh-caps=-all", "--"]);
    let rootlesskit = Peer::Rootless.programs().and_then(|programs| programs.first()).expect("it is there");
    command.arg(rootlesskit).arg("--state-dir").arg(dir.join("rootlesskit"));
    // As Docker's own script has it.
    command.args(["--net=slirp4netns", "--mtu=65520", "--disable-host-loopback", "--port-driver=builtin"]);
    command.args(["--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto"]);
    command.args(["--copy-up=/etc", "--copy-up=/run", "--propagation=rslave"]);
    command.args(["sh", "-euc", AS_USER, "sh"]);
    let at = |name: &str| dir.join(name);
    command.arg(engine.join("dockerd")).args(["--rootless", "--host", host]);
    command.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
    command.arg("--config-file").arg(at("daemon.json"));
    // Nobody has given this user a group of his own: with this driver an engine that is not root's sets no limits.
    command.args(["--bridge=none", "--iptables=false", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
    command.env("HOME", dir).env("XDG_RUNTIME_DIR", dir);
    engine
}
