//! A task assignment as the server sends it: what decides what runs, borrowed from the frame.
//!
//! Every field may be absent or null. A field that decides what runs and has another type than `docs/protocol.md` says
//! makes the assignment malformed; a field that does not (a title, a date, a number of an owner) is ignored then.
//!
//! Nothing in here but the ids can be shown: prompts, variables and servers of the agent hold secrets.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A string that borrows from the frame when it holds no escape. An escape that stands for no character (`\ud83d` without
/// its other half) reads as U+FFFD, as it does for other readers of JSON in the field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Str<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Str<'de>;
            // Never shown, as that of `MapVisitor`.
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text.into())))
            }
            fn visit_borrowed_bytes<E>(self, text: &'de [u8]) -> Result<Str<'de>, E> {
                Ok(Str(with_replacements(text)))
            }
            fn visit_bytes<E>(self, text: &[u8]) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(with_replacements(text).into_owned())))
            }
        }
        // Asked for a string, serde_json refuses half an escape; asked for bytes, it gives it in three bytes of its own.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

/// The text, each half of a surrogate pair (three bytes: ED, A0 to BF, any) replaced by one U+FFFD.
fn with_replacements(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = core::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut whole = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, next)) = rest.split_first() {
        rest = if let [0xed, 0xa0..=0xbf, _, behind @ ..] = rest {
            whole.extend_from_slice("\u{fffd}".as_bytes());
            behind
        } else {
            whole.push(*first);
            next
        };
    }
    Cow::Owned(String::from_utf8_lossy(&whole).into_owned())
}

impl Str<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text without white space around it, when anything is left of it.
pub(crate) fn non_blank<'s>(text: Option<&'s Str<'_>>) -> Option<&'s str> {
    text.map(|text| text.0.trim()).filter(|text| !text.is_empty())
}

/// A string that nothing depends on: anything else in its place reads as none.
#[derive(Clone, PartialEq, Eq, Default)]
struct Lenient<'a>(Option<Str<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Lenient<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str(raw.get()).ok()))
    }
}

/// What is read from a JSON object and nothing else.
pub(crate) trait FromMap<'de>: Sized {
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

pub(crate) fn from_map<'de, T: FromMap<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct MapVisitor<T>(PhantomData<T>);
    impl<'de, T: FromMap<'de>> Visitor<'de> for MapVisitor<T> {
        type Value = T;
        // Never shown: what is no object is read once more, to say so.
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::from_map(map)
        }
    }
    deserializer.deserialize_map(MapVisitor(PhantomData))
}

/// A `T` from a JSON object: serde would also take an array for a struct.
#[derive(Clone)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> FromMap<'de> for Object<T> {
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_map(deserializer)
    }
}

/// A JSON object whose entries are kept in the order in which they came; of two with one name the later counts.
#[derive(Clone)]
pub(crate) struct Entries<'a, V>(pub(crate) Vec<(Str<'a>, V)>);

impl<V> Default for Entries<'_, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>> FromMap<'de> for Entries<'a, V> {
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Self(entries))
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Entries<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_map(deserializer)
    }
}

/// The data of a `task_assignment`, as far as the worker reads it.
#[derive(Clone, Deserialize)]
pub struct Assignment<'a> {
    #[allow(missing_docs)]
    #[serde(borrow)]
    pub task_id: Str<'a>,
    #[serde(borrow, default)]
    pub(crate) execution_id: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) task: Object<Task<'a>>,
    #[serde(borrow, default)]
    pub(crate) docker_image: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) sidecar_image: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) env_vars: Option<Entries<'a, Option<Str<'a>>>>,
    #[serde(borrow, default)]
    pub(crate) additional_sidecars: Option<Vec<Object<AssignedSidecar<'a>>>>,
    #[serde(borrow, default)]
    pub(crate) additional_oz_args: Option<Vec<Str<'a>>>,
    #[serde(default)]
    pub(crate) instance_shape: Option<Object<AssignedShape>>,
}

impl fmt::Debug for Assignment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (task_id, execution_id) = (self.task_id.as_str(), self.execution_id());
        f.debug_struct("Assignment")
            .field("task_id", &task_id)
            .field("execution_id", &execution_id)
            .finish_non_exhaustive()
    }
}

impl<'a> Assignment<'a> {
    /// The execution's id, when the server gave one.
    pub fn execution_id(&self) -> Option<&str> {
        self.execution_id.as_ref().map(Str::as_str)
    }

    /// The task's title, for people; empty when it has none.
    pub fn title(&self) -> &str {
        self.task.0.title.0.as_ref().map_or("", Str::as_str)
    }

    /// The id by which the agent knows the task: the task's own, and that of the assignment when it has none.
    pub(crate) fn agents_task_id(&self) -> &str {
        non_blank(self.task.0.id.0.as_ref()).unwrap_or(self.task_id.as_str())
    }

