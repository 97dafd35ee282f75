//! Why a call to an engine has no result.

use std::io;
use std::time::Duration;

use oz_worker_net::{AnswerError, DialError};

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{}{}", .0, hint(.0))]
    Dial(Box<DialError>),
    #[error("cannot start ssh: {0}")]
    Ssh(io::Error),
    #[error("ssh: {0}")]
    SshSaid(String),
    #[error("{0}")]
    Exchange(#[from] AnswerError),
    #[error("the engine said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// The engine's own words.
    #[error("{message} (HTTP {status})")]
    Status { status: u16, message: String },
    #[error("the engine's answer is not what its API says")]
    Form,
    #[error("nothing that speaks the Docker Engine API answers there")]
    NoVersion,
}

fn hint(error: &DialError) -> &'static str {
    let DialError::Socket { source, .. } = error else { return "" };
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; add the worker's user to the group that the socket belongs to (mostly docker; for a worker in a container: docker \
             run --group-add NUMBER), or set DOCKER_HOST"
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is the engine running? DOCKER_HOST says where else it is"
        }
        _ => "",
    }
}

impl EngineError {
    /// Whether nobody knows if the engine did what it was asked, or not even heard of it: it could not be reached, or the way
    /// broke. A proxy between says that by 502 and 504 (RFC 9110, section 15.6).
    pub const fn is_transport(&self) -> bool {
        matches!(self, Self::Dial(_) | Self::Ssh(_) | Self::SshSaid(_) | Self::Exchange(_) | Self::Silent(_))
            || matches!(self, Self::Status { status: 502 | 504, .. })
    }

    /// Whether the same call may succeed later by itself.
    pub fn is_passing(&self) -> bool {
        self.is_transport() || self.status() == Some(503)
    }

    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether it refuses since a name or a volume is in use. Podman says 500 of a name.
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409) || (self.status() == Some(500) && self.words().contains("in use"))
    }

    /// Whether what was asked for is not there.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    /// Whether it failed since what it needs is gone, or about to be: somebody cleans up beside.
    pub fn is_gone(&self) -> bool {
        let words = self.words();
        let going = [
            "is dead",
            "marked for removal",
            "being removed",
            "already in progress",
            "no such container",
            // Engine 29, of a container whose files are gone and whose name is not yet.
            "unexpectedly nil",
            // The same, of an image whose layers are.
            "parent snapshot",
        ];
        self.is_missing() || going.iter().any(|text| words.contains(text))
    }

    /// The engine's own words, in lower case.
    pub fn words(&self) -> String {
        match self {
            Self::Status { message, .. } => message.to_lowercase(),
            _ => String::new(),
        }
    }

    /// Whether the engine refuses the version of the API. Each words it in its own way.
    pub fn is_version(&self) -> bool {
        let words = self.words();
        matches!(self.status(), Some(400 | 404))
            && words.contains("version")
            && (words.contains("too new") || words.contains("too old"))
    }
}

impl From<DialError> for EngineError {
    fn from(error: DialError) -> Self {
        Self::Dial(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, message: &str) -> EngineError {
        EngineError::Status { status, message: message.into() }
    }

    #[test]
    fn whether_the_engine_heard_it_decides_what_may_be_tried_again() {
        for (error, is_transport, is_passing) in [
            (EngineError::Ssh(io::ErrorKind::NotFound.into()), true, true),
            (EngineError::SshSaid("x".into()), true, true),
            (EngineError::Silent(Duration::from_secs(1)), true, true),
            (said(502, ""), true, true),
            (said(504, ""), true, true),
            (said(503, ""), false, true),
            (said(500, ""), false, false),
            (EngineError::Form, false, false),
            (EngineError::NoVersion, false, false),
        ] {
            assert_eq!((error.is_transport(), error.is_passing()), (is_transport, is_passing), "{error:?}");
        }
    }

    #[test]
    fn a_refusal_is_known_by_its_status_and_its_words() {
        assert!(said(409, "Conflict").is_conflict() && said(500, "the name is In Use").is_conflict());
        assert!(!said(500, "no space left").is_conflict() && !said(404, "in use").is_conflict());
        assert!(said(404, "No such container").is_missing() && !said(500, "No such container").is_missing());
        assert!(!EngineError::Form.is_missing());
        assert!(said(404, "").is_gone() && said(409, "container 1 is dead or marked for removal").is_gone());
        assert!(!said(409, "is running").is_gone());
        for message in ["client version 1.99 is too new", "API Version 1.12 is too old"] {
            assert!(said(400, message).is_version() && said(404, message).is_version(), "{message}");
            assert!(!said(500, message).is_version(), "{message}");
        }
        assert!(!said(400, "the disk is too old").is_version() && !said(400, "no version").is_version());
    }

    #[test]
    fn who_cannot_reach_an_engine_is_told_what_may_help() {
        let hint_of = |kind: io::ErrorKind| {
            let dial = DialError::Socket { path: "/run/docker.sock".into(), source: kind.into() };
            EngineError::from(dial).to_string()
        };
        assert!(hint_of(io::ErrorKind::PermissionDenied).contains("; add the worker's user to the group"));
        assert!(hint_of(io::ErrorKind::NotFound).contains("; is the engine running?"));
        assert!(hint_of(io::ErrorKind::ConnectionRefused).contains("; is the engine running?"));
        assert!(!hint_of(io::ErrorKind::TimedOut).contains(';'));
    }
}
