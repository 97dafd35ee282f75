//! Time and untrusted text, made fit to be read by a person.

use std::time::{Duration, SystemTime};

/// A length of time in its two largest units, cut to the second: `45 s`, `2 min 5 s`, `3 h 12 min`, `4 d 3 h`.
pub(crate) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long something took, cut to three digits when that was short: `12 ms`, `7.4 s`.
pub(crate) fn took(length: Duration) -> String {
    match length.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        millis @ 1_000..10_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        _ => span(length),
    }
}

/// A moment as `2026-11-22T19:18:43Z`.
pub(crate) fn moment(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The first `most` characters of a text, on one line.
pub(crate) fn beginning(text: &str, most: usize) -> String {
    let mut chars = text.chars();
    let mut kept: String = chars.by_ref().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if chars.next().is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_two_units_at_most() {
        for (seconds, words) in
            [(0, "0 s"), (59, "59 s"), (125, "2 min 5 s"), (11_520, "3 h 12 min"), (356_400, "4 d 3 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
        for (millis, words) in [(12, "12 ms"), (7_499, "7.4 s"), (9_999, "9.9 s"), (10_000, "10 s")] {
            assert_eq!(took(Duration::from_millis(millis)), words);
        }
    }

    #[test]
    fn a_moment_is_in_utc() {
        assert_eq!(moment(SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_375_123_999)), "2026-11-22T19:18:43Z");
    }

    #[test]
    fn a_text_is_cut_between_characters_and_stays_on_one_line() {
        assert_eq!(beginning("a\r\nü\u{9c}b", 9), "a  ü b");
        assert_eq!(beginning("üüü", 3), "üüü");
        assert_eq!(beginning("üüü", 2), "üü…");
    }
}
