//! What backend `direct` is told, and whether this machine can do it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use oz_worker_contract::machine::{NoShell, check_shell};
use oz_worker_contract::program::{ProgramError, find_program};
use oz_worker_contract::{Configure, Facts};
use oz_worker_core::AfterKill;
use oz_worker_runtime::{Files, Named};
use oz_worker_text::section::{Section, Vocabulary};
use oz_worker_text::yaml::Position;

/// Backend `direct`. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectSettings {
    /// Where every task gets a directory of its own.
    pub workspace_root: PathBuf,
    /// Instead of that, one directory that all tasks share.
    pub target_dir: Option<PathBuf>,
    /// The agent's program, as a path or as a name on `PATH`; `oz` when absent.
    pub oz_path: Option<String>,
    /// For `/bin/sh -c` before the agent.
    pub setup_command: Option<String>,
    /// For `/bin/sh -c` after the agent.
    pub teardown_command: Option<String>,
}

impl Default for DirectSettings {
    fn default() -> Self {
        Self {
            workspace_root: PathBuf::from("/var/lib/oz/workspaces"),
            target_dir: None,
            oz_path: None,
            setup_command: None,
            teardown_command: None,
        }
    }
}

impl Configure for DirectSettings {
    const NAME: &'static str = "direct";
    const VOCABULARY: &'static Vocabulary = &[(
        "backend.direct",
        &["workspace_root", "target_dir", "oz_path", "setup_command", "teardown_command", "environment"],
    )];
    const STOPS_TASKS: bool = true;
    const AFTER_KILL: AfterKill = AfterKill::Fails;
    const RUNS_HERE: bool = true;

    fn unconfigured() -> Option<Self> {
        Some(Self::default())
    }

    fn read(section: &Section, _: &Section, _: Position) -> Option<Self> {
        let defaults = Self::default();
        Some(Self {
            workspace_root: section.text("workspace_root").map_or(defaults.workspace_root, absolute),
            target_dir: section.text("target_dir").map(absolute),
            oz_path: section.text("oz_path"),
            setup_command: section.command("setup_command"),
            teardown_command: section.command("teardown_command"),
        })
    }

    fn set_target_dir(&mut self, directory: PathBuf) -> bool {
        self.target_dir = Some(absolute(directory));
        true
    }

    fn check(&self, facts: &mut Facts, files: &impl Files, path: Option<&OsStr>) -> Result<(), String> {
        let agent = self.agent(files, path).map_err(|error| error.to_string())?;
        facts.add("agent", agent.display());
        match &self.target_dir {
            Some(directory) => facts.add("target dir", directory.display()),
            None => facts.add("workspaces in", self.workspace_root.display()),
        }
        facts.configured("setup command", self.setup_command.as_ref());
        facts.configured("teardown command", self.teardown_command.as_ref());
        Ok(())
    }
}

/// Why this host cannot run the direct backend.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    #[error("backend direct has no agent to run: {0}; put oz on PATH, or set oz_path in the file")]
    Agent(#[from] ProgramError),
    #[error(transparent)]
    Shell(#[from] NoShell),
    /// `target_dir` must be there.
    #[error("backend direct: target_dir {} is not a directory; it must exist before the worker starts", .0.display())]
    TargetDir(PathBuf),
    /// Nothing can run in `target_dir`.
    #[error("backend direct: target_dir {} cannot be entered by this user, so nothing could run there", .0.display())]
    ClosedTargetDir(PathBuf),
    /// `workspace_root` can neither be used nor made.
    #[error("backend direct: workspace_root {} cannot be written in: {} is not a writable directory", root.display(), at.display())]
    WorkspaceRoot {
        root: PathBuf,
        /// The nearest part of it that exists.
        at: PathBuf,
    },
}

impl DirectSettings {
    /// The agent's program on this machine. `path` is its `PATH`. Looks, and changes nothing.
    ///
    /// # Errors
    /// What this machine lacks to run tasks.
    pub fn agent(&self, files: &impl Files, path: Option<&OsStr>) -> Result<PathBuf, DirectError> {
        if self.setup_command.is_some() || self.teardown_command.is_some() {
            check_shell(files, Self::NAME)?;
        }
        let agent = find_program(files, self.oz_path.as_deref().unwrap_or("oz"), path)?;
        if let Some(directory) = &self.target_dir {
            return match files.named(directory) {
                Ok(Named::Directory { enterable: true, .. }) => Ok(agent),
                Ok(Named::Directory { .. }) => Err(DirectError::ClosedTargetDir(directory.clone())),
                _ => Err(DirectError::TargetDir(directory.clone())),
            };
        }
        let at = nearest_existing(files, &self.workspace_root);
        match files.named(at) {
            Ok(Named::Directory { writable: true, .. }) => Ok(agent),
            _ => Err(DirectError::WorkspaceRoot { root: self.workspace_root.clone(), at: at.to_owned() }),
        }
    }
}

fn nearest_existing<'a>(files: &impl Files, path: &'a Path) -> &'a Path {
    path.ancestors().find(|ancestor| files.kind(ancestor).is_ok()).unwrap_or(path)
}

/// A path that stays the same wherever a task runs.
fn absolute(path: impl AsRef<Path>) -> PathBuf {
    std::path::absolute(&path).unwrap_or_else(|_| path.as_ref().to_owned())
}
