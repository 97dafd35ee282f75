//! `packaging/`: what systemd says of it.

use std::{fs, process::Command};

use oz_worker_tests::{chart, peers::skip_this};

fn unit() -> String {
    chart::read("packaging/systemd/oz-agent-worker.service")
}

#[test]
fn systemd_knows_every_line_of_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("oz-agent-worker.service");
    // It looks whether the program is there.
    fs::write(&file, unit().replace("/usr/bin/oz-agent-worker", "/bin/true")).unwrap();
    let Ok(ended) = Command::new("systemd-analyze").arg("verify").arg(&file).output() else {
        skip_this("there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&ended.stderr);
    let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("oz-agent-worker")).collect();
    assert!(ended.status.success() && of_ours.is_empty(), "{of_ours:#?}");
}

#[test]
fn the_flags_of_the_unit_are_flags_of_the_worker() {
    let unit = unit();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let flags: Vec<&str> = start.split(' ').filter(|word| word.starts_with("--")).collect();
    assert!(!flags.is_empty());
    let page = chart::read("docs/configuration.md");
    for flag in flags {
        assert!(page.contains(&format!("| `{flag} ")), "{flag}");
    }
}
