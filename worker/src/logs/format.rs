//! What a line of the log looks like, as text and as JSON. No line is ever broken by what stands in it.

use std::fmt;
use std::io::Write;
use std::time::SystemTime;

use tracing::Level;

use oz_worker_backends::contract::output::{LINE_END, LONGEST_LINE};
use oz_worker_text::duration::writable;
use oz_worker_text::line::is_unfit;

use super::Label;
use crate::settings::LogFormat;

/// The longest piece of one line of output, or of one value, that is shown, after escaping, which can make six bytes of one:
/// bounds what a line can take of the queue.
const MAX_ESCAPED: usize = LONGEST_LINE + LONGEST_LINE / 2;
/// The longest piece of a task id that is shown; the real ones have 36 bytes.
const MAX_TASK_ID: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For people, with or without colours.
    Text {
        /// Whether to use them.
        colour: bool,
    },
    /// For collectors.
    Json,
}

/// An event, ready but for time and level: the message as it came, the fields as [`Style`] wrote them.
pub struct Parts<'a> {
    /// Not yet escaped.
    pub message: &'a [u8],
    /// Each with its separator in front.
    pub fields: &'a [u8],
}

impl Style {
    /// The style of a format. JSON has no colours.
    pub fn new(format: LogFormat, colour: bool) -> Self {
        match format {
            LogFormat::Text => Self::Text { colour },
            LogFormat::Json => Self::Json,
        }
    }

    /// One event: `2026-01-31T23:59:59.123Z  INFO message key=value`, or the object with `time`, `level`, `message`, fields.
    pub fn event(self, out: &mut Vec<u8>, time: SystemTime, level: Level, parts: &Parts<'_>) {
        self.head(out, time, level);
        match self {
            Self::Text { .. } => {
                escaped(out, parts.message, Quoting::Bare, MAX_ESCAPED);
                out.extend_from_slice(parts.fields);
                out.push(b'\n');
            }
            Self::Json => {
                escaped(out, parts.message, Quoting::Json, MAX_ESCAPED);
                out.push(b'"');
                out.extend_from_slice(parts.fields);
                out.extend_from_slice(b"}\n");
            }
        }
    }

    /// One line that a task wrote. In text the free part comes last, so that no agent can write what looks like a field.
    pub fn output(self, out: &mut Vec<u8>, time: SystemTime, task: Label<'_>, line: &[u8], cut: u64) {
        self.head(out, time, Level::INFO);
        let quoting = match self {
            Self::Text { .. } => {
                bare_value(out, task_id_field(task));
                self.trace_id_field(out, task);
                out.extend_from_slice(b" | ");
                Quoting::Output
            }
            Self::Json => Quoting::Json,
        };
        let cut = beginning_and_end(out, line, cut, quoting);
        match self {
            Self::Text { .. } => out.push(b'\n'),
            Self::Json => {
                out.push(b'"');
                self.text_field(out, "task_id", task_id_field(task));
                self.trace_id_field(out, task);
                if cut > 0 {
                    self.literal_field(out, "cut_bytes", format_args!("{cut}"));
                }
                out.extend_from_slice(b"}\n");
            }
        }
    }

    /// The line that says how many lines of a task are missing at this point; nothing when none are.
    pub fn dropped_output(self, out: &mut Vec<u8>, time: SystemTime, task: Label<'_>, lines: u64) {
        if lines == 0 {
            return;
        }
        let mut fields = Vec::new();
        self.text_field(&mut fields, "task_id", task_id_field(task));
        self.trace_id_field(&mut fields, task);
        self.literal_field(&mut fields, "lines", format_args!("{lines}"));
        let message = b"output lines dropped: the task wrote faster than the log could";
        self.event(out, time, Level::WARN, &Parts { message, fields: &fields });
    }

    pub fn text_field(self, out: &mut Vec<u8>, name: &str, value: &str) {
        self.field_name(out, name);
        match self {
            Self::Text { .. } => bare_value(out, value),
            Self::Json => {
                out.push(b'"');
                escaped(out, value.as_bytes(), Quoting::Json, MAX_ESCAPED);
                out.push(b'"');
            }
        }
    }

    /// A field whose value stands for itself in both formats: a finite number, true or false.
    pub fn literal_field(self, out: &mut Vec<u8>, name: &str, value: fmt::Arguments<'_>) {
        self.field_name(out, name);
        let _ = out.write_fmt(value);
    }

    fn trace_id_field(self, out: &mut Vec<u8>, task: Label<'_>) {
        if let Some(trace_id) = task.trace_id {
            self.text_field(out, "trace_id", trace_id);
        }
    }

