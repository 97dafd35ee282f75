//! A YAML file as a tree that remembers where everything stands, so that an error can name line, column and key.
//!
//! Scalars keep their source text beside their type: `version: 1.10` read as text is `1.10`, not `1.1`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::granit_parser::ErrorKind;
use serde_saphyr::localizer::ExternalMessageSource;
use serde_saphyr::{DuplicateKeyPolicy, Error, NonFiniteFloatPolicy, Spanned};

/// A place in the file, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where the value begins; for an alias, where the alias stands.
    pub at: Position,
    pub value: Value,
    /// Where the value is written, as bytes of the source; behind an alias, its anchor's.
    span: Option<(usize, usize)>,
}

#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// A plain `true` or `false`.
    Bool(bool),
    /// A plain number.
    Number(serde_json::Number),
    /// What is written as a plain number that JSON does not have: `.inf`, or `61e9540`, which is more likely a name.
    NotFinite,
    /// Anything quoted, and plain text that is neither of the above.
    Text(String),
    List(Vec<Node>),
    /// A mapping, in the order of the file, repeated keys included.
    Map(Vec<Entry>),
}

/// One key of a mapping and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key, as written.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    pub value: Node,
}

impl Node {
    /// What the node is, for an error message.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) | Value::NotFinite => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// A scalar as text: what is quoted, or else what is written. `source` is the text the node was parsed from. `None`
    /// for null, lists and mappings.
    pub fn text<'a>(&'a self, source: &'a str) -> Option<&'a str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Number(_) | Value::NotFinite => self.written(source),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Whether the node is a scalar without quotes, written out in full on one line.
    pub fn is_plain(&self, source: &str) -> bool {
        match &self.value {
            Value::Text(text) => self.written(source) == Some(text),
            Value::Bool(_) | Value::Number(_) | Value::NotFinite => true,
            Value::Null | Value::List(_) | Value::Map(_) => false,
        }
    }

    fn written<'a>(&self, source: &'a str) -> Option<&'a str> {
        let (start, length) = self.span?;
        source.get(start..start.checked_add(length)?).map(str::trim)
    }

    /// The node as untyped JSON, as Kubernetes wants it: whole numbers stay whole, and what is no number of JSON is text. `source`
    /// is the text the node was parsed from.
    ///
    /// # Errors
    /// The first key that stands twice in one mapping: its path below this node (`.a[0].b`) and its place.
    pub fn to_json(&self, source: &str) -> Result<serde_json::Value, (String, Position)> {
        Ok(match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => text.as_str().into(),
            Value::NotFinite => self.written(source).unwrap_or_default().into(),
            Value::List(items) => {
                let item = |(index, item): (usize, &Self)| {
                    item.to_json(source).map_err(|(path, at)| (format!("[{index}]{path}"), at))
                };
                items.iter().enumerate().map(item).collect::<Result<Vec<_>, _>>()?.into()
            }
            Value::Map(entries) => {
                let mut map = serde_json::Map::new();
                for Entry { key, at, value } in entries {
                    let value = value.to_json(source).map_err(|(path, at)| (format!(".{key}{path}"), at))?;
                    if map.insert(key.clone(), value).is_some() {
                        return Err((format!(".{key}"), *at));
                    }
                }
                map.into()
            }
        })
    }
}

/// Why a text is not YAML, and where, when the parser knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flaw}")]
pub struct SyntaxError {
    /// Where it ceases to make sense.
    pub at: Option<Position>,
    pub flaw: YamlFlaw,
}

/// What is wrong with a text that should be YAML. Nothing of the text is in it: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlFlaw {
    /// The text goes on after a document.
    #[error("a second YAML document begins here; the file must hold one")]
    SecondDocument,
    /// An alias without its anchor.
    #[error("not valid YAML: the alias names no anchor that stands before it")]
    UnknownAnchor,
    /// `<<` with something else than mappings.
    #[error("not valid YAML: a merge key (<<) takes a mapping, or a list of mappings")]
    Merge,
    /// A tag that names no type of JSON, or another than the value's.
    #[error("not valid YAML here: a tag (!…) that is not known, or does not fit")]
    Tag,
    /// Deeper, longer or with more aliases than any real file.
    #[error("the file is nested too deep, or its aliases make too much of it")]
    TooLarge,
    #[error("not valid YAML: {0}")]
    Syntax(ErrorKind),
    /// Something else should stand here, of this kind.
    #[error("not valid YAML here: expected {0}")]
    Expected(&'static str),
    /// Nothing more precise is known.
    #[error("not valid YAML")]
    Other,
}

