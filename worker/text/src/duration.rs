//! Times in words: as operators write them (`1h30m`, `45s`, `1.5h`, `500ms`, `0`), and as people read them.
//!
//! [`parse`] and [`show`] are two sides of one form: what is shown can be written into a file. [`span`], [`took`],
//! [`in_a_word`] and [`moment`] are only ever read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From the epoch to the last second of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A minus sign in front.
    #[error("a duration cannot be negative")]
    Negative,
    /// A number without a unit, which could mean anything.
    #[error("a duration needs a unit, for example 1h30m, 45s or 0s")]
    NoUnit,
    /// Longer than 292 years, or finer than a nanosecond.
    #[error("out of range: a duration is at most 292 years and no finer than a nanosecond")]
    OutOfRange,
    /// Anything else.
    #[error("not a duration; write for example 1h30m, 45s or 0s")]
    Malformed,
}

/// Reads a duration. White space around it is ignored, a bare `0` needs no unit.
///
/// # Errors
/// What is wrong with the text; the text itself is left to the caller to show.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(DurationError::NoUnit);
    }
    // `.5s` is legal in today's files; humantime wants a digit first.
    let led = if text.starts_with('.') { format!("0{text}") } else { text.to_owned() };
    let duration = humantime::parse_duration(&led).map_err(|error| match error {
        humantime::DurationError::NumberOverflow => DurationError::OutOfRange,
        _ => DurationError::Malformed,
    })?;
    // What today's files can hold: nanoseconds in 63 bits. It also keeps every sum with a clock far from overflow.
    if duration.as_nanos() > i64::MAX as u128 {
        return Err(DurationError::OutOfRange);
    }
    Ok(duration)
}

/// Writes a duration the way it is read: `1h 30m`, `45s`, `0s`.
pub fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A length of time in its two largest units, cut to the second: `45 s`, `2 min 5 s`, `3 h 12 min`, `4 d 3 h`.
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long something took, cut to three digits when that was short: `12 ms`, `7.4 s`.
pub fn took(length: Duration) -> String {
    match length.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        millis @ 1_000..10_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        _ => span(length),
    }
}

/// A duration in one word, as a line of the log has it: `1.2s`, `2h5m10s`.
pub fn in_a_word(length: Duration) -> String {
    if length < Duration::from_secs(60) {
        return format!("{:.1}s", length.as_secs_f64());
    }
    show(Duration::from_secs(length.as_secs())).replace(' ', "")
}

/// A moment as `2026-11-22T19:18:43Z`.
pub fn moment(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(writable(time)).to_string()
}

/// The nearest moment that RFC 3339 can write, and `humantime` does: a clock can be set to anything.
pub fn writable(time: SystemTime) -> SystemTime {
    time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn any_moment_can_be_written() {
        let far = Duration::from_secs(1 << 60);
        assert_eq!(moment(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
        assert_eq!(moment(UNIX_EPOCH + far), "9999-12-31T23:59:59Z");
        assert_eq!(moment(UNIX_EPOCH + Duration::from_secs(1_795_375_123)), "2026-11-22T19:18:43Z");
    }

    #[test]
    fn reads_what_operators_write() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("+0", 0),
            (" 45s ", 45_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("0.25s", 250),
            (".5s", 500),
            ("500ms", 500),
            ("1m0.5s", 60_500),
            ("1500000us", 1_500),
            ("1500000µs", 1_500),
            ("2000000ns", 2),
            ("28800s", 28_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_bad_one() {
        for (text, error) in [
            ("", DurationError::Malformed),
            ("soon", DurationError::Malformed),
            ("5x", DurationError::Malformed),
            ("1h-30m", DurationError::Malformed),
            ("h", DurationError::Malformed),
            ("5", DurationError::NoUnit),
            ("1.5", DurationError::NoUnit),
            ("-5s", DurationError::Negative),
            ("-0", DurationError::Negative),
            ("293years", DurationError::OutOfRange),
            ("99999999999999999999h", DurationError::OutOfRange),
            ("0.1ns", DurationError::OutOfRange),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for seconds in [0, 1, 45, 5_400, 86_400, 28_801] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse(&show(duration)), Ok(duration));
        }
    }

    #[test]
    fn a_length_of_time_has_two_units_at_most() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (125, "2 min 5 s"),
            (3_600, "1 h 0 min"),
            (11_520, "3 h 12 min"),
            (86_400, "1 d 0 h"),
            (356_400, "4 d 3 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
        for (millis, words) in
            [(12, "12 ms"), (999, "999 ms"), (1_000, "1.0 s"), (7_499, "7.4 s"), (9_999, "9.9 s"), (10_000, "10 s")]
        {
            assert_eq!(took(Duration::from_millis(millis)), words);
        }
    }

    #[test]
    fn a_line_of_the_log_has_it_in_one_word() {
        for (millis, word) in [(0, "0.0s"), (1234, "1.2s"), (59_900, "59.9s"), (60_000, "1m"), (7_510_400, "2h5m10s")] {
            assert_eq!(in_a_word(Duration::from_millis(millis)), word);
        }
    }

    #[test]
    fn a_moment_is_in_utc() {
        assert_eq!(moment(SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_375_123_999)), "2026-11-22T19:18:43Z");
    }
}
