//! The `prometheus` exporter: every series as text of format 0.0.4, straight from what the SDK collects.
//!
//! `opentelemetry-prometheus` takes ten times as long as the SDK takes to collect: it makes label sets anew, series by series,
//! in a model of its own before there is any text. What is left without it is this file. Names go out as the catalogue has
//! them, which already ends counters in `_total` and the histogram in its unit; labels are as the compatibility specification
//! of OpenTelemetry and Prometheus has them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};

use crate::http::HttpReply;

/// Text format 0.0.4, the one that every Prometheus reads.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Somewhat more than the catalogue takes.
const CAPACITY: usize = 32_768;

/// A reader of the SDK from which a scrape collects. A clone is another handle to the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scraper {
    reader: Arc<ManualReader>,
    /// The metric `target_info`, which never changes.
    target: Arc<OnceLock<String>>,
}

impl Scraper {
    /// Every series as it is now.
    pub(crate) fn answer(&self) -> HttpReply {
        let mut metrics = ResourceMetrics::default();
        if self.reader.collect(&mut metrics).is_err() {
            return HttpReply::text(503, "the worker is about to leave\n");
        }
        let mut text = String::with_capacity(CAPACITY);
        text.push_str(self.target.get_or_init(|| target_info(metrics.resource())));
        for scope in metrics.scope_metrics() {
            let labels = format!("otel_scope_name=\"{}\"", Escaped(scope.scope().name()));
            scope.metrics().for_each(|metric| family(&mut text, metric, &labels));
        }
        HttpReply::new(200, CONTENT_TYPE, text.into_bytes())
    }
}

impl MetricReader for Scraper {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.reader.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.reader.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.reader.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.reader.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, _: InstrumentKind) -> Temporality {
        Temporality::Cumulative
    }
}

/// One metric with all its series, in the order of their labels.
fn family(text: &mut String, metric: &Metric, scope: &str) {
    match metric.data() {
        AggregatedMetrics::F64(data) => points(text, metric, data, scope),
        AggregatedMetrics::U64(data) => points(text, metric, data, scope),
        AggregatedMetrics::I64(data) => points(text, metric, data, scope),
    }
}

fn points<T: Display + Copy>(text: &mut String, metric: &Metric, data: &MetricData<T>, scope: &str) {
    let name = metric.name();
    match data {
        MetricData::Gauge(gauge) => {
            head(text, metric, "gauge");
            let points = gauge.data_points().map(|point| (labels(point.attributes(), scope), point.value()));
            sorted(points).for_each(|(labels, value)| sample(text, name, &labels, value));
        }
        MetricData::Sum(sum) => {
            head(text, metric, if sum.is_monotonic() { "counter" } else { "gauge" });
            let points = sum.data_points().map(|point| (labels(point.attributes(), scope), point.value()));
            sorted(points).for_each(|(labels, value)| sample(text, name, &labels, value));
        }
        MetricData::Histogram(histogram) => {
            head(text, metric, "histogram");
            let points = histogram.data_points().map(|point| (labels(point.attributes(), scope), point));
            for (labels, point) in sorted(points) {
                let mut count = 0;
                for (bound, in_bucket) in point.bounds().zip(point.bucket_counts()) {
                    count += in_bucket;
                    sample(text, &format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), count);
                }
                sample(text, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), point.count());
                sample(text, &format!("{name}_sum"), &labels, point.sum());
                sample(text, &format!("{name}_count"), &labels, point.count());
            }
        }
        // Text format 0.0.4 has no form for one, and the view of this reader makes none.
        MetricData::ExponentialHistogram(_) => {}
    }
}

fn sorted<V>(points: impl Iterator<Item = (String, V)>) -> impl Iterator<Item = (String, V)> {
    let mut points: Vec<_> = points.collect();
    points.sort_by(|(one, _), (other, _)| one.cmp(other));
    points.into_iter()
}

fn head(text: &mut String, metric: &Metric, kind: &str) {
    let (name, help) = (metric.name(), metric.description().replace('\\', "\\\\").replace('\n', "\\n"));
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = writeln!(text, "{name}{{{labels}}} {value}");
}

/// The labels of a series, with those of its scope. The catalogue's are names already, and there are two at most.
fn labels<'a>(attributes: impl Iterator<Item = &'a KeyValue>, scope: &str) -> String {
    let mut labels = String::with_capacity(96);
    for KeyValue { key, value, .. } in attributes {
        let _ = write!(labels, "{key}=\"{}\",", Escaped(&value.as_str()));
    }
    labels.push_str(scope);
    labels
}

