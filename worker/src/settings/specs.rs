//! The small forms inside values: a worker id, `KEY=VALUE`, `HOST:CONTAINER[:MODE]`, the name of an image.

use std::fmt;

/// Why a text cannot be the worker's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ids that begin with \"warp\" are reserved; choose another")]
pub struct ReservedWorkerId;

/// Checks a worker id that is not blank.
///
/// # Errors
/// When the server keeps such ids for itself.
pub fn check_worker_id(id: &str) -> Result<(), ReservedWorkerId> {
    if id.starts_with("warp") { Err(ReservedWorkerId) } else { Ok(()) }
}

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

/// Why a text is not a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a volume; write HOST:CONTAINER or HOST:CONTAINER:MODE, CONTAINER being an absolute path")]
pub struct VolumeError;

/// Checks the form `HOST:CONTAINER[:MODE]`. What the three mean is for the container engine to say.
///
/// # Errors
/// When the text has another form.
pub fn check_volume(spec: &str) -> Result<(), VolumeError> {
    let parts: Vec<&str> = spec.split(':').collect();
    match parts.as_slice() {
        [host, container] | [host, container, _] if !host.trim().is_empty() && container.starts_with('/') => {
            if parts.iter().any(|part| part.trim().is_empty()) { Err(VolumeError) } else { Ok(()) }
        }
        _ => Err(VolumeError),
    }
}

/// Why a text cannot name an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an image's name cannot hold white space")]
pub struct ImageError;

/// Checks the name of an image for what is never right; the registry judges the rest.
///
/// # Errors
/// When there is white space inside.
pub fn check_image(name: &str) -> Result<(), ImageError> {
    if name.contains(char::is_whitespace) { Err(ImageError) } else { Ok(()) }
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

    #[test]
    fn checks_the_form_of_a_volume() {
        for good in ["/a:/b", "name:/b", "/a:/b:ro", "./x:/b:rw,z"] {
            assert_eq!(check_volume(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", ":/b", "/a:", "/a:b", "/a:/b:", "/a:/b:ro:x", " :/b"] {
            assert_eq!(check_volume(bad), Err(VolumeError), "{bad}");
        }
    }
}
