//! `--check`: what would run, and whether this host can run it. Connects to nothing, creates nothing, shows no secret.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::backend::{Backend, Command, Direct, Docker, Kubernetes};
use super::program::{ProgramError, find_program};
use super::secret::ApiKey;
use super::{Refusal, Settings, duration};
use crate::text::masked;

/// Why this host cannot run the direct backend.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// No agent.
    #[error("backend direct has no agent to run: {0}; put oz on PATH, or set oz_path in the file")]
    Agent(#[from] ProgramError),
    /// `target_dir` must be there.
    #[error("backend direct: target_dir {} is not a directory; it must exist before the worker starts", .0.display())]
    TargetDir(PathBuf),
    /// `workspace_root` can neither be used nor made.
    #[error("backend direct: workspace_root {} cannot be written in: {} is not a writable directory", root.display(), at.display())]
    WorkspaceRoot {
        /// The setting.
        root: PathBuf,
        /// The nearest part of it that exists.
        at: PathBuf,
    },
}

impl Direct {
    /// The agent's program on this host. `path_var` is the host's `PATH`. Looks, and changes nothing.
    ///
    /// # Errors
    /// What this host lacks to run tasks.
    pub fn resolve(&self, path_var: Option<&OsStr>) -> Result<PathBuf, DirectError> {
        let agent = find_program(self.oz_path.as_deref().unwrap_or("oz"), path_var)?;
        match &self.target_dir {
            Some(directory) if !directory.is_dir() => Err(DirectError::TargetDir(directory.clone())),
            Some(_) => Ok(agent),
            None => match nearest_existing(&self.workspace_root) {
                at if at.is_dir() && access(at, Access::WRITE_OK | Access::EXEC_OK).is_ok() => Ok(agent),
                at => Err(DirectError::WorkspaceRoot { root: self.workspace_root.clone(), at: at.to_owned() }),
            },
        }
    }
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok()).unwrap_or(path)
}

/// What would run, one line per fact, for standard output. `path_var` is the host's `PATH`; `metrics` says in a few words
/// what the metrics exporter would do.
///
/// # Errors
/// When this host cannot run it (exit code 1).
pub fn report(settings: &Settings, path_var: Option<&OsStr>, metrics: &str) -> Result<String, Refusal> {
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
    match &settings.backend {
        Backend::Direct(direct) => report.direct(direct, path_var)?,
        Backend::Command(command) => report.command(command),
        Backend::Docker(docker) => report.docker(docker),
        Backend::Kubernetes(kubernetes) => report.kubernetes(kubernetes),
    }
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
    if let Some(refusal) = settings.unavailable() {
        report.line("but", &refusal.to_string());
    }
    Ok(report.0)
}

struct Report(String);

impl Report {
    fn line(&mut self, name: &str, value: &str) {
        // A value never breaks its line, and never reaches the terminal as a command.
        let _ = writeln!(self.0, "  {name:<20} {}", masked(value));
    }

    fn detail(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(&format!("  {name}"), value);
        }
    }

    /// Something that may have a secret written into it.
    fn configured<T>(&mut self, name: &str, value: Option<T>) {
        self.detail(name, value.map(|_| "configured, not shown"));
    }

    fn direct(&mut self, direct: &Direct, path_var: Option<&OsStr>) -> Result<(), Refusal> {
        let agent =
            direct.resolve(path_var).map_err(|error| Refusal { lines: vec![error.to_string()], exit_code: 1 })?;
        self.detail("agent", Some(&agent.display().to_string()));
        match &direct.target_dir {
            Some(directory) => self.detail("target dir", Some(&directory.display().to_string())),
            None => self.detail("workspaces in", Some(&direct.workspace_root.display().to_string())),
        }
        self.configured("setup command", direct.setup_command.as_ref());
        self.configured("teardown command", direct.teardown_command.as_ref());
        Ok(())
    }

    fn command(&mut self, command: &Command) {
        self.configured("dispatch command", Some(&command.dispatch_command));
        self.detail("dispatch timeout", Some(&duration::show(command.dispatch_timeout)));
        self.configured("cancel command", command.cancel_command.as_ref());
    }

    fn docker(&mut self, docker: &Docker) {
        for volume in &docker.volumes {
            self.detail("volume", Some(volume));
        }
    }

    fn kubernetes(&mut self, kubernetes: &Kubernetes) {
        self.detail("namespace", Some(&kubernetes.namespace));
        self.detail("kubeconfig", kubernetes.kubeconfig.as_ref().map(|path| path.display().to_string()).as_deref());
        self.detail("default image", kubernetes.default_image.as_deref());
        self.detail("pull policy", Some(kubernetes.image_pull_policy.name()));
        self.detail("sidecar image", kubernetes.sidecar_image.as_deref());
        self.detail("preflight", Some(&kubernetes.preflight_image));
        let deadline = kubernetes.active_deadline_seconds.map(|seconds| format!("{seconds} s"));
        self.detail("deadline", Some(deadline.as_deref().unwrap_or("none")));
        self.configured("setup command", kubernetes.setup_command.as_ref());
        self.configured("teardown command", kubernetes.teardown_command.as_ref());
        self.configured("pod template", kubernetes.pod_template.as_ref());
    }
}
