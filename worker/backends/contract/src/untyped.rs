//! JSON of the operator's that is handed on as it came.

use std::fmt;

/// JSON that is handed to an engine or a cluster as it came. It may hold secrets (a Pod's `env`), so `Debug` does not show
/// it.
#[derive(Clone, PartialEq)]
pub struct Untyped(pub serde_json::Value);

impl fmt::Debug for Untyped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Untyped(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_not_shown() {
        assert_eq!(format!("{:?}", Untyped("canary".into())), "Untyped(not shown)");
    }
}
