//! What is exported: OpenTelemetry calls it a signal.

use std::fmt;

/// One of OpenTelemetry's signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtelSignal {
    Metrics,
    Traces,
}

impl fmt::Display for OtelSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        })
    }
}

impl OtelSignal {
    pub(crate) fn exporter_variable(self) -> &'static str {
        match self {
            Self::Metrics => "OTEL_METRICS_EXPORTER",
            Self::Traces => "OTEL_TRACES_EXPORTER",
        }
    }

    /// The signal's own variable of an option, and the general one.
    pub(crate) fn variables(self, option: &str) -> [String; 2] {
        let own = match self {
            Self::Metrics => "METRICS",
            Self::Traces => "TRACES",
        };
        [format!("OTEL_EXPORTER_OTLP_{own}_{option}"), format!("OTEL_EXPORTER_OTLP_{option}")]
    }
}
