//! What backend `command` is told.

use std::ffi::OsStr;
use std::time::Duration;

use oz_worker_contract::machine::check_shell;
use oz_worker_contract::{Configure, Facts};
use oz_worker_core::AfterKill;
use oz_worker_core::agent::AgentSettings;
use oz_worker_core::secret::Variables;
use oz_worker_runtime::Files;
use oz_worker_text::duration;
use oz_worker_text::section::{Section, Vocabulary};
use oz_worker_text::yaml::Position;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// For `/bin/sh -c`; hands a task to the operator's runtime.
    pub dispatch_command: String,
    /// For `/bin/sh -c`; cancels a dispatched task.
    pub cancel_command: Option<String>,
    /// How long `dispatch_command` may take; never zero.
    pub dispatch_timeout: Duration,
}

impl CommandSettings {
    /// `dispatch_timeout` when the file has none.
    pub const DISPATCH_TIMEOUT: Duration = Duration::from_secs(60);
}

impl Configure for CommandSettings {
    const NAME: &'static str = "command";
    const VOCABULARY: &'static Vocabulary =
        &[("backend.command", &["dispatch_command", "cancel_command", "dispatch_timeout", "environment"])];
    // Of those that are being handed over. The others are no longer here.
    const STOPS_TASKS: bool = true;
    const AFTER_KILL: AfterKill = AfterKill::IsCancelled;

    fn unconfigured() -> Option<Self> {
        None
    }

    fn read(section: &Section, parent: &Section, at: Position) -> Option<Self> {
        let dispatch_command = section.command("dispatch_command");
        // One that is there but wrong has its own line already.
        if dispatch_command.is_none() && section.get("dispatch_command").is_none_or(|node| node.text("").is_some()) {
            parent.problem(at, "command", "dispatch_command is missing: the command that hands a task to your runtime");
        }
        let dispatch_timeout = section.parsed("dispatch_timeout", |text| match duration::parse(text) {
            Ok(Duration::ZERO) => Err("must be longer than 0, or no task could be dispatched".to_owned()),
            other => other.map_err(|error| error.to_string()),
        });
        Some(Self {
            dispatch_command: dispatch_command?,
            cancel_command: section.command("cancel_command"),
            dispatch_timeout: dispatch_timeout.unwrap_or(Self::DISPATCH_TIMEOUT),
        })
    }

    /// The operator's variables are for the operator's commands, and do not travel to where tasks run.
    fn adjust(&self, agent: &mut AgentSettings) {
        agent.environment = Variables::default();
    }

    fn check(&self, facts: &mut Facts, files: &impl Files, _: Option<&OsStr>) -> Result<(), String> {
        check_shell(files, Self::NAME).map_err(|error| error.to_string())?;
        facts.configured("dispatch command", Some(&self.dispatch_command));
        facts.add("dispatch timeout", duration::show(self.dispatch_timeout));
        facts.configured("cancel command", self.cancel_command.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_variables_do_not_travel_to_where_tasks_run() {
        let settings = CommandSettings {
            dispatch_command: "x".into(),
            cancel_command: None,
            dispatch_timeout: CommandSettings::DISPATCH_TIMEOUT,
        };
        let environment = [("A", "canary")].into_iter().collect();
        let mut agent = AgentSettings { environment, ..AgentSettings::default() };
        settings.adjust(&mut agent);
        assert_eq!(agent.environment, Variables::default());
    }
}
