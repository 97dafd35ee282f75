//! Tells the program which commit it is built from, for `--version`.

use std::path::Path;
use std::process::Command;

fn main() {
    // Written by git at every commit and checkout; without a repository there is nothing to watch and nothing to tell.
    let log = "../.git/logs/HEAD";
    println!("cargo::rerun-if-changed={}", if Path::new(log).exists() { log } else { "build.rs" });
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Ok(output) = commit
        && output.status.success()
    {
        println!("cargo::rustc-env=OZ_WORKER_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}
