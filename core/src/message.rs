//! The messages between server and worker, and their JSON: `docs/protocol.md`, "Messages".

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::assignment::{Assignment, Entries, FromMap, Object, Str, from_map};
use crate::flaw::{Flaw, read};
use crate::metrics::{FailureReason, RejectReason};
use crate::outcome::Failure;

/// What the server says.
// Read in place and never stored: boxing the large one would cost an allocation a frame.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum ServerMessage<'a> {
    TaskAssignment(Assignment<'a>),
    /// The user cancelled the task.
    TaskCancellation {
        task_id: Cow<'a, str>,
    },
}

/// Why a text frame is not a message of the protocol. None of it carries the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DecodeError<'a> {
    /// The text is not one JSON object.
    NotJson,
    /// The `type` is missing, or none that the protocol has.
    UnknownType {
        /// The type, at most its first 64 characters.
        message_type: Option<String>,
    },
    /// The `data` lacks a required field, or holds one of another type.
    Malformed { message_type: &'static str, flaw: Flaw },
    /// A `task_assignment` that names its task but cannot otherwise be understood.
    MalformedAssignment {
        task_id: Cow<'a, str>,
        /// When that much can be read.
        execution_id: Option<Cow<'a, str>>,
        flaw: Flaw,
    },
}

/// What the worker says. The texts are for whoever reads the task's page at the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum WorkerMessage {
    TaskClaimed {
        task_id: String,
        worker_id: String,
    },
    /// The worker does not take the task.
    TaskRejected {
        task_id: String,
        /// Why, in words.
        reason: &'static str,
    },
    /// The task ended without failing.
    TaskCompleted {
        task_id: String,
        /// How, in words.
        message: &'static str,
        /// `CANCELLED` after a user's cancellation, else left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        task_state: Option<&'static str>,
    },
    TaskFailed {
        task_id: String,
        /// How, in words.
        message: String,
        /// As metrics name it.
        #[serde(serialize_with = "as_label")]
        failure_reason: FailureReason,
        /// The exit code of what failed; left out when there is none, or when it is 0.
        #[serde(skip_serializing_if = "is_zero")]
        exit_code: i32,
    },
}

/// What failed, when the worker was told to stop before the task had finished.
pub(crate) const SHUT_DOWN: &str = "the worker was shut down while the task ran";
/// What failed, when a restart finds a task that nothing is left of.
pub(crate) const KILLED: &str = "the worker was killed while the task ran";
/// What failed, when the end of a task was lost inside the worker.
pub(crate) const NO_OUTCOME: &str = "internal error of the worker: it does not know how the task ended";

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde asks for
fn as_label<S: serde::Serializer>(reason: &FailureReason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

// `skip_serializing_if` hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(code: &i32) -> bool {
    *code == 0
}

impl WorkerMessage {
    /// The declined assignment of a task.
    pub(crate) fn rejected(task_id: &str, reason: RejectReason) -> Self {
        let reason = match reason {
            RejectReason::AtCapacity => "worker at maximum concurrency",
            RejectReason::ShuttingDown => "worker is shutting down",
            RejectReason::AlreadyRunning => "task is already running on this worker",
            RejectReason::NotReady => "worker is not ready",
        };
        Self::TaskRejected { task_id: task_id.into(), reason }
    }

    /// The end of a task that ran and exited 0.
    pub(crate) fn succeeded(task_id: &str) -> Self {
        Self::TaskCompleted { task_id: task_id.into(), message: "Task completed successfully", task_state: None }
    }

    /// The end of a task that its user cancelled.
    pub(crate) fn cancelled(task_id: &str) -> Self {
        let (message, task_state) = ("Task cancelled by user request.", Some("CANCELLED"));
        Self::TaskCompleted { task_id: task_id.into(), message, task_state }
    }

    /// The end of a task that failed.
    pub(crate) fn failed(task_id: &str, failure: &Failure) -> Self {
        Self::TaskFailed {
            task_id: task_id.into(),
            message: failure.message.clone(),
            failure_reason: failure.reason,
            exit_code: failure.exit_code,
        }
    }

