//! What the OpenTelemetry environment variables ask for. An empty variable counts as unset, as the specification says.

mod exporters;
mod metrics;
mod otlp;
mod problem;
mod reader;
mod resource;
mod spans;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt::Display;

use crate::settings::problem::VariableProblem;
use crate::settings::reader::Reader;

pub(crate) use crate::settings::metrics::{MetricSettings, ScrapeAddress};
pub(crate) use crate::settings::otlp::{Compression, Headers, Otlp, Protocol};
pub(crate) use crate::settings::resource::ResourceSettings;
pub(crate) use crate::settings::spans::SpanSettings;

/// What the OpenTelemetry variables (`docs/metrics.md`) ask for. Read, and not yet started: whoever only wants to know what
/// is wrong with them asks for the [`problems`](Self::problems).
#[derive(Debug, Default)]
pub struct TelemetrySettings {
    pub(crate) metrics: MetricSettings,
    /// Nothing, unless spans are asked for.
    pub(crate) spans: Option<SpanSettings>,
    pub(crate) resource: ResourceSettings,
    problems: Vec<VariableProblem>,
}

impl TelemetrySettings {
    /// Reads the variables through `env`, and the files that they name. Never fails: what is wrong with a variable is a
    /// problem, and its default is used. [`Default`] exports nothing.
    pub fn read(env: impl Fn(&str) -> Option<String>) -> Self {
        let mut reader = Reader::new(&env);
        if reader.sdk_disabled() {
            return Self::default();
        }
        let (metrics, spans) = (reader.metrics(), reader.spans());
        let exports = metrics.exports() || spans.is_some();
        let resource = if exports { reader.resource() } else { ResourceSettings::default() };
        Self { metrics, spans, resource, problems: reader.problems }
    }

    /// What is wrong with the variables, each on one line: which one, why, and what happens instead. No secret is shown.
    pub fn problems(&self) -> impl Iterator<Item = impl Display> {
        self.problems.iter()
    }
}
