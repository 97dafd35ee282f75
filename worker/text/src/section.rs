//! Walking a parsed file: one mapping at a time, with the keys it may have, every problem noted with its place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use crate::line::{one_line, quoted};
use crate::suggest::hint;
use crate::yaml::{Entry, Node, Position, Value};

/// The path of a mapping, and the keys that it may have.
pub type Words = (&'static str, &'static [&'static str]);
/// Mappings with their keys: the vocabulary of a file, or of a part of it.
pub type Vocabulary = [Words];

const TWICE: &str = "this key is there twice; keep one";

/// The problems found in one file so far.
pub struct Findings<'a> {
    path: &'a Path,
    source: &'a str,
    vocabulary: Vec<Words>,
    found: RefCell<Vec<(Position, String)>>,
}

impl<'a> Findings<'a> {
    /// Nothing found yet in `source`, which was read from `path` and may use the words of all of `vocabularies`.
    pub fn new(path: &'a Path, source: &'a str, vocabularies: &[&Vocabulary]) -> Self {
        Self { path, source, vocabulary: vocabularies.concat(), found: RefCell::new(Vec::new()) }
    }

    /// Notes a problem; `key` is the path of the key it is about, empty for the whole file.
    pub fn add(&self, at: Position, key: &str, what: impl Display) {
        let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
        self.found.borrow_mut().push((at, format!("{key}{what}")));
    }

    /// One line per problem, in the order of the file: `path:line:column: key: what`.
    pub fn into_lines(self) -> Vec<String> {
        let mut found = self.found.into_inner();
        found.sort();
        found.dedup();
        found.into_iter().map(|(at, text)| line(self.path, Some(at), &text)).collect()
    }
}

/// One line about a place in a file, in the form that editors and terminals make clickable.
pub fn line(path: &Path, at: Option<Position>, text: &str) -> String {
    let shown = one_line(&path.display().to_string());
    match at {
        Some(Position { line, column }) => format!("{shown}:{line}:{column}: {text}"),
        None => format!("{shown}: {text}"),
    }
}

/// One mapping of the file. Everything read from it is `None` when the key is absent, null or blank, and also when it is
/// wrong: then the problem is among the findings, and nothing will be run.
pub struct Section<'a> {
    findings: &'a Findings<'a>,
    path: String,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Opens `node` as the mapping called `path`, whose keys are listed in the vocabulary under `words`; keys that are
    /// not, or stand twice, are problems. Null is an empty mapping.
    pub fn open(findings: &'a Findings<'a>, path: String, words: &str, node: &'a Node) -> Option<Self> {
        let section = Self::open_free(findings, path, node)?;
        let known = findings.vocabulary.iter().find(|(name, _)| *name == words).map_or(&[][..], |(_, keys)| keys);
        for entry in section.entries {
            if !known.contains(&entry.key.as_str()) {
                let elsewhere: Vec<String> = findings
                    .vocabulary
                    .iter()
                    .filter(|(name, keys)| keys.contains(&entry.key.as_str()) && !name.contains("[]"))
                    .map(|(name, _)| if name.is_empty() { "the top level".to_owned() } else { (*name).to_owned() })
                    .collect();
                let advice = if elsewhere.is_empty() {
                    hint(&entry.key, known.iter().copied())
                } else {
                    format!("it belongs under {}", elsewhere.join(" or "))
                };
                findings.add(entry.at, &section.key(&entry.key), format_args!("unknown key; {advice}"));
            }
        }
        Some(section)
    }

    /// Opens `node` as a mapping whose keys are the operator's own.
    fn open_free(findings: &'a Findings<'a>, path: String, node: &'a Node) -> Option<Self> {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                findings.add(node.at, &path, format_args!("a mapping is wanted here, not {}", node.kind()));
                return None;
            }
        };
        let section = Self { findings, path, entries };
        for (index, entry) in entries.iter().enumerate() {
            if entries.iter().take(index).any(|earlier| earlier.key == entry.key) {
                findings.add(entry.at, &section.key(&entry.key), TWICE);
            }
        }
        Some(section)
    }

    fn key(&self, key: &str) -> String {
        let shown = quoted(key);
        let bare = shown.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        // Without quotes when there is nothing in it that they would change.
        let shown = bare.filter(|bare| *bare == key).unwrap_or(&shown);
        if self.path.is_empty() { shown.to_owned() } else { format!("{}.{shown}", self.path) }
    }

    /// The entries as they stand in the file.
    pub fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// The value of a key, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.value.value, Value::Null)).then_some(&entry.value)
    }

    /// The text of the whole file.
    pub fn source(&self) -> &'a str {
        self.findings.source
    }

    /// Notes a problem about an item of a list, whose path is `path`.
    pub fn item_problem(&self, item: &Node, path: &str, what: impl Display) {
        self.findings.add(item.at, path, what);
    }

    /// Notes a problem about a key of this section, at `at`.
    pub fn problem(&self, at: Position, key: &str, what: impl Display) {
        self.findings.add(at, &self.key(key), what);
    }

    fn wrong_kind(&self, node: &Node, key: &str, wanted: &str) {
        self.problem(node.at, key, format_args!("{wanted} is wanted here, not {}", node.kind()));
    }

    /// A scalar exactly as written; numbers and the like count as text.
    pub fn verbatim(&self, key: &str) -> Option<&'a str> {
        let node = self.get(key)?;
        let text = node.text(self.source());
        if text.is_none() {
            self.wrong_kind(node, key, "text");
        }
        text
    }

    /// A command for a shell: as written, unless blank.
    pub fn command(&self, key: &str) -> Option<String> {
        self.verbatim(key).filter(|text| !text.trim().is_empty()).map(str::to_owned)
    }

    /// A text without the white space around it, unless blank.
    pub fn text(&self, key: &str) -> Option<String> {
        self.verbatim(key).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// A text that must pass `parse`.
    pub fn parsed<T, E: Display>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                let at = self.get(key)?.at;
                self.problem(at, key, format_args!("{}: {error}", quoted(&text)));
                None
            }
        }
    }

    /// A text that must pass `check`.
    pub fn checked<E: Display>(&self, key: &str, check: impl FnOnce(&str) -> Result<(), E>) -> Option<String> {
        self.parsed(key, |text| check(text).map(|()| text.to_owned()))
    }

    /// A switch. The words of YAML 1.1 count too, as they do in today's files.
    pub fn switch(&self, key: &str) -> Option<bool> {
        let node = self.get(key)?;
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        let plain = node.text(self.source()).filter(|_| node.is_plain(self.source()));
        match plain.map(str::to_ascii_lowercase).as_deref() {
            Some("yes" | "on" | "y") => Some(true),
            Some("no" | "off" | "n") => Some(false),
            _ => {
                self.wrong_kind(node, key, "true or false");
                None
            }
        }
    }

    /// A whole number from 0 to `most`. `1e+06` is one: charts render large numbers so.
    pub fn whole(&self, key: &str, most: u32) -> Option<u32> {
        let node = self.get(key)?;
        let Value::Number(number) = &node.value else {
            self.wrong_kind(node, key, &format!("a whole number from 0 to {most}"));
            return None;
        };
        let value = number.as_u64().or_else(|| number.as_f64().and_then(whole_float));
        let value = value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value <= most);
        if value.is_none() {
            let text = quoted(node.text(self.source()).unwrap_or_default());
            self.problem(node.at, key, format_args!("{text}: must be a whole number from 0 to {most}"));
        }
        value
    }

    /// A mapping with keys of the vocabulary; one that is there without content is empty.
    pub fn section(&self, key: &str) -> Option<Self> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let path = self.key(key);
        Self::open(self.findings, path.clone(), &path, &entry.value)
    }

    /// A mapping of the operator's own words, which may be opened under any key.
    pub fn free_section(&self, key: &str) -> Option<Self> {
        Self::open_free(self.findings, self.key(key), self.get(key)?)
    }

    /// An item of a list, or a mapping that is not found under its own path, with the keys listed under `words`.
    pub fn open_item(&self, path: String, words: &str, item: &'a Node) -> Option<Self> {
        Self::open(self.findings, path, words, item)
    }

    /// A mapping of the operator's own words to texts; null counts as empty text.
    pub fn words(&self, key: &str) -> BTreeMap<String, String> {
        let Some(section) = self.free_section(key) else { return BTreeMap::new() };
        let text = |entry: &Entry| section.verbatim(&entry.key).unwrap_or_default().to_owned();
        section.entries.iter().map(|entry| (entry.key.clone(), text(entry))).collect()
    }

    /// A list's items, each with the path to name it by.
    pub fn items(&self, key: &str) -> Vec<(String, &'a Node)> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            self.wrong_kind(node, key, "a list");
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, item)| (format!("{}[{index}]", self.key(key)), item)).collect()
    }

    /// The texts of a list that each pass `check`, without white space around them.
    pub fn texts<E: Display>(&self, key: &str, check: impl Fn(&str) -> Result<(), E>) -> Vec<String> {
        let mut texts = Vec::new();
        for (path, item) in self.items(key) {
            match item.text(self.source()).map(|text| (text.trim(), check(text.trim()))) {
                Some((text, Ok(()))) => texts.push(text.to_owned()),
                Some((text, Err(error))) => {
                    self.item_problem(item, &path, format_args!("{}: {error}", quoted(text)));
                }
                None => self.item_problem(item, &path, format_args!("text is wanted here, not {}", item.kind())),
            }
        }
        texts
    }

    /// A mapping that is handed on as untyped JSON; `None` when it is empty.
    pub fn untyped(&self, key: &str) -> Option<serde_json::Value> {
        let node = self.get(key)?;
        if !matches!(node.value, Value::Map(_)) {
            self.wrong_kind(node, key, "a mapping");
            return None;
        }
        match node.to_json(self.source()) {
            Ok(value) => value.as_object().is_some_and(|map| !map.is_empty()).then_some(value),
            Err((path, at)) => {
                self.findings.add(at, &format!("{}{path}", self.key(key)), TWICE);
                None
            }
        }
    }
}

