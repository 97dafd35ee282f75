//! `--check`: what would run, and whether this host can run it. Connects to nothing, creates nothing, shows no secret.

use std::ffi::OsStr;
use std::fmt::Write;

use oz_worker_backends::contract::Facts;
use oz_worker_runtime::Files;
use oz_worker_text::duration;
use oz_worker_text::line::one_line;

use super::secret::ApiKey;
use super::{Refusal, Settings};

/// What would run, one line per fact, for standard output. `files` and `path` are this machine's file system
/// and `PATH`; `metrics` says in a few words what the metrics exporter would do.
///
/// # Errors
/// When this host cannot run it (exit code 1).
pub fn report(settings: &Settings, files: &impl Files, path: Option<&OsStr>, metrics: &str) -> Result<String, Refusal> {
    let mut report = Report("Flags and file are good. This would run:\n".to_owned());
    report.line("worker id", &settings.worker_id);
    report.line("connects to", &settings.dial_url());
    match &settings.api_key {
        ApiKey::Value(_) => report.line("API key", "given, not shown"),
        ApiKey::File(path) => report.line("API key", &format!("in {}, read again at every dial", path.display())),
    }
    report.line("agent's server", &settings.server_root_url);
    if let Some(url) = &settings.session_sharing_server_url {
        report.line("session sharing", url);
    }
    report.line("backend", settings.backend.name());
    let mut facts = Facts::default();
    let checked = settings.backend.check(&mut facts, files, path);
    checked.map_err(|problem| Refusal { lines: vec![problem], exit_code: 1 })?;
    facts.0.iter().for_each(|(name, value)| report.line(&format!("  {name}"), value));
    match settings.max_concurrent_tasks {
        0 => report.line("tasks at once", "no limit"),
        most => report.line("tasks at once", &most.to_string()),
    }
    let names: Vec<&str> = settings.environment.names().collect();
    match names.as_slice() {
        [] => report.line("environment", "nothing added"),
        names => report.line("environment", &format!("{} (values not shown)", names.join(", "))),
    }
    report.line("idle on complete", settings.idle_on_complete.as_deref().unwrap_or("the agent's own default"));
    report.line("drain timeout", &duration::show(settings.drain_timeout));
    report.line("cancel grace", &duration::show(settings.cancel_grace_period));
    report.line("cleanup", if settings.cleanup { "yes" } else { "no, everything is kept" });
    report.line("metrics", metrics);
    if !settings.status_page {
        report.line("status page", "off");
    }
    if let Some((host, port)) = &settings.health_address {
        report.line("health", &format!("{host}:{port}"));
    }
    report.line("log", &format!("{}, {}", settings.log_level.name(), settings.log_format.name()));
    for warning in &settings.warnings {
        report.line("warning", warning);
    }
    Ok(report.0)
}

struct Report(String);

impl Report {
    fn line(&mut self, name: &str, value: &str) {
        // A value never breaks its line, and never reaches the terminal as a command.
        let _ = writeln!(self.0, "  {name:<20} {}", one_line(value));
    }
}
