//! Tells the program which commit it is built from, for `--version`.

use std::env;
use std::path::Path;
use std::process::Command;

/// Where there is no repository, whoever builds says the commit with this; it wins over a repository that is there.
const GIVEN: &str = "OZ_WORKER_COMMIT";

/// As many digits of a commit as git is asked for.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-env-changed={GIVEN}");
    // Written by git at every commit and checkout; without a repository there is nothing to watch and nothing to tell.
    let log = "../.git/logs/HEAD";
    println!("cargo::rerun-if-changed={}", if Path::new(log).exists() { log } else { "build.rs" });
    let given = env::var(GIVEN).ok().map(|given| given.trim().to_owned()).filter(|given| !given.is_empty());
    if let Some(commit) = given.or_else(of_the_repository) {
        println!("cargo::rustc-env={GIVEN}={}", commit.get(..DIGITS).unwrap_or(&commit));
    }
}

fn of_the_repository() -> Option<String> {
    let short = format!("--short={DIGITS}");
    let output = Command::new("git").args(["rev-parse", &short, "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().to_owned())
}
