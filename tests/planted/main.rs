//! The harness can fail: bugs are planted one at a time in a copy of the sources, and the properties or the simulator must
//! find each and name the law that it breaks. The sources themselves know nothing of it, and neither does any binary.
//!
//! It builds a part of the workspace for each bug, so it runs when it is asked for:
//! `cargo test -p oz-worker-tests --test planted -- --ignored`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod bugs;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bugs::BUGS;

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[derive(Debug, Clone, Copy)]
enum Finder {
    /// Core's property tests.
    Properties,
    /// Those of a worker that is killed and restored.
    Restarts,
    Simulator,
    /// The same with storms on a cluster only.
    Cluster,
}

impl Finder {
    /// What cargo is told, so that it asks this one.
    const fn command(self) -> &'static str {
        match self {
            Self::Properties => "test --package oz-worker-core --test session -- a_fleet whatever_happens",
            Self::Restarts => "test --package oz-worker-core --test session -- that_is_killed",
            Self::Simulator => "run --package oz-worker-simulator -- --from 0 --count 300",
            Self::Cluster => "run --package oz-worker-simulator -- --cluster --from 0 --count 300",
        }
    }

    /// What stands before a broken law in what it says.
    const fn verdict(self) -> &'static str {
        match self {
            Self::Properties | Self::Restarts => "broken law: ",
            Self::Simulator | Self::Cluster => "violated: ",
        }
    }
}

/// One bug. `good` stands once in `file`; `law` is a part of what the finder then says.
struct Bug {
    name: &'static str,
    finder: Finder,
    law: &'static str,
    file: &'static str,
    good: &'static str,
    bad: &'static str,
}

/// A copy of the workspace's sources, kept from run to run, for one test at a time.
struct Copy {
    root: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Copy {
    /// Brings the copy up to date; what did not change keeps its time, so that it is not built again.
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted");
        mirror(Path::new(WORKSPACE), &root).unwrap();
        Self { root, _turn: turn }
    }

    /// What the finder says, and whether it is content.
    fn ask(&self, finder: Finder) -> (bool, String) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let output = Command::new(cargo)
            .args(["--locked", "--quiet"])
            .args(finder.command().split(' '))
            .current_dir(&self.root)
            // Never the workspace's own: cargo takes what was built of the copy for what it would build itself.
            .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted-target"))
            // A bug changes a few lines. What does not depend on them is not built again, whatever CI says for the rest.
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_TERM_COLOR", "never")
            .env("RUST_BACKTRACE", "0")
            // The same cases each time, and enough of them: whether a bug is found is not left to chance.
            .env("PROPTEST_RNG_SEED", "1")
            .env("PROPTEST_CASES", "20000")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), said)
    }
}

/// Makes `to` what `from` is, and touches nothing that is so already.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to, name) = (entry.path(), to.join(entry.file_name()), entry.file_name());
        if entry.file_type()?.is_dir() {
            if !["target", ".git", "fuzz"].iter().any(|skipped| name == *skipped) {
                mirror(&from, &to)?;
            }
        } else if entry.file_type()?.is_file() && fs::read(&from)? != fs::read(&to).unwrap_or_default() {
            fs::copy(&from, &to)?;
        }
    }
    for entry in fs::read_dir(to)? {
        let stray = entry?.path();
        if stray.file_name().is_some_and(|name| !from.join(name).exists()) {
            if stray.is_dir() { fs::remove_dir_all(&stray)? } else { fs::remove_file(&stray)? }
        }
    }
    Ok(())
}

/// Plants the bug of this name, and shows that its finder names the law.
fn assert_is_found(name: &str) {
    let bug = BUGS.iter().find(|bug| bug.name == name).unwrap();
    let copy = Copy::new();
    let file = copy.root.join(bug.file);
    let good = fs::read_to_string(&file).unwrap();
    assert_eq!(good.matches(bug.good).count(), 1, "{} must hold this once; plant it anew:\n{}", bug.file, bug.good);
    fs::write(&file, good.replace(bug.good, bug.bad)).unwrap();
    let (content, said) = copy.ask(bug.finder);
    assert!(!content, "it was not found");
    let verdicts = || said.lines().filter(|line| line.contains(bug.finder.verdict()));
    if verdicts().any(|line| line.contains(bug.law)) {
        return;
    }
    let others = verdicts().chain(said.lines().filter(|line| line.starts_with("error")));
    let others: Vec<String> = others.take(5).map(|line| line.chars().take(400).collect()).collect();
    panic!("it was found, but not by the law {:?}:\n{}", bug.law, others.join("\n"));
}

#[test]
fn every_bug_stands_in_the_guarantees_with_its_law() {
    let page = fs::read_to_string(Path::new(WORKSPACE).join("docs/guarantees.md")).unwrap();
    for bug in BUGS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", bug.name)));
        assert!(row.is_some_and(|row| row.ends_with(&format!("| {} |", bug.law))), "{}: {row:?}", bug.name);
    }
}

#[test]
fn every_bug_can_still_be_planted() {
    for bug in BUGS {
        let source = fs::read_to_string(Path::new(WORKSPACE).join(bug.file)).unwrap();
        assert_eq!(source.matches(bug.good).count(), 1, "{} must hold this once:\n{}", bug.file, bug.good);
    }
}

#[test]
#[ignore = "builds the workspace once more; .ci/run asks for it"]
fn without_a_bug_there_is_nothing_to_find() {
    let copy = Copy::new();
    for finder in [Finder::Properties, Finder::Restarts, Finder::Simulator, Finder::Cluster] {
        let (content, said) = copy.ask(finder);
        assert!(content, "{finder:?}: {said}");
    }
}
