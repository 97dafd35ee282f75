//! The variables of the worker's environment as text, and which of those that were asked for are none.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;

use oz_worker_text::line::quoted;

use super::Refusal;

/// Reads variables one by one. One that is set and is not UTF-8 must never pass for one that is unset: it is remembered, and
/// nothing runs.
pub struct TextVariables<'a> {
    variables: &'a dyn Fn(&str) -> Option<OsString>,
    not_text: RefCell<BTreeSet<String>>,
}

impl<'a> TextVariables<'a> {
    /// The variables that `variables` looks up.
    pub fn new(variables: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { variables, not_text: RefCell::default() }
    }

    /// The value of a variable, if it is set and is text.
    pub fn get(&self, name: &str) -> Option<String> {
        let text = (self.variables)(name)?.into_string();
        text.inspect_err(|_| self.not_text.borrow_mut().extend([name.to_owned()])).ok()
    }

    /// Whether every variable that was asked for so far is text.
    ///
    /// # Errors
    /// One line for each that is not.
    pub fn all_text(&self) -> Result<(), Refusal> {
        let not_text = self.not_text.borrow();
        let line = |name: &String| {
            let shown = if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                name.clone()
            } else {
                quoted(name)
            };
            format!("{shown}: its value is not UTF-8 text; set it anew, or unset it")
        };
        let lines: Vec<_> = not_text.iter().map(line).collect();
        if lines.is_empty() { Ok(()) } else { Err(Refusal::configuration(lines)) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_variable_that_is_no_text_is_named_and_never_its_value() {
        let lookup = |name: &str| match name {
            "TEXT" => Some("ä".into()),
            "UNSET" => None,
            _ => Some(OsString::from_vec(b"canary\xa0".to_vec())),
        };
        let variables = TextVariables::new(&lookup);
        assert_eq!((variables.get("TEXT").as_deref(), variables.get("UNSET")), (Some("ä"), None));
        assert!(variables.all_text().is_ok());
        for name in ["OTEL_METRICS_EXPORTER", "B", "B", "a b"] {
            assert_eq!(variables.get(name), None);
        }
        let refusal = variables.all_text().unwrap_err();
        let what = "its value is not UTF-8 text; set it anew, or unset it";
        let named = ["B", "OTEL_METRICS_EXPORTER", "\"a b\""].map(|name| format!("{name}: {what}"));
        assert_eq!((refusal.lines.as_slice(), refusal.exit_code), (named.as_slice(), 2));
    }
}
