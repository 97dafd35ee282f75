//! What is never shown: a text that may be a secret.
//!
//! A value gets this type where it is read, and keeps it up to the socket or system call that takes it. So no `Debug` on
//! the way can show it.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself. Only for whoever hands it on to where it is needed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}