    /// The agent's configuration, when the task has one.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot<'a>> {
        self.task.0.agent_config_snapshot.as_ref().map(|snapshot| &snapshot.0)
    }

    /// Whether a team owns the task.
    pub(crate) fn is_owned_by_team(&self) -> bool {
        self.task.0.owner.as_ref().is_some_and(|owner| non_blank(owner.0.kind.as_ref()) == Some("TEAM"))
    }

    /// The harness that runs the task: `oz` when none is named.
    pub(crate) fn harness(&self) -> Option<&str> {
        non_blank(self.snapshot()?.harness.as_ref()?.0.kind.as_ref())
    }
}

#[derive(Clone, Deserialize)]
pub(crate) struct Task<'a> {
    #[serde(borrow, default)]
    id: Lenient<'a>,
    #[serde(borrow, default)]
    title: Lenient<'a>,
    #[serde(borrow, default)]
    owner: Option<Object<TaskOwner<'a>>>,
    // Large and rare: on the heap, so that an assignment stays small to move.
    #[serde(borrow, default)]
    agent_config_snapshot: Option<Box<Object<Snapshot<'a>>>>,
}

#[derive(Clone, Deserialize)]
struct TaskOwner<'a> {
    #[serde(borrow, default, rename = "Type")]
    kind: Option<Str<'a>>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct AssignedSidecar<'a> {
    #[serde(borrow, default)]
    pub(crate) image: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) mount_path: Option<Str<'a>>,
    #[serde(default)]
    pub(crate) read_write: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
pub(crate) struct AssignedShape {
    #[serde(default)]
    pub(crate) vcpus: Option<i64>,
    #[serde(default)]
    pub(crate) memory_gb: Option<i64>,
}

/// `agent_config_snapshot`, as far as it decides the agent's arguments.
// The names are the protocol's.
#[allow(clippy::struct_field_names)]
#[derive(Clone, Deserialize)]
pub(crate) struct Snapshot<'a> {
    #[serde(borrow, default)]
    pub(crate) environment_id: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) model_id: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) profile_id: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) skill_spec: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) mcp_servers: Option<Entries<'a, &'a RawValue>>,
    #[serde(default)]
    pub(crate) computer_use_enabled: Option<bool>,
    #[serde(default)]
    pub(crate) idle_timeout_minutes: Option<i64>,
    #[serde(borrow, default)]
    pub(crate) harness: Option<Object<Harness<'a>>>,
    #[serde(borrow, default)]
    pub(crate) inference_providers: Option<Object<InferenceProviders<'a>>>,
    #[serde(borrow, default)]
    pub(crate) session_sharing: Option<Object<SessionSharing<'a>>>,
    #[serde(default)]
    pub(crate) snapshot_disabled: Option<bool>,
    #[serde(default)]
    pub(crate) snapshot_upload_timeout_secs: Option<i64>,
    #[serde(default)]
    pub(crate) snapshot_script_timeout_secs: Option<i64>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Harness<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(crate) kind: Option<Str<'a>>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct InferenceProviders<'a> {
    #[serde(borrow, default)]
    pub(crate) aws: Option<Object<Aws<'a>>>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Aws<'a> {
    #[serde(default)]
    pub(crate) disabled: Option<bool>,
    #[serde(borrow, default)]
    pub(crate) role_arn: Option<Str<'a>>,
    #[serde(borrow, default)]
    pub(crate) region: Option<Str<'a>>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct SessionSharing<'a> {
    #[serde(borrow, default)]
    pub(crate) public_access: Option<Str<'a>>,
}

/// JSON without the white space between its tokens; everything else stays as it came.
pub(crate) fn compact(json: &RawValue) -> String {
    let mut compact = String::with_capacity(json.get().len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.get().chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        compact.push(c);
    }
    compact
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn compacting_keeps_strings_numbers_and_order() {
        let raw: &RawValue =
            serde_json::from_str("{ \"b\" : 1.50e3 ,\n\t\"a\":[ \"x \\\" y\\\\\" , 12345678901234567890.000 ] }")
                .unwrap();
        assert_eq!(compact(raw), r#"{"b":1.50e3,"a":["x \" y\\",12345678901234567890.000]}"#);
    }

    #[test]
    fn a_title_of_another_type_reads_as_none() {
        for title in ["7", "null", "[1,[2]]", r#"{"a":{}}"#, "true", "-1.5"] {
            let text =
                alloc::format!(r#"{{"task_id":"T","task":{{"title":{title},"owner":{{"Type":"TEAM","Id":"x"}}}}}}"#);
            let assignment: Assignment<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!(assignment.title(), "");
            assert!(assignment.is_owned_by_team());
        }
    }
}