    /// The answer to an assignment that cannot be understood.
    pub(crate) fn not_understood(task_id: &str, flaw: &Flaw) -> Self {
        Self::TaskFailed {
            task_id: task_id.into(),
            message: format!("The assignment could not be understood: {flaw}"),
            failure_reason: FailureReason::Unknown,
            exit_code: 0,
        }
    }

    #[allow(missing_docs)]
    pub fn task_id(&self) -> &str {
        match self {
            Self::TaskClaimed { task_id, .. }
            | Self::TaskRejected { task_id, .. }
            | Self::TaskCompleted { task_id, .. }
            | Self::TaskFailed { task_id, .. } => task_id,
        }
    }

    /// Whether it ends its task.
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::TaskCompleted { .. } | Self::TaskFailed { .. })
    }

    /// The message as the text of one frame.
    pub fn encode(&self) -> String {
        // Strings and integers only: there is nothing in it that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}

const ASSIGNMENT: &str = "task_assignment";
const CANCELLATION: &str = "task_cancellation";

#[derive(Deserialize)]
struct Cancellation<'a> {
    #[serde(borrow)]
    task_id: Str<'a>,
}

/// Reads one text frame.
///
/// # Errors
/// [`DecodeError`], which says what may be logged and whether the server can be answered.
pub fn decode(text: &str) -> Result<ServerMessage<'_>, DecodeError<'_>> {
    match serde_json::from_str::<Envelope<'_>>(text) {
        Ok(Envelope::Known(message)) => Ok(message),
        // The common case is over. What is left is odd or bad input, read a second time: with more patience, and to say what is
        // wrong with it.
        Ok(Envelope::Unknown) | Err(_) => decode_patiently(text),
    }
}

/// The `task` of an assignment exactly as it came, unknown fields included.
pub(crate) fn raw_task(text: &str) -> Option<&RawValue> {
    let fields = |json| serde_json::from_str::<Fields<'_>>(json).ok();
    last(&fields(last(&fields(text)?, "data")?.get())?, "task")
}

/// The fields of an object, each as it came.
type Fields<'a> = Entries<'a, &'a RawValue>;

/// The value of the last field of this name.
fn last<'a>(Entries(fields): &Fields<'a>, name: &str) -> Option<&'a RawValue> {
    fields.iter().rev().find(|(known, _)| known.as_str() == name).map(|(_, value)| *value)
}

/// A frame, read in one pass when `type` stands before `data`, as servers write it.
#[allow(clippy::large_enum_variant)] // as for `ServerMessage`
enum Envelope<'a> {
    Known(ServerMessage<'a>),
    Unknown,
}

impl<'de: 'a, 'a> Deserialize<'de> for Envelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_map(deserializer)
    }
}

impl<'de: 'a, 'a> FromMap<'de> for Envelope<'a> {
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut message_type: Option<Str<'de>> = None;
        let mut message = None;
        while let Some(key) = map.next_key::<Str<'de>>()? {
            match (key.as_str(), message_type.as_ref().map(Str::as_str)) {
                // What was read by the first type is read once more, by the last.
                ("type", Some(_)) => return Err(A::Error::duplicate_field("type")),
                ("type", None) => message_type = Some(map.next_value()?),
                ("data", Some(ASSIGNMENT)) => message = Some(assignment(map.next_value()?)),
                ("data", Some(CANCELLATION)) => message = Some(cancellation(map.next_value()?)),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(message.map_or(Envelope::Unknown, Envelope::Known))
    }
}

