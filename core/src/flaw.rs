//! Why a message cannot be read: in which field, and what is wrong there. Nothing of what stands in it.
//!
//! What serde says of a wrong field repeats the field's value. So the data is read once more, by a deserializer whose errors
//! are facts; `serde_path_to_error` gives the place. This one is also the more patient: of a name that stands twice in an
//! object, the last counts.

use alloc::borrow::Cow;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Display, Write};

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, StdError, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;
use serde_path_to_error::{Path, Segment};

use crate::assignment::{Entries, Str};

/// The longest name of a field that is shown, in bytes.
const LONGEST_NAME: usize = 64;

/// What keeps a message from being read. None of it carries a value of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Flaw {
    /// The field, as a path below the message's `data`: `task.owner`, `additional_oz_args[1]`. Empty for `data` itself.
    ///
    /// A name that is not made of at most 64 ASCII letters, digits and `_`, as a variable's is, stands there as `?`.
    pub field: String,
    pub kind: FlawKind,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FlawKind {
    /// It is required, and not there.
    Missing,
    /// It is of another type.
    WrongType { expected: JsonType, found: JsonType },
    /// Nothing more precise is known.
    Unreadable,
}

/// What a JSON value can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum JsonType {
    Null,
    Boolean,
    Number,
    /// A number without a fraction that 64 bits can hold.
    WholeNumber,
    String,
    /// An array.
    List,
    Object,
}

impl Flaw {
    const fn here(kind: FlawKind) -> Self {
        Self { field: String::new(), kind }
    }
}

fn shown(path: &Path) -> String {
    let mut shown = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                let _ = write!(shown, "[{index}]");
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                let is_name = key.len() <= LONGEST_NAME && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                if !shown.is_empty() {
                    shown.push('.');
                }
                shown.push_str(if is_name { key } else { "?" });
            }
            Segment::Unknown => shown.push('?'),
        }
    }
    shown
}

impl Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { "data" } else { &self.field };
        match self.kind {
            FlawKind::Missing => write!(f, "{field} is missing"),
            FlawKind::WrongType { expected, found } => write!(f, "{field} must be {expected}, not {found}"),
            FlawKind::Unreadable => write!(f, "{field} cannot be read"),
        }
    }
}

impl Display for JsonType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "true or false",
            Self::Number => "a number",
            Self::WholeNumber => "a whole number of 64 bits",
            Self::String => "a string",
            Self::List => "a list",
            Self::Object => "an object",
        })
    }
}

impl StdError for Flaw {}

impl Error for Flaw {
    fn custom<T: Display>(_: T) -> Self {
        Self::here(FlawKind::Unreadable)
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: field.into(), kind: FlawKind::Missing }
    }
}

/// Reads the JSON text `data`, which has no white space around it, as a `T`.
///
/// # Errors
/// What keeps it from being one.
pub(crate) fn read<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, Flaw> {
    serde_path_to_error::deserialize::<_, T>(Json(data)).map_err(|error| {
        let mut field = shown(error.path());
        let Flaw { field: name, kind } = error.into_inner();
        if !(field.is_empty() || name.is_empty()) {
            field.push('.');
        }
        Flaw { field: field + &name, kind }
    })
}

/// The text of one JSON value, without white space around it. What it is asked for and is not, it says as a fact.
#[derive(Clone, Copy)]
struct Json<'de>(&'de str);

impl<'de> Json<'de> {
    fn kind(self) -> JsonType {
        match self.0.as_bytes().first() {
            Some(b'n') => JsonType::Null,
            Some(b't' | b'f') => JsonType::Boolean,
            Some(b'"') => JsonType::String,
            Some(b'[') => JsonType::List,
            Some(b'{') => JsonType::Object,
            _ => JsonType::Number,
        }
    }

    fn read<T: Deserialize<'de>>(self, expected: JsonType) -> Result<T, Flaw> {
        serde_json::from_str(self.0).map_err(|_| {
            let found = self.kind();
            // The text is JSON: what is of the right type can be read.
            Flaw::here(if found == expected { FlawKind::Unreadable } else { FlawKind::WrongType { expected, found } })
        })
    }
}

