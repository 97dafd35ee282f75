//! Reads variables one by one, and collects what is wrong with them.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::settings::problem::VariableProblem;

/// As good as none, and still a time that can be added to another: 49 days.
const NO_LIMIT: Duration = Duration::from_millis(u32::MAX as u64);

/// The environment, and what was wrong with it so far.
pub(super) struct Reader<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: Vec<VariableProblem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { env, problems: Vec::new() }
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        variable(self.env, name)
    }

    /// The first of these variables that is set, with its name.
    pub(super) fn first(&self, names: &[impl AsRef<str>]) -> Option<(String, String)> {
        names.iter().map(AsRef::as_ref).find_map(|name| self.get(name).map(|value| (name.to_owned(), value)))
    }

    pub(super) fn sdk_disabled(&mut self) -> bool {
        self.boolean(&["OTEL_SDK_DISABLED"])
    }

    /// Whether the first of these variables that is set is `true`.
    pub(super) fn boolean(&mut self, names: &[impl AsRef<str>]) -> bool {
        let Some((variable, value)) = self.first(names) else { return false };
        let yes = value.eq_ignore_ascii_case("true");
        if !yes && !value.eq_ignore_ascii_case("false") {
            self.problems.push(VariableProblem::NotABoolean { variable, value });
        }
        yes
    }

    /// What the first of these variables that is set stands for; the first of `choices` is the default.
    pub(super) fn choice<T: Copy + Default>(&mut self, names: &[String], choices: &[(&'static str, T)]) -> T {
        let default = choices.first().map(|(_, choice)| *choice).unwrap_or_default();
        let Some((variable, value)) = self.first(names) else { return default };
        let chosen = choices.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
        chosen.map_or_else(
            || {
                let accepted = choices.iter().map(|(word, _)| *word).collect();
                self.problems.push(VariableProblem::NotAChoice { variable, value, accepted });
                default
            },
            |(_, choice)| *choice,
        )
    }

    /// The time in the first of these variables that is set, or `default` when none is, or it is not a time.
    pub(super) fn milliseconds(&mut self, names: &[impl AsRef<str>], default: Duration) -> Duration {
        let Some((variable, value)) = self.first(names) else { return default };
        match value.parse() {
            Ok(milliseconds) if milliseconds > 0 => Duration::from_millis(milliseconds),
            _ => {
                self.problems.push(VariableProblem::NotMilliseconds { variable, value, instead: default });
                default
            }
        }
    }

    /// The same for a bound on a time, where 0 is none (OpenTelemetry specification, SDK environment variables, "Timeout").
    pub(super) fn timeout(&mut self, names: &[impl AsRef<str>], default: Duration) -> Duration {
        let Some((variable, value)) = self.first(names) else { return default };
        match value.parse() {
            Ok(0) => NO_LIMIT,
            Ok(milliseconds) => Duration::from_millis(milliseconds).min(NO_LIMIT),
            Err(_) => {
                self.problems.push(VariableProblem::NotATimeout { variable, value, instead: default });
                default
            }
        }
    }
}

/// The value of a variable, `None` when it is unset or blank.
fn variable(env: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Splits `key=value`, as lists in OpenTelemetry variables have it: blanks trimmed, both sides percent-decoded.
pub(super) fn key_and_value(entry: &str) -> Option<(String, String)> {
    let (key, value) = entry.split_once('=')?;
    let decode = |text: &str| percent_decode_str(text.trim()).decode_utf8().ok().map(Cow::into_owned);
    let (key, value) = (decode(key)?, decode(value)?);
    (!key.is_empty()).then_some((key, value))
}
