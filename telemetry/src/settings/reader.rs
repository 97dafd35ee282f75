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

    /// What the first of these variables that can be understood says, and `default` when none can: a bad value of a signal's
    /// own variable leaves the general one in force. Each bad one is a problem, which knows what holds instead.
    fn valid<T>(
        &mut self,
        names: &[impl AsRef<str>],
        default: T,
        read: impl Fn(&str) -> Option<T>,
        problem: impl Fn(String, String, &T) -> VariableProblem,
    ) -> T {
        let (mut bad, mut valid) = (Vec::new(), None);
        for name in names.iter().map(AsRef::as_ref) {
            let Some(value) = self.get(name) else { continue };
            valid = read(&value);
            if valid.is_some() {
                break;
            }
            bad.push((name.to_owned(), value));
        }
        let holds = valid.unwrap_or(default);
        self.problems.extend(bad.into_iter().map(|(variable, value)| problem(variable, value, &holds)));
        holds
    }

    /// The first of these variables that is set, with its name.
    pub(super) fn first(&self, names: &[impl AsRef<str>]) -> Option<(String, String)> {
        names.iter().map(AsRef::as_ref).find_map(|name| self.get(name).map(|value| (name.to_owned(), value)))
    }

    pub(super) fn sdk_disabled(&mut self) -> bool {
        self.boolean(&["OTEL_SDK_DISABLED"])
    }

    /// Whether one of these variables is `true`.
    pub(super) fn boolean(&mut self, names: &[impl AsRef<str>]) -> bool {
        let read = |value: &str| match value.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        self.valid(names, false, read, |variable, value, instead| VariableProblem::NotABoolean {
            variable,
            value,
            instead: *instead,
        })
    }

    /// What one of these variables stands for; the first of `choices` is the default.
    pub(super) fn choice<T: Copy + Default + PartialEq>(
        &mut self,
        names: &[String],
        choices: &[(&'static str, T)],
    ) -> T {
        let default = choices.first().map(|(_, choice)| *choice).unwrap_or_default();
        let read =
            |value: &str| choices.iter().find(|(word, _)| value.eq_ignore_ascii_case(word)).map(|(_, choice)| *choice);
        self.valid(names, default, read, |variable, value, instead| VariableProblem::NotAChoice {
            variable,
            value,
            accepted: choices.iter().map(|(word, _)| *word).collect(),
            instead: choices.iter().find(|(_, choice)| choice == instead).map_or("the default", |(word, _)| word),
        })
    }

    /// The time in one of these variables.
    pub(super) fn milliseconds(&mut self, names: &[impl AsRef<str>], default: Duration) -> Duration {
        let read = |value: &str| value.parse().ok().filter(|number| *number > 0).map(Duration::from_millis);
        self.valid(names, default, read, |variable, value, instead| VariableProblem::NotMilliseconds {
            variable,
            value,
            instead: *instead,
        })
    }

    /// The same for a bound on a time, where 0 is none (OpenTelemetry specification, SDK environment variables, "Timeout").
    pub(super) fn timeout(&mut self, names: &[impl AsRef<str>], default: Duration) -> Duration {
        let read = |value: &str| match value.parse().ok()? {
            0 => Some(NO_LIMIT),
            milliseconds => Some(Duration::from_millis(milliseconds).min(NO_LIMIT)),
        };
        self.valid(names, default, read, |variable, value, instead| VariableProblem::NotATimeout {
            variable,
            value,
            instead: *instead,
        })
    }

    /// The number in one of these variables, from 1 to `most`.
    pub(super) fn count(&mut self, names: &[&str], most: usize, default: usize) -> usize {
        let read = |value: &str| value.parse().ok().filter(|count| (1..=most).contains(count));
        self.valid(names, default, read, |variable, value, instead| VariableProblem::NotACount {
            variable,
            value,
            most,
            instead: *instead,
        })
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