    fn field_name(self, out: &mut Vec<u8>, name: &str) {
        // A raw identifier (`r#type`) is a field like any other.
        let name = name.strip_prefix("r#").unwrap_or(name);
        let _ = match self {
            Self::Text { colour: true } => write!(out, " \x1b[2m{name}=\x1b[0m"),
            Self::Text { colour: false } => write!(out, " {name}="),
            Self::Json => write!(out, ",\"{name}\":"),
        };
    }

    fn head(self, out: &mut Vec<u8>, time: SystemTime, level: Level) {
        let time = humantime::format_rfc3339_millis(writable(time));
        let (name, json_name, colour_code) = match level {
            Level::ERROR => ("ERROR", "error", 31),
            Level::WARN => (" WARN", "warn", 33),
            Level::INFO => (" INFO", "info", 32),
            _ => ("DEBUG", "debug", 34),
        };
        let _ = match self {
            Self::Text { colour: true } => write!(out, "\x1b[2m{time}\x1b[0m \x1b[{colour_code}m{name}\x1b[0m "),
            Self::Text { colour: false } => write!(out, "{time} {name} "),
            Self::Json => write!(out, "{{\"time\":\"{time}\",\"level\":\"{json_name}\",\"message\":\""),
        };
    }
}

/// One field with a count, for a line that is written without an event.
pub fn count_field(style: Style, name: &str, count: u64) -> Vec<u8> {
    let mut field = Vec::new();
    style.literal_field(&mut field, name, format_args!("{count}"));
    field
}

fn task_id_field(task: Label<'_>) -> &str {
    let end = whole_characters(task.task_id.as_bytes(), MAX_TASK_ID);
    task.task_id.get(..end).unwrap_or_default()
}

/// Where to cut `bytes` so that at most `most` are left and no UTF-8 character is torn apart.
fn whole_characters(bytes: &[u8], most: usize) -> usize {
    if bytes.len() <= most {
        return bytes.len();
    }
    // A character has at most three continuation bytes; more than that is no UTF-8 anyway.
    (most.saturating_sub(3)..=most)
        .rev()
        .find(|&end| bytes.get(end).is_some_and(|byte| byte & 0xc0 != 0x80))
        .unwrap_or(most)
}

/// What must be escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// Control characters.
    Bare,
    /// Control characters but for the tab.
    Output,
    /// Control characters, quotes and backslashes.
    Json,
}

/// Appends a task's line. What there is no room for is missing between its beginning and its end, and said there. `cut` bytes
/// are missing there already. Gives how many there are in all.
fn beginning_and_end(out: &mut Vec<u8>, line: &[u8], cut: u64, quoting: Quoting) -> u64 {
    let (beginning, end) = line.split_at(whole_characters(line, LONGEST_LINE - LINE_END));
    let taken = escaped(out, beginning, quoting, MAX_ESCAPED / 4 * 3);
    let (mut shown, mut escaped_end) = (end.get(end.len().saturating_sub(LINE_END)..).unwrap_or_default(), Vec::new());
    if cut > 0 {
        // It may begin in the middle of a character.
        let torn = shown.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        shown = shown.get(torn..).unwrap_or_default();
    }
    while escaped(&mut escaped_end, shown, quoting, MAX_ESCAPED / 4) < shown.len() {
        escaped_end.clear();
        let later = whole_characters(shown, shown.len().div_ceil(2)).max(1);
        shown = shown.get(later..).unwrap_or_default();
    }
    let cut = cut.saturating_add((beginning.len() - taken + end.len() - shown.len()) as u64);
    if cut > 0 {
        let _ = write!(out, " [{cut} bytes cut]");
        if !shown.is_empty() {
            out.push(b' ');
        }
    }
    out.extend_from_slice(&escaped_end);
    cut
}

/// A value in text: as it is, or in quotes (as JSON has them) when it would be misread.
fn bare_value(out: &mut Vec<u8>, value: &str) {
    let plain = |c: char| !c.is_whitespace() && !is_unfit(c) && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) && value.len() <= LONGEST_LINE {
        out.extend_from_slice(value.as_bytes());
    } else {
        out.push(b'"');
        escaped(out, value.as_bytes(), Quoting::Json, MAX_ESCAPED);
        out.push(b'"');
    }
}