impl From<&Error> for YamlFlaw {
    fn from(error: &Error) -> Self {
        match error {
            Error::MultipleDocuments { .. } => Self::SecondDocument,
            Error::UnknownAnchor { .. } => Self::UnknownAnchor,
            Error::MergeValueNotMapOrSeqOfMaps { .. } | Error::MergeKeyNotAllowed { .. } => Self::Merge,
            Error::UnsupportedTag { .. }
            | Error::TaggedScalarCannotDeserializeIntoString { .. }
            | Error::InvalidBinaryBase64 { .. }
            | Error::BinaryNotUtf8 { .. }
            | Error::InvalidScalar { .. } => Self::Tag,
            Error::Budget { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. } => Self::TooLarge,
            Error::NullIntoString { .. } => Self::Expected("a key"),
            Error::Unexpected { expected, .. } => Self::Expected(expected),
            Error::AliasError { error, .. } => Self::from(error.without_snippet()),
            Error::ExternalMessage { source, .. } => match source.as_ref() {
                ExternalMessageSource::Parser(error) => Self::from(error.kind()),
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

impl From<&ErrorKind> for YamlFlaw {
    /// A kind's words are kept if they are the same for every text.
    fn from(kind: &ErrorKind) -> Self {
        match kind {
            ErrorKind::Custom(_) | ErrorKind::InputIo { .. } | ErrorKind::InputDecoding { .. } => Self::Other,
            ErrorKind::UnexpectedCharacter { .. } => Self::Expected("another character"),
            ErrorKind::RecursionLimitExceeded => Self::TooLarge,
            kind => Self::Syntax(kind.clone()),
        }
    }
}

/// Parses one YAML document; an empty one is null.
///
/// # Errors
/// What is not YAML about it.
pub fn parse(source: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        // Kept, so that the error can name the whole key path.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // `yes` is text until a switch is asked for, and 0400 is octal: as in the files of today.
        strict_booleans: true,
        legacy_octal_numbers: true,
        // A commit or an id may look like a number: where text is wanted, what is written counts.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    // Nothing but white space, comments and document markers is no document at all.
    let parsed: Result<Option<Node>, _> = serde_saphyr::from_str_with_options(source, options);
    match parsed {
        Ok(node) => Ok(node.unwrap_or(Node { at: Position { line: 1, column: 1 }, value: Value::Null, span: None })),
        Err(error) => {
            Err(SyntaxError { at: error.location().map(position), flaw: YamlFlaw::from(error.without_snippet()) })
        }
    }
}

fn position(location: serde_saphyr::Location) -> Position {
    Position { line: location.line(), column: location.column() }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, defined } = Spanned::<Value>::deserialize(deserializer)?;
        let bytes = |n: Option<u64>| n.and_then(|n| usize::try_from(n).ok());
        let span = bytes(defined.span().byte_offset()).zip(bytes(defined.span().byte_len()));
        Ok(Self { at: position(referenced), value, span })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Value::NotFinite, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            map.push(Entry { key: key.value, at: position(key.referenced), value: entries.next_value()? });
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn entries(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_keep_the_text_they_were_written_with() {
        let source = "ä: 1.10\nb: 007\nc: true\nd: yes\ne: '12'\nf: 1e+06\ng: &x 0x1F\nh: *x\ni: -5  # note\nj: ~\n12: !!str 13\n";
        let root = parse(source).unwrap();
        let texts: Vec<_> = entries(&root).iter().map(|e| (e.key.as_str(), e.value.text(source))).collect();
        assert_eq!(
            texts,
            [
                ("ä", Some("1.10")),
                ("b", Some("007")),
                ("c", Some("true")),
                ("d", Some("yes")),
                ("e", Some("12")),
                ("f", Some("1e+06")),
                ("g", Some("0x1F")),
                ("h", Some("0x1F")),
                ("i", Some("-5")),
                ("j", None),
                ("12", Some("13")),
            ]
        );
        assert_eq!(entries(&root)[7].value.at, Position { line: 8, column: 4 });
        assert_eq!(entries(&root)[8].at, Position { line: 9, column: 1 });
    }

    #[test]
    fn what_looks_like_a_number_is_text_as_written_where_text_is_wanted() {
        for written in [
            "61e9540",
            "12e4567",
            "-1e999",
            "+9e400",
            "1e-9999",
            ".inf",
            "-.INF",
            ".NaN",
            "123456789012345678901234567890",
            "340282366920938463463374607431768211456",
            "-170141183460469231731687303715884105729",
            "0x1FFFFFFFFFFFFFFFFFFFFFFFF",
            "0x1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
            "0o777",
            "0b11",
            "1_000",
            "+5",
            "1.",
            ".5",
            "5e",
            "08",
            "0o8",
            "12:30:45",
            "2001-12-15",
            "-0",
            "00",
            "0xZZ",
            "1__0",
            "1e5",
            "0777",
            "0b2",
            "18446744073709551616",
            "-9223372036854775809",
        ] {
            let source = format!("a: {written} # a note\nb: [{written}, &x {written}, *x]\n");
            let root = parse(&source).unwrap_or_else(|error| panic!("{written}: {error:?}"));
            assert_eq!(entries(&root)[0].value.text(&source), Some(written));
            let Value::List(items) = &entries(&root)[1].value.value else { panic!("a list") };
            assert!(items.iter().all(|item| item.text(&source) == Some(written)), "{written}: {items:?}");
            assert!(root.to_json(&source).is_ok(), "{written}");
        }
    }

    #[test]
    fn tells_plain_words_from_quoted_ones() {
        let source = "[yes, 'yes', \"yes\", &a yes, *a, true, 1]";
        let Value::List(items) = parse(source).unwrap().value else { panic!("a list") };
        let plain: Vec<_> = items.iter().map(|item| item.is_plain(source)).collect();
        assert_eq!(plain, [true, false, false, true, true, true, true]);
    }

    #[test]
    fn a_byte_order_mark_does_not_shift_the_text() {
        let source = "\u{feff}a: 1.10\n";
        assert_eq!(entries(&parse(source).unwrap())[0].value.text(source), Some("1.10"));
    }

    #[test]
    fn whole_numbers_stay_whole_in_json() {
        let source = "max: 18446744073709551615\nmin: -9223372036854775808\nbig: 9007199254740993\nmode: 0400\nf: 0.5\nl: [1, yes, null]\n";
        let expected = serde_json::json!({
            "max": u64::MAX, "min": i64::MIN, "big": 9_007_199_254_740_993_u64, "mode": 256, "f": 0.5,
            "l": [1, "yes", null],
        });
        assert_eq!(parse(source).unwrap().to_json(source).unwrap(), expected);
    }

    #[test]
    fn merge_keys_and_aliases_are_followed() {
        let source = "base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\n";
        let expected = serde_json::json!({"base": {"x": 1, "y": 2}, "use": {"x": 1, "y": 3}});
        assert_eq!(parse(source).unwrap().to_json(source).unwrap(), expected);
    }

    #[test]
    fn a_repeated_key_is_found_with_its_place() {
        let root = parse("a:\n- b: 1\n  b: 2\n").unwrap();
        assert_eq!(root.to_json("").unwrap_err(), (".a[0].b".to_owned(), Position { line: 3, column: 3 }));
    }

    #[test]
    fn a_file_without_content_is_null() {
        for source in ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "null"] {
            assert!(matches!(parse(source).unwrap().value, Value::Null), "{source:?}");
        }
    }

    #[test]
    fn what_is_not_yaml_says_what_and_where_and_nothing_of_what_stands_there() {
        let deep = format!("a: {}s3cret", "[".repeat(5_000));
        let bomb = (1..30).fold("a0: &a0 [s3cret]\n".to_owned(), |text, n| {
            let alias = format!("*a{}", n - 1);
            text + &format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 9].join(","))
        });
        let syntax = YamlFlaw::Syntax;
        for (source, line, column, flaw) in [
            ("a: [s3cret, 2\nb: 3\n", 2, 2, syntax(ErrorKind::InvalidColonPlacement)),
            ("a: s3cret: c\n", 1, 10, syntax(ErrorKind::MappingValueNotAllowed)),
            ("a:\n\ts3cret: 1\n", 2, 2, syntax(ErrorKind::TabInBlockIndentation)),
            ("a: \"s3cret\n", 1, 4, syntax(ErrorKind::UnclosedQuotedScalar)),
            ("a: \"\\s3cret\"\n", 1, 4, syntax(ErrorKind::UnknownQuotedScalarEscape)),
            ("a: @s3cret\n", 1, 4, YamlFlaw::Expected("another character")),
            ("a: *s3cret\n", 1, 4, YamlFlaw::UnknownAnchor),
            ("a: 1\n---\nb: s3cret\n", 3, 1, YamlFlaw::SecondDocument),
            ("a: {<<: s3cret}\n", 1, 9, YamlFlaw::Merge),
            ("a: !!int s3cret\n", 1, 10, YamlFlaw::Tag),
            ("a: !!binary s3cret\n", 1, 13, YamlFlaw::Tag),
            ("? [s3cret]\n: 1\n", 1, 3, YamlFlaw::Expected("string scalar")),
            ("~: s3cret\n", 1, 1, YamlFlaw::Expected("a key")),
            (&deep, 1, 259, YamlFlaw::TooLarge),
            (&bomb, 7, 10, YamlFlaw::TooLarge),
        ] {
            let error = parse(source).unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(!said.contains("s3cret") && !said.contains('\n'), "{said}");
            assert_eq!(error, SyntaxError { at: Some(Position { line, column }), flaw }, "{source:.40}");
        }
    }
}
