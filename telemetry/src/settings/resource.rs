//! What operators say about who the metrics come from: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.

use std::fmt;

use crate::settings::problem::VariableProblem;
use crate::settings::reader::{Reader, key_and_value};

/// Attributes beside the worker's own; a later one wins. Their values may be anything, so they are shown by name only.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourceSettings(pub(crate) Vec<(String, String)>);

impl fmt::Debug for ResourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

impl Reader<'_> {
    pub(super) fn resource(&mut self) -> ResourceSettings {
        let list = self.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let mut attributes = attributes(&list).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Vec::new()
        });
        attributes.extend(self.get("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
        ResourceSettings(attributes)
    }
}

/// One bad entry makes the whole list unusable, as the specification asks: half a resource names another worker.
fn attributes(list: &str) -> Result<Vec<(String, String)>, VariableProblem> {
    let entries = list.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty());
    entries
        .map(|(index, entry)| key_and_value(entry).ok_or(VariableProblem::NotAnAttribute { entry: index + 1 }))
        .collect()
}