/// Appends `bytes` escaped, at most `most` bytes of it, and gives how many bytes of the input that was.
fn escaped(out: &mut Vec<u8>, bytes: &[u8], quoting: Quoting, most: usize) -> usize {
    let end = out.len() + most;
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while !rest.is_empty() {
            let plain = rest.bytes().take_while(|&byte| is_plain(byte, quoting)).count();
            let plain = plain.min(end.saturating_sub(out.len()));
            let (run, after) = rest.split_at_checked(plain).unwrap_or((rest, ""));
            out.extend_from_slice(run.as_bytes());
            taken += run.len();
            let mut characters = after.chars();
            let Some(character) = characters.next() else { break };
            // The longest escape is `\u{2028}`.
            if out.len() + 8 > end {
                return taken;
            }
            escape(out, character, quoting);
            taken += character.len_utf8();
            rest = characters.as_str();
        }
        if !chunk.invalid().is_empty() {
            if out.len() + 3 > end {
                return taken;
            }
            out.extend_from_slice("\u{fffd}".as_bytes());
            taken += chunk.invalid().len();
        }
    }
    taken
}

/// ASCII that is copied as it is: most of every line.
fn is_plain(byte: u8, quoting: Quoting) -> bool {
    matches!(byte, b' '..=b'~') && (quoting != Quoting::Json || !matches!(byte, b'"' | b'\\'))
}