fn assignment(Object(assignment): Object<Assignment<'_>>) -> ServerMessage<'_> {
    ServerMessage::TaskAssignment(assignment)
}

fn cancellation(Object(Cancellation { task_id }): Object<Cancellation<'_>>) -> ServerMessage<'_> {
    ServerMessage::TaskCancellation { task_id: task_id.0 }
}

fn decode_patiently(text: &str) -> Result<ServerMessage<'_>, DecodeError<'_>> {
    let fields = serde_json::from_str::<Fields<'_>>(text).map_err(|_| DecodeError::NotJson)?;
    let message_type = last(&fields, "type").and_then(string);
    let data = last(&fields, "data").map_or("null", RawValue::get);
    match message_type.as_deref() {
        Some(ASSIGNMENT) => read::<Object<Assignment<'_>>>(data).map(assignment).map_err(|flaw| malformed(data, flaw)),
        Some(CANCELLATION) => read::<Object<Cancellation<'_>>>(data)
            .map(cancellation)
            .map_err(|flaw| DecodeError::Malformed { message_type: CANCELLATION, flaw }),
        other => Err(DecodeError::UnknownType { message_type: other.map(|text| text.chars().take(64).collect()) }),
    }
}

/// An assignment with this flaw. Whatever names its task can be answered.
fn malformed(data: &str, flaw: Flaw) -> DecodeError<'_> {
    let fields = serde_json::from_str::<Fields<'_>>(data).unwrap_or_default();
    let id = |name| last(&fields, name).and_then(string);
    match id("task_id") {
        Some(task_id) => DecodeError::MalformedAssignment { task_id, execution_id: id("execution_id"), flaw },
        None => DecodeError::Malformed { message_type: ASSIGNMENT, flaw },
    }
}

fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Str<'_>>(raw.get()).ok().map(|text| text.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::flaw::FlawKind::{self, WrongType};
    use crate::flaw::JsonType;

    #[test]
    fn optional_fields_that_are_unset_are_left_out() {
        let failed = WorkerMessage::TaskFailed {
            task_id: "T".into(),
            message: "no".into(),
            failure_reason: FailureReason::SetupCommand,
            exit_code: 0,
        };
        assert_eq!(
            failed.encode(),
            r#"{"type":"task_failed","data":{"task_id":"T","message":"no","failure_reason":"setup_command"}}"#
        );
        let completed = WorkerMessage::TaskCompleted { task_id: "T".into(), message: "yes", task_state: None };
        assert_eq!(completed.encode(), r#"{"type":"task_completed","data":{"task_id":"T","message":"yes"}}"#);
    }

    #[test]
    fn the_order_of_type_and_data_does_not_matter() {
        let text = r#"{"data":{"task":{},"task_id":"T"},"type":"task_assignment"}"#;
        assert!(matches!(decode(text), Ok(ServerMessage::TaskAssignment(a)) if a.task_id.as_str() == "T"));
        assert_eq!(raw_task(text).unwrap().get(), "{}");
    }

    #[test]
    fn what_servers_write_is_read_in_one_pass() {
        for text in [
            r#"{"type":"task_assignment","data":{"task_id":"T","task":{}}}"#,
            r#"{"type":"task_cancellation","data":{"task_id":"T"}}"#,
        ] {
            let envelope: Envelope<'_> = serde_json::from_str(text).unwrap();
            assert!(matches!(envelope, Envelope::Known(_)), "{text}");
        }
    }

    /// Half an escape, as some servers write half an emoji that was cut; and a name that stands twice.
    #[test]
    fn what_other_readers_of_json_take_is_taken() {
        for text in [
            r#"{"type":"task_assignment","data":{"task_id":"T\ud83d","task":{}}}"#,
            r#"{"type":"task_assignment","data":{"task_id":"x","task_id":"T\udc00","task":{}}}"#,
            r#"{"type":"task_assignment","data":{"task_id":"T\ud83d","task":{},"\ud83d":["\udfff"]}}"#,
            r#"{"type":"task_assignment","data":{"task_id":"T\ud83d","task":{},"env_vars":{"A":"\ud83dx"}}}"#,
            r#"{"type":"task_assignment","data":{"task_id":"T\ud83d","task":7,"task":{}}}"#,
            r#"{"type":"task_assignment","data":7,"data":{"task_id":"T\ud83d","task":{}}}"#,
            r#"{"data":7,"type":"task_assignment","data":{"task_id":"T\ud83d","task":{}}}"#,
            r#"{"type":"task_cancellation","data":{"task_id":"T\ud83d","task":{}},"type":"task_assignment"}"#,
            r#"{"\ud83d":7,"type":"x","type":"task_assignment","data":{"task_id":"T\ud83d","task":{}}}"#,
        ] {
            let Ok(ServerMessage::TaskAssignment(assignment)) = decode(text) else {
                panic!("{text}: {:?}", decode(text))
            };
            assert_eq!(assignment.task_id.as_str(), "T\u{fffd}", "{text}");
            assert_eq!(raw_task(text).unwrap().get(), "{}", "{text}");
        }
        // Bytes that look like a surrogate's and are text of their own; pairs are one character.
        for (json, expected) in [
            (r#""\ud83d\ude00\ud83d\ud83d\ude00""#, "😀\u{fffd}😀"),
            ("\"\u{d7ff}\u{e000}\\udc00\"", "\u{d7ff}\u{e000}\u{fffd}"),
            (r#""\ud800\u0041\n\udbff""#, "\u{fffd}A\n\u{fffd}"),
        ] {
            assert_eq!(serde_json::from_str::<Str<'_>>(json).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn what_names_a_task_is_answered_however_it_is_written() {
        for text in [
            r#"{"type":"task_assignment","data":{"task_id":"T\ud83d","task":7}}"#,
            r#"{"type":"task_assignment","data":{"task_id":"T\ud83d"}}"#,
            r#"{"type":"task_assignment","data":{"\ud83d":1,"task_id":7,"task_id":"T\ud83d","task":{},"task":null}}"#,
        ] {
            let Err(DecodeError::MalformedAssignment { task_id, .. }) = decode(text) else { panic!("{text}") };
            assert_eq!(task_id, "T\u{fffd}", "{text}");
        }
    }

    #[test]
    fn bad_frames_say_what_is_wrong_and_never_what_they_hold() {
        let wrong = |field: &str, expected, found| Flaw { field: field.into(), kind: WrongType { expected, found } };
        let malformed = |message_type, flaw| DecodeError::Malformed { message_type, flaw };
        let of_task = |flaw| DecodeError::MalformedAssignment { task_id: "T".into(), execution_id: None, flaw };
        for (text, expected) in [
            ("", DecodeError::NotJson),
            ("hello", DecodeError::NotJson),
            ("[]", DecodeError::NotJson),
            (r#"{"type":"task_assignment","data":{}} x"#, DecodeError::NotJson),
            ("{}", DecodeError::UnknownType { message_type: None }),
            (r#"{"type":7}"#, DecodeError::UnknownType { message_type: None }),
            (r#"{"type":"ping","data":{}}"#, DecodeError::UnknownType { message_type: Some("ping".into()) }),
            (
                r#"{"type":"task_cancellation","data":{"task_id":null}}"#,
                malformed(CANCELLATION, wrong("task_id", JsonType::String, JsonType::Null)),
            ),
            (r#"{"type":"task_assignment"}"#, malformed(ASSIGNMENT, wrong("", JsonType::Object, JsonType::Null))),
            (
                r#"{"type":"task_assignment","data":["T"]}"#,
                malformed(ASSIGNMENT, wrong("", JsonType::Object, JsonType::List)),
            ),
            (
                r#"{"type":"task_assignment","data":{"task_id":"T","execution_id":"E","task":"s3cret, expected x"}}"#,
                DecodeError::MalformedAssignment {
                    task_id: "T".into(),
                    execution_id: Some("E".into()),
                    flaw: wrong("task", JsonType::Object, JsonType::String),
                },
            ),
            (
                r#"{"type":"task_assignment","data":{"task_id":"T","task":{},"env_vars":7}}"#,
                of_task(wrong("env_vars", JsonType::Object, JsonType::Number)),
            ),
            (
                r#"{"type":"task_assignment","data":{"task_id":"T"}}"#,
                of_task(Flaw { field: "task".into(), kind: FlawKind::Missing }),
            ),
        ] {
            assert_eq!(decode(text).unwrap_err(), expected, "{text}");
        }
    }
}