/// The resource, as labels of a metric that is always 1.
fn target_info(resource: &Resource) -> String {
    let mut attributes: Vec<_> = resource.iter().map(|(key, value)| (key.as_str(), value.to_string())).collect();
    attributes.sort();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in attributes {
        // Two keys may have become one.
        let joined = labels.entry(label_name(key));
        joined.and_modify(|first| first.extend([";", &value])).or_insert(value);
    }
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", Escaped(value))).collect();
    let mut text = "# HELP target_info Target metadata\n# TYPE target_info gauge\n".to_owned();
    sample(&mut text, "target_info", &labels.join(","), 1);
    text
}

/// An attribute's key as the name of a label. With every run of `_` as one (compatibility specification, "Metric
/// Attributes"), no attribute gets a name that Prometheus keeps for itself: all of these begin with two.
fn label_name(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 1);
    if key.starts_with(|first: char| first.is_ascii_digit()) {
        name.push('_');
    }
    for c in key.chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('_') {
            name.push('_');
        }
    }
    name
}

/// A label's value as it stands between quotes. To Prometheus a NUL is where the text ends.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            '\0' => f.write_char(char::REPLACEMENT_CHARACTER),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::*;

    #[test]
    fn keys_become_names_that_prometheus_takes_and_values_of_one_name_are_joined() {
        for (key, name) in [
            ("__name__", "_name_"),
            ("__address__", "_address_"),
            ("a..b--c", "a_b_c"),
            ("a__b", "a_b"),
            ("9", "_9"),
            ("..9", "_9"),
            ("_", "_"),
            ("ä", "_"),
            ("host.name", "host_name"),
        ] {
            assert_eq!(label_name(key), name, "{key}");
        }
        let of = |attributes: &[(&'static str, &'static str)]| {
            let attributes = attributes.iter().map(|(key, value)| KeyValue::new(*key, *value));
            target_info(&Resource::builder_empty().with_attributes(attributes).build())
        };
        // In the order of their keys, and an empty one has its place.
        let text = of(&[("a_b", "3"), ("a.b", "2"), ("a-b", ""), ("c", "x\0y")]);
        assert!(text.ends_with("target_info{a_b=\";2;3\",c=\"x\u{fffd}y\"} 1\n"), "{text}");
    }

    #[test]
    fn every_kind_is_written_with_its_labels_in_order_and_its_values_escaped() {
        let scraper = Scraper::default();
        let resource = Resource::builder_empty()
            .with_attributes([KeyValue::new("b.c", "2"), KeyValue::new("b-c", "1\n"), KeyValue::new("9", "\"\\")])
            .build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(scraper.clone()).build();
        let meter = provider.meter("tests");
        let counter = meter.u64_counter("a_total").with_description("What\nis counted").build();
        counter.add(2, &[KeyValue::new("k", "z")]);
        counter.add(1, &[KeyValue::new("k", "a\"\\\n")]);
        meter.i64_up_down_counter("b").build().add(-3, &[]);
        let histogram = meter.f64_histogram("c_seconds").with_boundaries(vec![0.5, 1.0]).build();
        histogram.record(0.75, &[]);
        histogram.record(7.0, &[]);
        let text = String::from_utf8(scraper.answer().into_body()).unwrap();
        let expected = r#"# HELP target_info Target metadata
# TYPE target_info gauge
target_info{_9="\"\\",b_c="1\n;2"} 1
# HELP a_total What\nis counted
# TYPE a_total counter
a_total{k="a\"\\\n",otel_scope_name="tests"} 1
a_total{k="z",otel_scope_name="tests"} 2
# HELP b 
# TYPE b gauge
b{otel_scope_name="tests"} -3
# HELP c_seconds 
# TYPE c_seconds histogram
c_seconds_bucket{otel_scope_name="tests",le="0.5"} 0
c_seconds_bucket{otel_scope_name="tests",le="1"} 1
c_seconds_bucket{otel_scope_name="tests",le="+Inf"} 2
c_seconds_sum{otel_scope_name="tests"} 7.75
c_seconds_count{otel_scope_name="tests"} 2
"#;
        assert_eq!(text, expected);
        provider.shutdown().unwrap();
        assert_eq!(scraper.answer(), HttpReply::text(503, "the worker is about to leave\n"));
    }
}