fn escape(out: &mut Vec<u8>, c: char, quoting: Quoting) {
    let _ = match (c, quoting) {
        ('\t', Quoting::Output) => out.write_all(b"\t"),
        ('"' | '\\', Quoting::Json) => write!(out, "\\{c}"),
        ('\n', _) => out.write_all(b"\\n"),
        ('\r', _) => out.write_all(b"\\r"),
        ('\t', _) => out.write_all(b"\\t"),
        (c, Quoting::Json) if is_unfit(c) => write!(out, "\\u{:04x}", u32::from(c)),
        (c, _) if is_unfit(c) => write!(out, "{}", c.escape_unicode()),
        (c, _) => write!(out, "{c}"),
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use std::time::Duration;

    const TEXT: Style = Style::Text { colour: false };

    fn text_of(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_769_903_999_007)
    }

    fn output(style: Style, task_id: &str, line: &[u8], cut: u64) -> String {
        text_of(|out| style.output(out, time(), Label { task_id, trace_id: None }, line, cut))
    }

    #[test]
    fn text_is_one_aligned_line_per_event() {
        for (level, name) in
            [(Level::ERROR, "ERROR"), (Level::WARN, " WARN"), (Level::INFO, " INFO"), (Level::DEBUG, "DEBUG")]
        {
            let line = text_of(|out| {
                let mut fields = Vec::new();
                TEXT.text_field(&mut fields, "a", "plain");
                TEXT.text_field(&mut fields, "b", "two words");
                TEXT.text_field(&mut fields, "c", "x=\"y\"\n\u{1b}");
                TEXT.text_field(&mut fields, "d", "");
                TEXT.literal_field(&mut fields, "r#type", format_args!("7"));
                TEXT.event(out, time(), level, &Parts { message: b"a\nb\tc\x1b[1m \xff", fields: &fields });
            });
            assert_eq!(
                line,
                format!(
                    "2026-01-31T23:59:59.007Z {name} a\\nb\\tc\\u{{1b}}[1m \u{fffd} a=plain b=\"two words\" \
                     c=\"x=\\\"y\\\"\\n\\u001b\" d=\"\" type=7\n"
                )
            );
        }
    }

    #[test]
    fn colours_do_not_change_the_words() {
        let line = text_of(|out| {
            let style = Style::new(LogFormat::Text, true);
            let mut fields = Vec::new();
            style.text_field(&mut fields, "a", "b");
            style.event(out, time(), Level::INFO, &Parts { message: b"m", fields: &fields });
        });
        let expected = "\x1b[2m2026-01-31T23:59:59.007Z\x1b[0m \x1b[32m INFO\x1b[0m m \x1b[2ma=\x1b[0mb\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn json_is_one_object_per_line_whatever_stands_in_it() {
        let nasty = "\"\\\n\r\t\u{0}\u{1b}\u{7f}\u{9b}\u{2028}\u{202e}ä😀";
        let line = text_of(|out| {
            let mut fields = Vec::new();
            Style::Json.text_field(&mut fields, "value", nasty);
            Style::Json.literal_field(&mut fields, "n", format_args!("-1.5"));
            Style::Json.event(out, time(), Level::WARN, &Parts { message: nasty.as_bytes(), fields: &fields });
        });
        assert_eq!(line.lines().count(), 1);
        assert!(!line.trim_end().chars().any(is_unfit), "{line}");
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "time": "2026-01-31T23:59:59.007Z", "level": "warn", "message": nasty, "value": nasty, "n": -1.5
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn output_is_marked_with_its_task_before_what_the_agent_wrote() {
        assert_eq!(
            output(TEXT, "t-1", b"hello\tworld task_id=t-2\x1b[31m\r", 0),
            "2026-01-31T23:59:59.007Z  INFO t-1 | hello\tworld task_id=t-2\\u{1b}[31m\\r\n"
        );
        assert_eq!(
            output(TEXT, "t 1\n", b"\xff\xfe", 0),
            "2026-01-31T23:59:59.007Z  INFO \"t 1\\n\" | \u{fffd}\u{fffd}\n"
        );
        assert_eq!(
            output(Style::Json, "t-1", b"say \"hi\"", 5),
            "{\"time\":\"2026-01-31T23:59:59.007Z\",\"level\":\"info\",\"message\":\"say \\\"hi\\\" [5 bytes cut]\",\
             \"task_id\":\"t-1\",\"cut_bytes\":5}\n"
        );
    }

    #[test]
    fn output_names_the_trace_of_its_task_beside_it() {
        let task = Label { task_id: "t-1", trace_id: Some("4bf9") };
        let line = text_of(|out| TEXT.output(out, time(), task, b"hello", 0));
        assert_eq!(line, "2026-01-31T23:59:59.007Z  INFO t-1 trace_id=4bf9 | hello\n");
        let line = text_of(|out| Style::Json.output(out, time(), task, b"hello", 0));
        assert!(line.ends_with("\"message\":\"hello\",\"task_id\":\"t-1\",\"trace_id\":\"4bf9\"}\n"), "{line}");
        let line = text_of(|out| TEXT.dropped_output(out, time(), task, 7));
        assert!(line.ends_with(" task_id=t-1 trace_id=4bf9 lines=7\n"), "{line}");
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_says_how_much_is_missing() {
        let line = output(TEXT, "t", &vec![b'x'; LONGEST_LINE], 0);
        assert!(line.ends_with("xx\n") && !line.contains("cut"));
        let bytes = [vec![b'x'; LONGEST_LINE - LINE_END], vec![b'y'; LINE_END]].concat();
        let line = output(TEXT, "t", &bytes, 90);
        assert!(line.contains("x [90 bytes cut] y") && line.ends_with("y\n"), "{}", line.len());
        // A character stands across each of the borders.
        let mut bytes = vec![b'x'; LONGEST_LINE - LINE_END - 1];
        bytes.extend_from_slice("ä".as_bytes());
        bytes.extend(vec![b'y'; LINE_END]);
        let line = output(TEXT, "t", &bytes, 0);
        assert!(line.contains("xäy") || line.contains("x [2 bytes cut] y"), "{}", line.get(12_000..).unwrap());
        let mut bytes = vec![b'x'; LONGEST_LINE - LINE_END];
        bytes.extend_from_slice("ä".as_bytes().get(1..).unwrap());
        bytes.extend(vec![b'y'; LINE_END - 1]);
        let line = output(TEXT, "t", &bytes, 7);
        assert!(line.contains("x [9 bytes cut] y") && !line.contains('\u{fffd}'));
    }

    #[test]
    fn no_line_takes_more_room_than_half_a_tasks_share() {
        let half = usize::try_from(super::super::queue::TASK_SHARE / 2).unwrap();
        for style in [TEXT, Style::new(LogFormat::Text, true), Style::Json] {
            for byte in [0x1b, b'"', 0xff, b'x', b'\n'] {
                let line = text_of(|out| {
                    let id = "\u{1b}".repeat(1000);
                    let task = Label { task_id: &id, trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736") };
                    style.dropped_output(out, time(), task, u64::MAX);
                    style.output(out, time(), task, &vec![byte; 1_000_000], u64::MAX);
                });
                assert!(line.len() <= half, "{style:?} {byte}: {}", line.len());
                assert_eq!(line.lines().count(), 2);
            }
        }
    }

    #[test]
    fn what_escaping_leaves_out_is_counted_as_cut_and_leaves_the_end() {
        let mut bytes = vec![0x1b; LONGEST_LINE - 5];
        bytes.extend_from_slice(b"error");
        let line = output(Style::Json, "t", &bytes, 0);
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        let (message, cut) = (parsed["message"].as_str().unwrap(), parsed["cut_bytes"].as_u64().unwrap());
        let marker = format!(" [{cut} bytes cut] ");
        assert!(message.contains(&marker) && message.ends_with("error"), "{message}");
        assert_eq!((message.len() - marker.len()) as u64 + cut, LONGEST_LINE as u64);
    }
}
