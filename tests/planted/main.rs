//! The harness can fail: bugs are planted one at a time in a copy of the sources, and the properties or the simulator must
//! find each and name the law that it breaks. The sources themselves know nothing of it, and neither does any binary.
//!
//! It builds the workspace once per bug, so it runs when it is asked for:
//! `cargo test -p oz-worker-tests --test planted -- --ignored`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod bugs;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use bugs::{BUGS, Bug, Finder};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A copy of the workspace's sources with a target directory of its own, kept from run to run.
struct Copy(PathBuf);

impl Copy {
    /// Brings the copy up to date; what did not change keeps its time, so that it is not built again.
    fn new() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let copy = Self(target.join("planted"));
        let keep = copy.0.join("target");
        // What is no longer there must not be built.
        for entry in fs::read_dir(&copy.0).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != keep {
                remove_strays(&path, &Path::new(WORKSPACE).join(path.strip_prefix(&copy.0).unwrap()));
            }
        }
        mirror(Path::new(WORKSPACE), &copy.0).unwrap();
        copy
    }

    /// What the finder says, and whether it is content.
    fn ask(&self, finder: Finder) -> (bool, String) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let output = Command::new(cargo)
            .args(["test", "--locked", "--quiet", "--package", finder.package(), "--test", finder.test()])
            .current_dir(&self.0)
            .env("CARGO_TARGET_DIR", self.0.join("target"))
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .env("CARGO_INCREMENTAL", "1")
            .env("RUST_BACKTRACE", "0")
            // A bug must not slip through by chance.
            .env("PROPTEST_CASES", "3000")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), said)
    }

    /// The law whose breach the finder names once the bug is planted.
    fn find(&self, bug: &Bug) -> Result<(), String> {
        let file = self.0.join(bug.file);
        let good = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", bug.file))?;
        if good.matches(bug.good).count() != 1 {
            return Err(format!("{} must hold this once: {:?}; plant the bug anew", bug.file, bug.good));
        }
        fs::write(&file, good.replace(bug.good, bug.bad)).unwrap();
        let (content, said) = self.ask(bug.finder);
        fs::write(&file, good).unwrap();
        if content {
            return Err("it was not found".into());
        }
        if said.contains(&format!("broken law: {}", bug.law)) {
            return Ok(());
        }
        let lines = said.lines().filter(|line| line.contains("broken law") || line.starts_with("error"));
        let lines: Vec<String> = lines.take(3).map(|line| line.chars().take(400).collect()).collect();
        Err(format!("it was found, but not by the law {:?}: {}", bug.law, lines.join("\n    ")))
    }
}

/// Copies what changed.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if !["target", ".git", "fuzz"].iter().any(|skipped| name == *skipped) {
                mirror(&from, &to)?;
            }
        } else if entry.file_type()?.is_file() && fs::read(&from)? != fs::read(&to).unwrap_or_default() {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn remove_strays(copy: &Path, original: &Path) {
    for entry in fs::read_dir(copy).unwrap() {
        let path = entry.unwrap().path();
        let original = original.join(path.file_name().unwrap());
        if !original.exists() {
            if path.is_dir() { fs::remove_dir_all(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
        } else if path.is_dir() {
            remove_strays(&path, &original);
        }
    }
}

#[test]
#[ignore = "builds the workspace once per bug, which takes minutes; .ci/run asks for it"]
fn every_planted_bug_is_found_by_the_law_that_it_breaks() {
    let copy = Copy::new();
    for finder in Finder::ALL {
        let (content, said) = copy.ask(finder);
        assert!(content, "without a bug there is nothing to find:\n{said}");
    }
    let mut unfound = Vec::new();
    for bug in BUGS {
        let found = copy.find(bug);
        println!("{:<60} {}", bug.name, found.as_ref().map_or("NOT FOUND", |()| bug.law));
        if let Err(problem) = found {
            unfound.push(format!("{}: {problem}", bug.name));
        }
    }
    assert!(unfound.is_empty(), "{} of {} bugs:\n{}", unfound.len(), BUGS.len(), unfound.join("\n"));
}
