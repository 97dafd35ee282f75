//! What an engine says of a container, and what that means for its task.

use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{Failure, Outcome};
use serde::Deserialize;

/// What is known of a container (`GET /containers/{id}/json`), as far as a task's end depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub status: String,
    pub running: bool,
    pub exit_code: i64,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// When it was started; the year 1 says that it never was.
    pub started_at: String,
}

/// What that comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It was never started.
    Created,
    /// It goes on.
    Running,
    Exited {
        exit_code: i32,
        /// Whether the engine says that memory ran out.
        is_oom: bool,
    },
    /// The answer says nothing of all this. It is never taken for an end.
    Unknown,
}

impl ContainerState {
    /// Whether the engine is about to have no such container.
    pub fn is_going(&self) -> bool {
        matches!(self.status.as_str(), "removing" | "dead")
    }

    pub fn seen(&self) -> Seen {
        // Podman says `initialized` of one that is created, and `stopped` of one that has ended.
        match self.status.as_str() {
            _ if self.running => Seen::Running,
            "running" | "paused" | "restarting" | "stopping" => Seen::Running,
            "created" | "initialized" | "configured" => Seen::Created,
            "dead" | "removing" if self.started_at.is_empty() || self.started_at.starts_with("0001-") => Seen::Created,
            "exited" | "stopped" | "dead" | "removing" => {
                Seen::Exited { exit_code: code(self.exit_code), is_oom: self.oom_killed }
            }
            _ => Seen::Unknown,
        }
    }
}

/// The answer to a wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitAnswer {
    pub status_code: Option<i64>,
    pub error: Option<WaitError>,
}

/// Why a wait ended without the container's end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitError {
    pub message: String,
}

impl WaitAnswer {
    /// The exit code, when it says one.
    pub fn exit_code(&self) -> Option<i32> {
        let is_error = self.error.as_ref().is_some_and(|error| !error.message.is_empty());
        self.status_code.filter(|_| !is_error).map(code)
    }
}

/// An exit code as messages carry it.
fn code(code: i64) -> i32 {
    i32::try_from(code).unwrap_or(if code < 0 { i32::MIN } else { i32::MAX })
}

/// How a task ended whose container exited so. Only the engine's word makes it one that ran out of memory: 137 has other
/// reasons too.
pub fn outcome(exit_code: i32, is_oom: bool) -> Outcome {
    let (reason, message) = match exit_code {
        0 => return Outcome::Completed,
        _ if is_oom => (
            FailureReason::ContainerOom,
            format!("the container exited with code {exit_code}: the kernel killed a process of it for lack of memory"),
        ),
        _ => (FailureReason::ContainerExit, format!("the container exited with code {exit_code}")),
    };
    Outcome::Failed(Failure { reason, exit_code, message })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_what_the_engine_says() {
        let exited = |exit_code, is_oom| Seen::Exited { exit_code, is_oom };
        for (json, seen) in [
            (r#"{"Status":"running","Running":true,"ExitCode":0,"OOMKilled":true}"#, Seen::Running),
            (r#"{"Status":"paused","Running":true,"Paused":true}"#, Seen::Running),
            (r#"{"Status":"created","ExitCode":0}"#, Seen::Created),
            (r#"{"Status":"created","ExitCode":127,"Error":"no such file"}"#, Seen::Created),
            (r#"{"Status":"exited","ExitCode":3}"#, exited(3, false)),
            (r#"{"Status":"exited","ExitCode":137,"OOMKilled":true}"#, exited(137, true)),
            (r#"{"Status":"dead","ExitCode":255,"StartedAt":"2026-01-01T00:00:00Z"}"#, exited(255, false)),
            (r#"{"Status":"removing","ExitCode":0,"StartedAt":"2026-01-01T00:00:00Z"}"#, exited(0, false)),
            (r#"{"Status":"removing","ExitCode":0,"StartedAt":"0001-01-01T00:00:00Z"}"#, Seen::Created),
            (r#"{"Status":"removing","ExitCode":0}"#, Seen::Created),
            (r#"{"Status":"exited","ExitCode":99999999999}"#, exited(i32::MAX, false)),
            (r#"{"Status":"exited","ExitCode":-99999999999}"#, exited(i32::MIN, false)),
            // Podman's words, and what is only in the one field or the other.
            (r#"{"Status":"stopping"}"#, Seen::Running),
            (r#"{"Status":"restarting","ExitCode":1}"#, Seen::Running),
            (r#"{"Status":"","Running":true}"#, Seen::Running),
            (r#"{"Status":"initialized"}"#, Seen::Created),
            (r#"{"Status":"stopped","ExitCode":3}"#, exited(3, false)),
            (r#"{"ExitCode":0}"#, Seen::Unknown),
            (r#"{"Status":"of a later version"}"#, Seen::Unknown),
        ] {
            assert_eq!(serde_json::from_str::<ContainerState>(json).unwrap().seen(), seen, "{json}");
        }
    }

    #[test]
    fn a_container_is_going_while_the_engine_removes_it_or_could_not() {
        let is_going = |status: &str| ContainerState { status: status.into(), ..ContainerState::default() }.is_going();
        assert!(is_going("removing") && is_going("dead"));
        assert!(!is_going("exited") && !is_going("running") && !is_going(""));
    }

    #[test]
    fn a_wait_gives_a_code_or_none() {
        for (json, code) in [
            (r#"{"StatusCode":0}"#, Some(0)),
            (r#"{"StatusCode":137,"Error":null}"#, Some(137)),
            (r#"{"StatusCode":1,"Error":{"Message":""}}"#, Some(1)),
            (r#"{"StatusCode":0,"Error":{"Message":"gone"}}"#, None),
            ("{}", None),
        ] {
            assert_eq!(serde_json::from_str::<WaitAnswer>(json).unwrap().exit_code(), code, "{json}");
        }
    }

    #[test]
    fn only_the_engines_word_makes_it_a_lack_of_memory() {
        let reason = |code, is_oom| match outcome(code, is_oom) {
            Outcome::Failed(failure) => Some((failure.reason, failure.exit_code)),
            _ => None,
        };
        assert_eq!(reason(0, false), None);
        assert_eq!(reason(0, true), None);
        assert_eq!(reason(137, false), Some((FailureReason::ContainerExit, 137)));
        assert_eq!(reason(137, true), Some((FailureReason::ContainerOom, 137)));
    }
}
