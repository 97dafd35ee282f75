//! The dialect of the file in which a setup command writes variables: `docs/backends.md`, "The file of variables". Pure.
//!
//! It is the dialect that operators' files are written in today; `tests/vectors/dotenv.json` has recordings. No library is
//! asked: those for dotenv files look up `$NAME` in the environment of the process that reads, which here is the worker's
//! and holds its API key.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use oz_worker_runtime::Environment;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// The variables, in the file's order.
    pub set: Environment,
    /// The numbers of the lines that cannot be read, from 1 on. All others count.
    pub unreadable: Vec<usize>,
}

/// Reads a file. A name after `$` stands for what the file said of it before, or else for its value in `known`.
pub fn read(file: &[u8], known: &Environment) -> Variables {
    let text = String::from_utf8_lossy(file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file)).replace("\r\n", "\n");
    let mut read = Variables::default();
    let (mut rest, mut line) = (text.as_str(), 1);
    while !rest.is_empty() {
        let (first, after) = split_line(rest);
        let mut next = after;
        if !is_blank(first) {
            match variable(rest, &|name| read.set.get(name).or_else(|| known.get(name)).map(OsStr::to_owned)) {
                Some((name, value, left)) => {
                    read.set.set(name, value);
                    next = left;
                }
                None => read.unreadable.push(line),
            }
        }
        let taken = rest.get(..rest.len() - next.len()).unwrap_or_default();
        line += taken.bytes().filter(|byte| *byte == b'\n').count();
        rest = next;
    }
    read
}

/// The first line, and what follows it. A lone carriage return ends one too.
fn split_line(text: &str) -> (&str, &str) {
    text.split_once(['\n', '\r']).unwrap_or((text, ""))
}

/// Whether a line says nothing.
fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The variable at the beginning of `text`, and what follows its last line. None when that is no variable.
fn variable<'a>(text: &'a str, known: &Known<'_>) -> Option<(&'a str, OsString, &'a str)> {
    let (line, after) = split_line(text);
    let statement = line.trim_start();
    let exported = statement.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
    let statement = exported.unwrap_or(statement);
    let (name, value) = statement.split_once(['=', ':'])?;
    let name = name.trim();
    let is_name = |name: &str| name.chars().all(|char| char.is_alphanumeric() || matches!(char, '_' | '.'));
    if name.is_empty() || !is_name(name) {
        return None;
    }
    let value = value.trim_start();
    let Some(quote) = value.chars().next().filter(|char| matches!(char, '"' | '\'')) else {
        return holds_no_nul(expand(bare(value), false, known)).map(|value| (name, value, after));
    };
    // A value in quotes may go on for several lines.
    let inside = text.get(line.len() - value.len() + 1..)?;
    let end = closing(inside, quote)?;
    let (value, left) = (inside.get(..end)?, inside.get(end + 1..)?);
    let (behind, left) = split_line(left);
    if !is_blank(behind) {
        return None;
    }
    let value = if quote == '"' { expand(value, true, known) } else { value.into() };
    holds_no_nul(value).map(|value| (name, value, left))
}

/// A value without quotes: up to a comment, which begins after a space.
fn bare(value: &str) -> &str {
    let comment = value
        .char_indices()
        .zip(value.chars().skip(1))
        .find(|((_, before), char)| before.is_whitespace() && *char == '#');
    comment.map_or(value, |((at, _), _)| value.get(..at).unwrap_or_default()).trim_end()
}

/// Where the quote ends that begins a value. One behind a backslash does not end it.
fn closing(inside: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    inside.char_indices().find_map(|(at, char)| {
        let ends = char == quote && !escaped;
        escaped = char == '\\' && !escaped;
        ends.then_some(at)
    })
}

/// What a name stands for.
type Known<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Replaces references, and in double quotes also what a backslash begins.
fn expand(text: &str, quoted: bool, known: &Known<'_>) -> OsString {
    let mut value = OsString::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        value.push(rest.get(..at).unwrap_or_default());
        let found = rest.get(at..).unwrap_or_default();
        rest = if let Some(escape) = found.strip_prefix('\\') {
            unescape(escape, quoted, &mut value)
        } else {
            refer(found, known, &mut value)
        };
    }
    value.push(rest);
    value
}

/// What stands after a backslash; gives what follows that. Without quotes a backslash is one, except before `$`.
fn unescape<'a>(escape: &'a str, quoted: bool, value: &mut OsString) -> &'a str {
    let mut chars = escape.chars();
    match chars.next() {
        Some('$') => value.push("$"),
        Some('n') if quoted => value.push("\n"),
        Some('r') if quoted => value.push("\r"),
        Some(char) if quoted => value.push(char.encode_utf8(&mut [0; 4])),
        _ => {
            value.push("\\");
            return escape;
        }
    }
    chars.as_str()
}

