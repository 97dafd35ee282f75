//! The images that docker tasks run in here. Nothing is fetched for them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{Peer, docker::Engine};

/// The image of a task: a shell.
pub const TASK: &str = "oz-test/task:1";
/// The agent's sidecar: it does what the assignment says.
pub const AGENT: &str = "oz-test/agent:1";

const ENTRYPOINT: &str = "#!/bin/sh\neval \"${SCRIPT-}\"\n";
const APPLETS: [&str; 15] =
    ["sh", "cat", "dd", "echo", "find", "grep", "id", "ls", "mount", "sleep", "sort", "stat", "test", "true", "wc"];

/// Makes both.
pub fn make(engine: &Engine) {
    make_as(engine, TASK, AGENT, "LABEL oz-test=kept");
}

/// Makes the same with these names and one more instruction of a Dockerfile.
pub fn make_as(engine: &Engine, task: &str, agent: &str, instruction: &str) {
    let root = shell_root();
    engine.import(task, root.path(), &["ENV PATH=/bin", instruction]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    put(folder.path(), "entrypoint.sh", ENTRYPOINT, 0o755);
    engine.import(agent, folder.path(), &[instruction]);
}

/// The files of an image with a shell.
pub fn shell_root() -> TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    for name in ["bin", "etc", "tmp"] {
        fs::create_dir(root.path().join(name)).expect("one's own directory");
    }
    let programs = Peer::Debian.programs().expect("CI has it, and elsewhere these are skipped");
    let archive = programs.first().expect("debian.sh prints an archive");
    let taken = Command::new("tar").arg("-xOf").arg(archive).arg("./usr/bin/busybox").output().expect("there is tar");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let busybox = root.path().join("bin/busybox");
    fs::write(&busybox, taken.stdout).expect("one's own directory");
    fs::set_permissions(&busybox, Permissions::from_mode(0o755)).expect("one's own file");
    for applet in APPLETS {
        symlink("busybox", root.path().join("bin").join(applet)).expect("one's own directory");
    }
    put(root.path(), "full/of-the-image", "", 0o644);
    root
}

/// Writes a file, and makes the folders above it.
pub fn put(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a writable directory");
    fs::write(&path, text).expect("a writable directory");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("one's own file");
    path
}
