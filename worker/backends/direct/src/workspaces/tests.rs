//! Workspaces on a real file system.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use oz_worker_host::{HostFiles, owner};

use super::*;

struct Scratch(Workspaces);

impl Scratch {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("oz-worker-workspaces-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Self(Workspaces::new(root.join("deep/root"), owner("worker")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.root.parent().unwrap().parent().unwrap());
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// The mark of the worker `worker_id` as it was before the machine was booted.
fn earlier(worker_id: &str) -> String {
    let user = rustix::process::geteuid().as_raw();
    Owner::of_process(worker_id, user, b"host", 7, 8).under(b"an earlier boot", 9).mark().to_owned()
}

fn names(workspaces: &Workspaces) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(workspaces.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_workspace_is_private_marked_and_gone_when_removed() {
    let scratch = Scratch::new("plain");
    let workspace = scratch.0.create(&HostFiles, "task-1").unwrap();
    assert_eq!(workspace.origin(), Origin::New);
    assert_eq!(workspace.path(), scratch.0.root().join("task-1"));
    assert_eq!(mode(workspace.path()), 0o700);
    assert_eq!(names(&scratch.0), ["task-1"]);
    if scratch.0.supports_marks(&HostFiles).unwrap() {
        assert_eq!(HostFiles.mark(workspace.path()).unwrap(), scratch.0.owner.mark());
    }
    fs::create_dir(workspace.path().join("sub")).unwrap();
    fs::write(workspace.path().join("sub/file"), "x").unwrap();
    workspace.remove(&HostFiles).unwrap();
    assert!(names(&scratch.0).is_empty());
}

#[test]
fn a_task_id_that_is_not_one_path_component_is_refused() {
    let scratch = Scratch::new("ids");
    let long = "x".repeat(256);
    for id in ["", ".", "..", "a/b", "/", "../x", "a\0b", &long] {
        assert!(matches!(scratch.0.create(&HostFiles, id), Err(WorkspaceError::TaskId(_))), "{id:?}");
    }
    assert!(!scratch.0.root().exists());
    let longest = "x".repeat(255);
    for id in ["...", "-rf", "a b", "ä\n\u{1b}", "~", "%2e%2e", "\\", &longest] {
        scratch.0.create(&HostFiles, id).unwrap().remove(&HostFiles).unwrap();
    }
}

#[test]
fn a_foreign_directory_is_used_but_never_removed() {
    let scratch = Scratch::new("foreign");
    let path = scratch.0.root().join("task");
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let workspace = scratch.0.create(&HostFiles, "task").unwrap();
    assert_eq!(workspace.origin(), Origin::Foreign);
    workspace.remove(&HostFiles).unwrap();
    scratch.0.create(&HostFiles, "task").unwrap().keep(&HostFiles).unwrap();
    assert_eq!(mode(&path), 0o755);
    assert_eq!(HostFiles.mark(&path), None);
    assert_eq!(names(&scratch.0), ["task"]);
}

#[test]
fn a_directory_of_a_living_worker_is_refused_and_never_cleaned_whatever_its_mark_says() {
    let scratch = Scratch::new("living");
    // The mark of another worker, and one with our key that seems to be long dead: another container may have made it.
    let (second, root) = (Workspaces::new(scratch.0.root(), owner("another")), scratch.0.root().to_owned());
    for mark in [second.owner.mark().to_owned(), earlier("worker"), scratch.0.owner.mark().to_owned()] {
        let path = root.join("task");
        fs::create_dir_all(&path).unwrap();
        HostFiles.set_mark(&path, &mark).unwrap();
        // A process of its own, that holds it as a worker does, until its input ends.
        let mut worker = std::process::Command::new("perl")
            .args(["-e", HOLDER])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        io::Read::read_exact(worker.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
        for workspaces in [&scratch.0, &second] {
            assert!(matches!(workspaces.create(&HostFiles, "task"), Err(WorkspaceError::InUse(_))), "{mark}");
            assert!(workspaces.clean_leftovers(&HostFiles).removed.is_empty(), "{mark}");
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
        assert_eq!(second.create(&HostFiles, "task").unwrap().origin(), Origin::Reused, "its worker is dead");
        HostFiles.set_mark(&path, &mark).unwrap();
        let cleaned = if mark == second.owner.mark() { &second } else { &scratch.0 };
        assert_eq!(cleaned.clean_leftovers(&HostFiles).removed, ["task"], "{mark}");
    }
}

/// Takes an open file description's lock for reading on a whole directory: 37 is `F_OFD_SETLK`.
const HOLDER: &str = r#"use Fcntl; sysopen($f, $ARGV[0], O_RDONLY) or die;
    $lock = pack("s s x4 q q l x4", F_RDLCK, 0, 0, 0, 0); fcntl($f, 37, $lock) or die $!;
    $| = 1; print "held\n"; <STDIN>"#;

#[test]
fn a_workspace_is_held_as_long_as_it_is_a_tasks_and_a_task_may_lock_its_own_directory() {
    let scratch = Scratch::new("held");
    let workspace = scratch.0.create(&HostFiles, "task").unwrap();
    let busy = HostFiles.hold(workspace.path()).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    let locked = std::process::Command::new("flock").arg("-n").arg(workspace.path()).arg("true").status();
    assert!(locked.unwrap().success());
    let path = workspace.path().to_owned();
    drop(workspace);
    drop(HostFiles.hold(&path).unwrap());
}

#[test]
fn another_host_name_changes_nothing_and_another_worker_id_cleans_nothing() {
    let scratch = Scratch::new("names");
    let path = scratch.0.root().join("task");
    fs::create_dir_all(&path).unwrap();
    HostFiles.set_mark(&path, &earlier("worker2")).unwrap();
    assert!(scratch.0.clean_leftovers(&HostFiles).removed.is_empty());
    HostFiles.set_mark(&path, &earlier("worker")).unwrap();
    assert_eq!(scratch.0.clean_leftovers(&HostFiles).removed, ["task"]);
}

#[test]
fn a_kept_workspace_is_reused_and_then_removed() {
    let scratch = Scratch::new("kept");
    let workspace = scratch.0.create(&HostFiles, "task").unwrap();
    fs::write(workspace.path().join("file"), "kept").unwrap();
    workspace.keep(&HostFiles).unwrap();
    assert!(scratch.0.clean_leftovers(&HostFiles).removed.is_empty());
    let workspace = scratch.0.create(&HostFiles, "task").unwrap();
    assert_eq!(workspace.origin(), Origin::Reused);
    assert!(workspace.path().join("file").exists());
    workspace.remove(&HostFiles).unwrap();
    assert!(names(&scratch.0).is_empty());
}

#[test]
fn what_is_no_directory_is_in_the_way() {
    let scratch = Scratch::new("file");
    let root = scratch.0.root();
    fs::create_dir_all(root.join("real")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    symlink(root.join("real"), root.join("link")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    for id in ["file", "link", "dangling"] {
        assert!(matches!(scratch.0.create(&HostFiles, id), Err(WorkspaceError::NotADirectory(_))), "{id}");
    }
    assert_eq!(names(&scratch.0), ["dangling", "file", "link", "real"]);
}

#[test]
fn only_leftovers_of_our_own_crash_are_cleaned() {
    let scratch = Scratch::new("leftovers");
    let (workspaces, root) = (&scratch.0, scratch.0.root().to_owned());
    let running = workspaces.create(&HostFiles, "running").unwrap();
    let hidden = format!("{HIDDEN}{}.7", earlier("worker"));
    let other = format!("{HIDDEN}{}.7", earlier("other"));
    for name in ["crashed", "foreign", "other-worker", "odd-mark", &hidden, &other, ".oz-agent-worker.x"] {
        fs::create_dir_all(root.join(name).join("content")).unwrap();
    }
    HostFiles.set_mark(&root.join("crashed"), &earlier("worker")).unwrap();
    HostFiles.set_mark(&root.join("other-worker"), &earlier("other")).unwrap();
    HostFiles.set_mark(&root.join("odd-mark"), &"x".repeat(500)).unwrap();
    fs::write(root.join("file"), "").unwrap();
    symlink(root.join("crashed"), root.join("link")).unwrap();

    let cleaned = workspaces.clean_leftovers(&HostFiles);
    let mut removed: Vec<_> = cleaned.removed.iter().map(|name| name.to_str().unwrap()).collect();
    removed.sort_unstable();
    assert_eq!(removed, [hidden.as_str(), "crashed"]);
    assert!(cleaned.failed.is_empty());
    let left = names(workspaces);
    assert_eq!(
        left,
        sorted([".oz-agent-worker.x", &other, "file", "foreign", "link", "odd-mark", "other-worker", "running"])
    );
    assert!(root.join("foreign/content").exists());
    running.remove(&HostFiles).unwrap();
}

fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}

#[test]
fn a_private_directory_needs_no_attribute_to_be_known_again() {
    let scratch = Scratch::new("private");
    let private = scratch.0.create_private(&HostFiles).unwrap();
    assert_eq!(mode(private.path()), 0o700);
    assert!(scratch.0.clean_leftovers(&HostFiles).removed.is_empty());
    private.remove(&HostFiles).unwrap();
    assert!(names(&scratch.0).is_empty());
}

#[test]
fn a_root_that_cannot_be_written_is_named() {
    // Neither root nor anybody else can make a directory in /proc.
    let workspaces = Workspaces::new("/proc/self", owner("worker"));
    let error = workspaces.create(&HostFiles, "task").unwrap_err();
    assert!(error.to_string().starts_with("cannot create a directory in /proc/self: "), "{error}");
    let workspaces = Workspaces::new("/proc/self/no/such", owner("worker"));
    let error = workspaces.create(&HostFiles, "task").unwrap_err();
    assert!(error.to_string().starts_with("cannot create /proc/self/no/such: "), "{error}");
}
