//! Durations as operators write them: `1h30m`, `45s`, `1.5h`, `500ms`, `0`.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
}
