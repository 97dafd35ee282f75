//! What is never shown: a text that may be a secret, and environment variables whose values may be.
//!
//! A value gets one of these types where it is read, and keeps it up to the socket or system call that takes it. So no
//! `Debug` on the way can show it.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::{self, Vec};
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

/// Environment variables in their order, each name once. `Debug` shows the names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(Vec<(String, Secret)>);

impl Variables {
    /// Sets a variable, in the place of one that has the same name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Secret>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Keeps the variables whose names are wanted.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&str) -> bool) {
        self.0.retain(|(name, _)| is_wanted(name));
    }

    /// Puts them in the order of their names.
    pub fn sort(&mut self) {
        self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<N: Into<String>, V: Into<Secret>> Extend<(N, V)> for Variables {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, variables: I) {
        // Not `set` for each: whoever sends a hundred thousand of them must not make us compare them all with each other.
        let names = self.0.iter().map(|(name, _)| name.clone());
        let mut places: BTreeMap<String, usize> = names.zip(0..).collect();
        for (name, value) in variables {
            let (name, value) = (name.into(), value.into());
            if let Some((_, old)) = places.get(&name).and_then(|place| self.0.get_mut(*place)) {
                *old = value;
            } else {
                places.insert(name.clone(), self.0.len());
                self.0.push((name, value));
            }
        }
    }
}

impl<N: Into<String>, V: Into<Secret>> FromIterator<(N, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let mut collected = Self::default();
        collected.extend(variables);
        collected
    }
}

impl IntoIterator for Variables {
    type Item = (String, Secret);
    type IntoIter = vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn shown(variables: &Variables) -> String {
        let pairs = variables.iter().map(|(name, value)| format!("{name}={}", value.expose()));
        pairs.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn debug_shows_names_and_no_value() {
        let variables: Variables = [("NAME", "canary")].into_iter().collect();
        assert_eq!(format!("{variables:?} {:?}", Secret::from("canary")), r#"["NAME"] Secret(not shown)"#);
        assert_eq!(Secret::from(String::from("canary")).expose(), "canary");
    }

    #[test]
    fn a_name_stands_once_in_its_first_place_with_its_last_value() {
        let mut variables: Variables = [("B", "1"), ("A", "2"), ("B", "3")].into_iter().collect();
        assert_eq!(shown(&variables), "B=3 A=2");
        variables.set("A", "4");
        variables.set("0", "5");
        variables.extend([("B", "6"), ("C", "7"), ("C", "8")]);
        assert_eq!(shown(&variables), "B=6 A=4 0=5 C=8");
        variables.retain(|name| name != "A");
        variables.sort();
        assert_eq!(shown(&variables), "0=5 B=6 C=8");
        assert_eq!(variables.get("B"), Some(&"6".into()));
        assert_eq!(variables.get("A"), None);
        assert!(!variables.is_empty() && Variables::default().is_empty());
        assert_eq!(variables.names().collect::<String>(), "0BC");
        assert_eq!(variables.into_iter().count(), 3);
    }
}
