//! Environment variables as operators write them: `KEY=VALUE`, or `KEY` for the host's value.

use std::fmt;

use crate::section::Section;
use crate::yaml::{Node, Value};

/// Why a text cannot be the name of an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// Empty, or nothing but white space.
    #[error("the variable's name is empty")]
    EmptyName,
    /// Would end the name early.
    #[error("the variable's name holds a =; name and value are written apart")]
    EqualsInName,
    /// No process can be given one.
    #[error("an environment variable cannot hold a NUL character")]
    Nul,
}

/// An environment variable as configured; without a value it is taken from the host.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// Not blank, without `=` and NUL.
    pub name: String,
    /// Never shown.
    pub value: Option<String>,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Variable({:?}, value not shown)", self.name)
    }
}

impl Variable {
    /// A variable from its two parts.
    ///
    /// # Errors
    /// When no process can be given such a variable.
    pub fn new(name: &str, value: Option<&str>) -> Result<Self, VariableError> {
        if name.trim().is_empty() {
            return Err(VariableError::EmptyName);
        }
        if name.contains('=') {
            return Err(VariableError::EqualsInName);
        }
        if name.contains('\0') || value.is_some_and(|value| value.contains('\0')) {
            return Err(VariableError::Nul);
        }
        Ok(Self { name: name.to_owned(), value: value.map(str::to_owned) })
    }

    /// A variable as the flag `-e` takes it: `KEY=VALUE`, or `KEY` for the host's value.
    ///
    /// # Errors
    /// When no process can be given such a variable.
    pub fn from_flag(spec: &str) -> Result<Self, VariableError> {
        match spec.split_once('=') {
            Some((name, value)) => Self::new(name, Some(value)),
            None => Self::new(spec, None),
        }
    }
}

/// The variables of a section's `environment`: a list of `{name, value}`; its vocabulary has an entry `environment[]`.
pub fn environment(section: &Section) -> Vec<Variable> {
    let items = section.items("environment");
    items.into_iter().filter_map(|(path, item)| variable(section, path, item)).collect()
}

fn variable(section: &Section, path: String, item: &Node) -> Option<Variable> {
    if !matches!(item.value, Value::Map(_)) {
        let what = format_args!("write {{name: …, value: …}} here, not {}", item.kind());
        section.item_problem(item, &path, what);
        return None;
    }
    let entry = section.open_item(path, "environment[]", item)?;
    let Some(name) = entry.verbatim("name") else {
        if entry.get("name").is_none() {
            entry.problem(item.at, "name", "is missing: the name of the variable");
        }
        return None;
    };
    let value = match entry.get("value") {
        Some(_) => Some(entry.verbatim("value")?),
        None => None,
    };
    match Variable::new(name, value) {
        Ok(variable) => Some(variable),
        Err(error) => {
            entry.problem(entry.get("name")?.at, "name", error);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_variables_as_the_flag_takes_them() {
        let parts = |spec| Variable::from_flag(spec).map(|v| (v.name, v.value));
        assert_eq!(parts("A=b=c"), Ok(("A".into(), Some("b=c".into()))));
        assert_eq!(parts("A="), Ok(("A".into(), Some(String::new()))));
        assert_eq!(parts("A"), Ok(("A".into(), None)));
        assert_eq!(parts(""), Err(VariableError::EmptyName));
        assert_eq!(parts(" =x"), Err(VariableError::EmptyName));
        assert_eq!(Variable::new("A=B", None), Err(VariableError::EqualsInName));
        assert_eq!(Variable::new("A\0", None), Err(VariableError::Nul));
        assert_eq!(Variable::new("A", Some("\0")), Err(VariableError::Nul));
    }

    #[test]
    fn debug_never_shows_a_value() {
        assert_eq!(format!("{:?}", Variable::from_flag("A=canary").unwrap()), "Variable(\"A\", value not shown)");
    }
}