/// What stands at a `$`; gives what follows it. A name that is known is replaced. One that is not known is replaced by nothing
/// when it is in capitals, as names of variables are. Anything else stays: it is part of a password.
fn refer<'a>(found: &'a str, known: &Known<'_>, value: &mut OsString) -> &'a str {
    let after = found.get(1..).unwrap_or_default();
    let (name, rest) = if let Some(inside) = after.strip_prefix('{') {
        inside.split_once('}').unwrap_or_default()
    } else {
        after.split_at(after.find(|char: char| !is_in_name(char)).unwrap_or(after.len()))
    };
    let is_name =
        name.chars().all(is_in_name) && !name.is_empty() && !name.starts_with(|char: char| char.is_ascii_digit());
    match known(name).filter(|_| is_name) {
        Some(replacement) => value.push(replacement),
        None if is_name && !name.chars().any(|char| char.is_ascii_lowercase()) => {}
        None => {
            value.push("$");
            return after;
        }
    }
    rest
}

fn is_in_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// A value that can stand in an environment.
fn holds_no_nul(value: OsString) -> Option<OsString> {
    (!value.as_bytes().contains(&0)).then_some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RECORDED: &str = include_str!("../../../../tests/vectors/dotenv.json");

    fn known() -> Environment {
        [("PATH", "/usr/bin:/bin"), ("HOME", "/root"), ("TASK_ID", "T1")].into_iter().collect()
    }

    fn one(line: &str) -> Option<String> {
        let read = read(line.as_bytes(), &known());
        read.set.get("K").map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn every_recorded_file_says_what_it_says_today() {
        let cases: Vec<serde_json::Value> = serde_json::from_str(RECORDED).unwrap();
        assert_eq!(cases.len(), 35);
        for case in &cases {
            let text = |key: &str| case.get(key).and_then(serde_json::Value::as_str);
            let file = data_encoding::BASE64.decode(text("file_base64").unwrap().as_bytes()).unwrap();
            let read = read(&file, &known());
            let got = read.set.get(text("variable").unwrap()).map(|value| value.to_str().unwrap());
            // Where today's worker gives up the whole file, or the agent's PATH, only a line is lost.
            let wanted = match text("name").unwrap() {
                "BOM" | "env with function" => Some("v"),
                "bare" | "dash in name" => Some("1"),
                "declare -x (bash)" => None,
                "PATH expansion" => Some("/opt/x/bin:/usr/bin:/bin"),
                _ => text("value"),
            };
            assert_eq!(got, wanted, "{case}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_costs_only_itself_and_is_known_by_its_number() {
        let file = b"A=1\nbare\n\n# fine\nnpm-x=2\nB='two\nlines'\nC=\"never closed\nD=4\nE='x'y\n=5\nF=\x005\nG=6";
        let read = read(file, &known());
        let set = [("A", "1"), ("B", "two\nlines"), ("D", "4"), ("G", "6")];
        assert_eq!(read.set, set.into_iter().collect());
        assert_eq!(read.unreadable, [2, 5, 8, 10, 11, 12]);
    }

    #[test]
    fn references_are_to_the_file_and_then_to_what_the_agent_has() {
        for (line, value) in [
            ("K=$TASK_ID", "T1"),
            ("K=\"a ${TASK_ID} b\"", "a T1 b"),
            ("K='$TASK_ID'", "$TASK_ID"),
            ("TASK_ID=mine\nK=$TASK_ID", "mine"),
            ("lower=x\nK=$lower/${lower}", "x/x"),
            ("K=$UNKNOWN.${UNKNOWN}.", ".."),
            ("K=p$$w0rd$", "p$$w0rd$"),
            ("K=$5", "$5"),
            ("K=$Secret9", "$Secret9"),
            ("K=${open", "${open"),
            ("K=$(date)", "$(date)"),
            ("K=\\$TASK_ID", "$TASK_ID"),
        ] {
            assert_eq!(one(line).as_deref(), Some(value), "{line}");
        }
    }

    #[test]
    fn quotes_escapes_and_comments() {
        for (line, value) in [
            ("K=\"a\\nb\\rc\\\"d\\\\e\" # comment", "a\nb\rc\"d\\e"),
            ("K='a\\nb' # comment", "a\\nb"),
            ("K=a\\nb\\rc\\\"d", "a\\nb\\rc\\\"d"),
            ("  export\tK = v # c", "v"),
            ("K=#fff", "#fff"),
            ("K=a#b #c", "a#b"),
            ("K=\"\"", ""),
            ("K=a=b:c", "a=b:c"),
            ("K=1\nK=2", "2"),
            ("K=one\rL=two", "one"),
        ] {
            assert_eq!(one(line).as_deref(), Some(value), "{line}");
        }
    }

    #[test]
    fn nothing_in_a_file_can_make_it_panic() {
        let mut random = 1_u64;
        for _ in 0..20_000 {
            let mut file = Vec::new();
            for _ in 0..12 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let pieces =
                    ["K", "=", ":", "\"", "'", "$", "{", "}", "\\", "#", " ", "\n", "\r", "export ", "\u{e9}", "\0"];
                file.extend_from_slice(pieces.get((random >> 33) as usize % pieces.len()).unwrap().as_bytes());
            }
            let lines = file.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
            assert!(read(&file, &known()).unreadable.iter().all(|line| (1..=lines).contains(line)));
        }
    }
}