/// The whole number that a float stands for exactly.
fn whole_float(value: f64) -> Option<u64> {
    // Every whole number up to here has a float of its own.
    let exact = value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    exact.then_some(value as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::variable::{Variable, environment};
    use crate::yaml::parse;

    const WORDS: &Vocabulary = &[("", &["name", "count", "on", "inner"]), ("inner", &["name", "deep", "list"])];

    /// What `look` gives of the whole file, and the findings.
    fn read<T>(source: &str, look: impl FnOnce(&Section) -> T) -> (Option<T>, Vec<String>) {
        let (node, path) = (parse(source).unwrap(), Path::new("f.yaml"));
        let findings = Findings::new(path, source, &[WORDS, &[("environment[]", &["name", "value"])]]);
        let seen = Section::open(&findings, String::new(), "", &node).map(|section| look(&section));
        (seen, findings.into_lines())
    }

    fn found(source: &str) -> Vec<String> {
        read(source, |section| drop(section.section("inner"))).1
    }

    #[test]
    fn keys_that_are_not_known_say_where_they_belong_or_what_was_meant() {
        assert_eq!(found("name: x\ninner:\n  name: y\n"), [""; 0]);
        assert_eq!(found(""), [""; 0]);
        assert_eq!(found("deep: 1\n"), ["f.yaml:1:1: deep: unknown key; it belongs under inner"]);
        assert_eq!(
            found("inner:\n  count: 1\n"),
            ["f.yaml:2:3: inner.count: unknown key; it belongs under the top level"]
        );
        assert_eq!(found("nmae: 1\n"), ["f.yaml:1:1: nmae: unknown key; did you mean name?"]);
        let known = "f.yaml:1:1: \"\\n\": unknown key; known here: name, count, on, inner";
        assert_eq!(found("\"\\n\": 1\n"), [known]);
        assert_eq!(found("value: 1\n"), ["f.yaml:1:1: value: unknown key; known here: name, count, on, inner"]);
        assert_eq!(found("name: 1\ninner: {name: 1, name: 2}\n"), [format!("f.yaml:2:18: inner.name: {TWICE}")]);
        assert_eq!(found("[1]\n"), ["f.yaml:1:1: a mapping is wanted here, not a list"]);
        assert_eq!(
            found("inner: 7\nnmae: 1\n"),
            [
                "f.yaml:1:8: inner: a mapping is wanted here, not a number",
                "f.yaml:2:1: nmae: unknown key; did you mean name?",
            ]
        );
    }

    #[test]
    fn a_text_is_read_as_it_is_wanted() {
        let texts =
            |source: &str| read(source, |s| (s.verbatim("name").map(str::to_owned), s.command("name"), s.text("name")));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(texts("name: ' x '\n").0, Some((text(" x "), text(" x "), text("x"))));
        assert_eq!(texts("name: ' '\n").0, Some((text(" "), None, None)));
        assert_eq!(texts("name: 007\n").0, Some((text("007"), text("007"), text("007"))));
        assert_eq!(texts("name:\n"), (Some((None, None, None)), vec![]));
        assert_eq!(texts("name: []\n").1, ["f.yaml:1:7: name: text is wanted here, not a list"]);

        let checked =
            |source: &str| read(source, |s| s.checked("name", |text| if text == "x" { Ok(()) } else { Err("no") }));
        assert_eq!(checked("name: ' x'\n"), (Some(text("x")), vec![]));
        assert_eq!(checked("name: y\n"), (Some(None), vec!["f.yaml:1:7: name: \"y\": no".to_owned()]));
        let parsed = read("name: 7\n", |s| s.parsed("name", str::parse::<u8>));
        assert_eq!(parsed, (Some(Some(7)), vec![]));
    }

    #[test]
    fn a_switch_is_true_or_false_or_a_word_of_yaml_1_1() {
        for (written, expected) in [
            ("true", Some(true)),
            ("false", Some(false)),
            ("Yes", Some(true)),
            ("on", Some(true)),
            ("y", Some(true)),
            ("No", Some(false)),
            ("off", Some(false)),
            ("n", Some(false)),
            ("'yes'", None),
            ("1", None),
        ] {
            let (seen, found) = read(&format!("on: {written}\n"), |s| s.switch("on"));
            assert_eq!((seen, found.len()), (Some(expected), usize::from(expected.is_none())), "{written}");
        }
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (written, expected) in [
            ("0", Some(0)),
            ("9", Some(9)),
            ("9.0", Some(9)),
            ("0.9e1", Some(9)),
            ("10", None),
            ("1e+06", None),
            ("-1", None),
            ("-1.0", None),
            ("1.5", None),
            ("1e300", None),
            ("x", None),
        ] {
            let (seen, found) = read(&format!("count: {written}\n"), |s| s.whole("count", 9));
            assert_eq!((seen, found.len()), (Some(expected), usize::from(expected.is_none())), "{written}");
        }
        assert_eq!(read("count: 1e+06\n", |s| s.whole("count", u32::MAX)).0, Some(Some(1_000_000)));
        let (_, found) = read("count: 10\n", |s| s.whole("count", 9));
        assert_eq!(found, ["f.yaml:1:8: count: \"10\": must be a whole number from 0 to 9"]);
    }

    #[test]
    fn lists_and_mappings_of_the_operators_own_words_are_read() {
        let inner = |source: &str| {
            read(source, |s| {
                let inner = s.free_section("inner").unwrap();
                (
                    inner.words("deep"),
                    inner.texts("list", |text| if text.is_empty() { Err("is blank") } else { Ok(()) }),
                )
            })
        };
        let words = |words: &[(&str, &str)]| words.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (seen, found) = inner("inner:\n  deep: {A: 1, B: , c d: ' x'}\n  list: [a, ' b ', '', {}]\n");
        let (deep, list): (BTreeMap<_, _>, _) = seen.unwrap();
        assert_eq!(
            (deep, list),
            (words(&[("A", "1"), ("B", ""), ("c d", " x")]), vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(
            found,
            [
                "f.yaml:3:20: inner.list[2]: \"\": is blank",
                "f.yaml:3:24: inner.list[3]: text is wanted here, not a mapping",
            ]
        );
        let (seen, found) = inner("inner:\n  deep: {A: 1, A: 2, B: []}\n  list: 7\n");
        assert_eq!(seen.unwrap().1, [""; 0]);
        assert_eq!(
            found,
            [
                format!("f.yaml:2:16: inner.deep.A: {TWICE}"),
                "f.yaml:2:25: inner.deep.B: text is wanted here, not a list".to_owned(),
                "f.yaml:3:9: inner.list: a list is wanted here, not a number".to_owned(),
            ]
        );
    }

    #[test]
    fn what_is_handed_on_untyped_is_a_mapping_without_doubles() {
        let untyped = |source: &str| read(source, |s| s.untyped("inner"));
        assert_eq!(
            untyped("inner: {a: [1, true], B: x}\n").0,
            Some(Some(serde_json::json!({"a": [1, true], "B": "x"})))
        );
        assert_eq!(untyped("inner: {}\n"), (Some(None), vec![]));
        assert_eq!(untyped("inner: []\n").1, ["f.yaml:1:8: inner: a mapping is wanted here, not a list"]);
        assert_eq!(untyped("inner: {a: {b: 1, b: 2}}\n").1, [format!("f.yaml:1:19: inner.a.b: {TWICE}")]);
    }

    #[test]
    fn variables_are_a_list_of_names_with_values() {
        let read = |source: &str| read(source, environment);
        let (seen, found) = read("name: x\nenvironment:\n- {name: A, value: 1}\n- name: B\n");
        let variable = |name, value| Variable::new(name, value).unwrap();
        assert!(seen.unwrap() == [variable("A", Some("1")), variable("B", None)]);
        assert_eq!(found, ["f.yaml:2:1: environment: unknown key; known here: name, count, on, inner"]);
        let (seen, found) = read("environment: [A=1, {value: 1}, {name: A=1}, {name: B, value: []}]\n");
        assert!(seen.unwrap().is_empty());
        assert_eq!(
            found.get(1..).unwrap(),
            [
                "f.yaml:1:15: environment[0]: write {name: …, value: …} here, not text",
                "f.yaml:1:20: environment[1].name: is missing: the name of the variable",
                "f.yaml:1:39: environment[2].name: the variable's name holds a =; name and value are written apart",
                "f.yaml:1:62: environment[3].value: text is wanted here, not a list",
            ]
        );
    }
}