impl<'de> IntoDeserializer<'de, Flaw> for Json<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Json<'de> {
    type Error = Flaw;

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_bool(self.read(JsonType::Boolean)?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_i64(self.read(JsonType::WholeNumber)?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        let Str(text) = self.read(JsonType::String)?;
        match text {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_str(&text),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        let items: Vec<&'de RawValue> = self.read(JsonType::List)?;
        visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(|item| Json(item.get()))))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        let Entries(entries) = self.read::<Entries<'de, &'de RawValue>>(JsonType::Object)?;
        let entries = last_of_each_name(entries);
        visitor.visit_map(MapDeserializer::new(entries.into_iter().map(|(name, value)| (name.0, Json(value.get())))))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        if self.kind() == JsonType::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Flaw> {
        visitor.visit_unit()
    }

    /// A value that is kept as it came, of any type.
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Flaw> {
        let mut json = serde_json::Deserializer::from_str(self.0);
        json.deserialize_newtype_struct(name, visitor).map_err(|_| Flaw::here(FlawKind::Unreadable))
    }

    /// No message has a field of yet another type.
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Flaw> {
        Err(Flaw::here(FlawKind::Unreadable))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char string byte_buf unit unit_struct tuple tuple_struct struct
        enum identifier
    }
}

/// The entries without those whose name stands once more behind them.
fn last_of_each_name<V>(entries: Vec<(Str<'_>, V)>) -> Vec<(Str<'_>, V)> {
    let mut known = BTreeSet::new();
    let is_last: Vec<bool> = entries.iter().rev().map(|(name, _)| known.insert(name.as_str())).collect();
    entries.into_iter().zip(is_last.into_iter().rev()).filter_map(|(entry, is_last)| is_last.then_some(entry)).collect()
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use crate::message::{DecodeError, decode};

    #[test]
    fn a_flaw_is_said_with_its_place_in_words() {
        let long = "A".repeat(65);
        for (rest, words) in [
            (r#""task":{"owner":{"Type":7}}"#, "task.owner.Type must be a string, not a number"),
            (r#""task":{"agent_config_snapshot":[]}"#, "task.agent_config_snapshot must be an object, not a list"),
            (
                r#""task":{"agent_config_snapshot":{"idle_timeout_minutes":1.5}}"#,
                "task.agent_config_snapshot.idle_timeout_minutes must be a whole number of 64 bits, not a number",
            ),
            (
                r#""task":{"agent_config_snapshot":{"mcp_servers":{"a":1,"b":null},"snapshot_disabled":"yes"}}"#,
                "task.agent_config_snapshot.snapshot_disabled must be true or false, not a string",
            ),
            (
                r#""task":{},"additional_oz_args":["a",false]"#,
                "additional_oz_args[1] must be a string, not true or false",
            ),
            (
                r#""task":{},"additional_sidecars":[{},{"read_write":{}}]"#,
                "additional_sidecars[1].read_write must be true or false, not an object",
            ),
            (r#""task":{},"additional_oz_args":{}"#, "additional_oz_args must be a list, not an object"),
            (r#""task":{},"env_vars":{"A":null,"MY_1":7}"#, "env_vars.MY_1 must be a string, not a number"),
            (r#""task":{},"env_vars":{"s3\ncret":7}"#, "env_vars.? must be a string, not a number"),
            (&format!(r#""task":{{}},"env_vars":{{"{long}":7}}"#), "env_vars.? must be a string, not a number"),
            (
                &format!(r#""task":{{}},"env_vars":{{"{}":7}}"#, &long[1..]),
                &format!("env_vars.{} must be a string, not a number", &long[1..]),
            ),
            (r#""task":{},"task":"\ud800""#, "task must be an object, not a string"),
            (r#""task":{"owner":{"Type":"a","Type":7}}"#, "task.owner.Type must be a string, not a number"),
            (
                r#""task":{"unknown":[7,{}],"agent_config_snapshot":null},"\ud800":"\ud800","sidecar_image":7"#,
                "sidecar_image must be a string, not a number",
            ),
            (
                r#""task":{},"instance_shape":{"vcpus":null,"memory_gb":9223372036854775808}"#,
                "instance_shape.memory_gb must be a whole number of 64 bits, not a number",
            ),
        ] {
            let text = format!(r#"{{"type":"task_assignment","data":{{"task_id":"T",{rest}}}}}"#);
            let Err(DecodeError::MalformedAssignment { flaw, .. }) = decode(&text) else { panic!("{text}") };
            assert_eq!(flaw.to_string(), words, "{text}");
        }
        let Err(DecodeError::Malformed { flaw, .. }) = decode(r#"{"type":"task_cancellation","data":{}}"#) else {
            panic!()
        };
        assert_eq!(flaw.to_string(), "task_id is missing");
        let Err(DecodeError::Malformed { flaw, .. }) = decode(r#"{"type":"task_cancellation"}"#) else { panic!() };
        assert_eq!(flaw.to_string(), "data must be an object, not null");
    }
}
