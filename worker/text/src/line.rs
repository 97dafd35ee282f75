//! Untrusted text made fit for one line of a log, a page or a terminal. The only place that knows which characters are not.

use std::fmt::Write;

/// The longest piece of an operator's text that [`quoted`] repeats, in characters.
pub const SHOWN: usize = 80;

/// Whether a character could break a line, move a cursor, or turn the order of what is read: control characters, Unicode's
/// own line breaks, and the marks that change direction.
pub fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with every [unfit](is_unfit) character escaped: `\n`, `\u{1b}`.
pub fn one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut shown, c));
    shown
}

/// The first `most` characters of a text, on one line; `…` stands for the rest.
pub fn beginning(text: &str, most: usize) -> String {
    let mut chars = text.chars();
    let mut shown = String::new();
    chars.by_ref().take(most).for_each(|c| push(&mut shown, c));
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The beginning of a text in double quotes, on one line.
pub fn quoted(text: &str) -> String {
    let mut shown = beginning(text, SHOWN).replace('"', "\\\"");
    shown.insert(0, '"');
    shown.push('"');
    shown
}

fn push(shown: &mut String, c: char) {
    match c {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        c if is_unfit(c) => {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        }
        c => shown.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_a_line_or_moves_a_cursor() {
        assert_eq!(
            one_line("a\r\n\tb\u{1b}[1mü\u{9c}\u{202e}\u{2028}"),
            "a\\r\\n\\tb\\u{1b}[1mü\\u{9c}\\u{202e}\\u{2028}"
        );
        assert_eq!(quoted("a\nb\u{1b}[1m\"c\""), r#""a\nb\u{1b}[1m\"c\"""#);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(beginning("üüü", 3), "üüü");
        assert_eq!(beginning("üüü", 2), "üü…");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), SHOWN + 3);
    }
}
