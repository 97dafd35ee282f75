//! Where spans go, and how they are sampled, batched and cut. The SDK reads these variables too, and says nothing about a bad value.

use std::time::Duration;

use opentelemetry_sdk::trace::{
    BatchConfig, BatchConfigBuilder, OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE_DEFAULT,
    OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT, OTEL_BSP_SCHEDULE_DELAY, OTEL_BSP_SCHEDULE_DELAY_DEFAULT,
    Sampler,
};

use crate::settings::otlp::Otlp;
use crate::settings::problem::VariableProblem;
use crate::settings::reader::Reader;
use crate::signal::OtelSignal;

/// The most spans that may wait for their export: the queue takes its memory at once, some 400 bytes a span.
const LARGEST_QUEUE: usize = 65_536;
/// How many characters of a text are exported at most: titles come from outside.
const LONGEST_TEXT: usize = 1024;

#[derive(Debug)]
pub(crate) struct SpanSettings {
    pub(crate) console: bool,
    pub(crate) otlp: Option<Otlp>,
    pub(crate) sampler: Sampler,
    pub(crate) batches: Batches,
    /// How many characters of a text are exported at most.
    pub(crate) longest_text: usize,
}

/// When spans are exported, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batches {
    queue: usize,
    size: usize,
    delay: Duration,
}

impl Batches {
    /// For the SDK.
    pub(crate) fn config(self) -> BatchConfig {
        BatchConfigBuilder::default()
            .with_max_queue_size(self.queue)
            .with_max_export_batch_size(self.size)
            .with_scheduled_delay(self.delay)
            .build()
    }
}

impl Reader<'_> {
    /// `None` when spans go nowhere.
    pub(super) fn spans(&mut self) -> Option<SpanSettings> {
        let exporters = self.exporters(OtelSignal::Traces, "none");
        let otlp = if exporters.otlp { self.otlp(OtelSignal::Traces) } else { None };
        if otlp.is_none() && !exporters.console {
            return None;
        }
        Some(SpanSettings {
            console: exporters.console,
            otlp,
            sampler: self.sampler(),
            batches: self.batches(),
            longest_text: self.longest_text(),
        })
    }

    fn batches(&mut self) -> Batches {
        let mut count = |variable, default| self.count(&[variable], LARGEST_QUEUE, default);
        Batches {
            queue: count(OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_QUEUE_SIZE_DEFAULT),
            size: count(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE_DEFAULT),
            delay: self.milliseconds(&[OTEL_BSP_SCHEDULE_DELAY], OTEL_BSP_SCHEDULE_DELAY_DEFAULT),
        }
    }

    fn longest_text(&mut self) -> usize {
        let names = ["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"];
        self.count(&names, usize::MAX, LONGEST_TEXT).min(LONGEST_TEXT)
    }

    fn sampler(&mut self) -> Sampler {
        let root = match self.get("OTEL_TRACES_SAMPLER").unwrap_or_default().to_ascii_lowercase().as_str() {
            "always_on" => return Sampler::AlwaysOn,
            "always_off" => return Sampler::AlwaysOff,
            "traceidratio" => return Sampler::TraceIdRatioBased(self.ratio()),
            "parentbased_always_on" | "" => Sampler::AlwaysOn,
            "parentbased_always_off" => Sampler::AlwaysOff,
            "parentbased_traceidratio" => Sampler::TraceIdRatioBased(self.ratio()),
            value => {
                self.problems.push(VariableProblem::UnknownSampler { value: value.to_owned() });
                Sampler::AlwaysOn
            }
        };
        Sampler::ParentBased(Box::new(root))
    }

    /// The share of the traces that a ratio sampler keeps.
    fn ratio(&mut self) -> f64 {
        let Some(value) = self.get("OTEL_TRACES_SAMPLER_ARG") else { return 1.0 };
        value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
            self.problems.push(VariableProblem::NotARatio { value });
            1.0
        })
    }
}
