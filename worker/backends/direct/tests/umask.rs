//! The umask belongs to the whole process, so this has one of its own.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use oz_worker_direct::Workspaces;
use oz_worker_host::{HostFiles, owner};
use rustix::fs::Mode;

#[test]
fn a_workspace_is_private_and_usable_whatever_the_umask() {
    let root = std::env::temp_dir().join(format!("oz-worker-umask-{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    let workspaces = Workspaces::new(&root, owner("umask"));
    for umask in [0, 0o022, 0o077, 0o277, 0o777] {
        let before = rustix::process::umask(Mode::from_raw_mode(umask));
        let workspace = workspaces.create(&HostFiles, "task");
        let private = workspaces.create_private(&HostFiles);
        rustix::process::umask(before);
        for made in [workspace.unwrap(), private.unwrap()] {
            assert_eq!(fs::metadata(made.path()).unwrap().mode() & 0o7777, 0o700, "{umask:o}");
            made.remove(&HostFiles).unwrap();
        }
    }
    fs::remove_dir(&root).unwrap();
}
