//! OTLP as JSON, read into what a scrape would show.
// Looking into JSON of a known shape by name is no look outside.
#![allow(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    metrics::Labels,
    spans::{Span, spans_of},
};

/// One export: all that one message of a worker held.
#[derive(Debug, Clone, Default)]
pub struct Export {
    pub resource: Labels,
    pub metrics: BTreeMap<String, Metric>,
    pub spans: Vec<Span>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metric {
    pub description: String,
    /// Its unit, often empty.
    pub unit: String,
    /// `gauge`, `sum` or `histogram`.
    pub kind: String,
    /// Whether it is what was added since the last export, not since the start.
    pub is_delta: bool,
    /// Whether it never falls.
    pub is_monotonic: bool,
    /// Samples as a scrape has them: a histogram is cumulative buckets, sum and count.
    pub samples: BTreeMap<(String, Labels), f64>,
}

impl Export {
    /// Reads one message. Panics on what is not OTLP.
    pub(super) fn parse(line: &str) -> Self {
        let message: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON: {error}: {line}"));
        let mut export = Self::default();
        for of_resource in list(&message["resourceMetrics"]) {
            export.resource.extend(attributes(&of_resource["resource"]["attributes"]));
            for of_scope in list(&of_resource["scopeMetrics"]) {
                for metric in list(&of_scope["metrics"]) {
                    let name = metric["name"].as_str().unwrap_or_else(|| panic!("a metric without a name: {metric}"));
                    let before = export.metrics.insert(name.to_owned(), Metric::parse(name, metric));
                    assert!(before.is_none(), "{name} is there twice: {line}");
                }
            }
        }
        export.spans = spans_of(&message);
        export
    }

    /// Samples of all metrics.
    pub fn samples(&self) -> BTreeMap<(String, Labels), f64> {
        self.metrics.values().flat_map(|metric| metric.samples.clone()).collect()
    }
}

impl Metric {
    fn parse(name: &str, json: &Value) -> Self {
        let text = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
        let kind = ["gauge", "sum", "histogram"].into_iter().find(|kind| json[*kind].is_object());
        let kind = kind.unwrap_or_else(|| panic!("{name} is no kind of metric that the catalogue has: {json}"));
        let data = &json[kind];
        let mut metric = Self {
            description: text("description"),
            unit: text("unit"),
            kind: kind.to_owned(),
            // AGGREGATION_TEMPORALITY_DELTA
            is_delta: data["aggregationTemporality"] == 1,
            is_monotonic: data["isMonotonic"] == true,
            samples: BTreeMap::new(),
        };
        for point in list(&data["dataPoints"]) {
            let labels = attributes(&point["attributes"]);
            if kind == "histogram" {
                metric.add_histogram(name, &labels, point);
            } else {
                metric.add(name, labels, number(&point["asInt"]).or_else(|| number(&point["asDouble"])).unwrap_or(0.0));
            }
        }
        metric
    }

    fn add_histogram(&mut self, name: &str, labels: &Labels, point: &Value) {
        let bounds = list(&point["explicitBounds"]).filter_map(number).map(|bound| bound.to_string());
        let mut count = 0.0;
        for (bound, in_bucket) in bounds.chain(["+Inf".to_owned()]).zip(list(&point["bucketCounts"])) {
            count += number(in_bucket).unwrap_or_else(|| panic!("{name}: not a count: {in_bucket}"));
            let mut labels = labels.clone();
            labels.insert("le".to_owned(), bound);
            self.add(&format!("{name}_bucket"), labels, count);
        }
        self.add(&format!("{name}_sum"), labels.clone(), number(&point["sum"]).unwrap_or(0.0));
        self.add(&format!("{name}_count"), labels.clone(), number(&point["count"]).unwrap_or(0.0));
    }

    fn add(&mut self, name: &str, labels: Labels, value: f64) {
        let before = self.samples.insert((name.to_owned(), labels), value);
        assert!(before.is_none(), "a series of {name} is there twice");
    }
}

/// The elements of a list; an empty list is left out of a message.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A number; those of 64 bits are texts.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// `[{"key": …, "value": {"stringValue": …}}]`
fn attributes(json: &Value) -> Labels {
    let pair = |attribute: &Value| {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = attribute["value"].as_object().and_then(|value| value.values().next()).map(text);
        (attribute["key"].as_str().unwrap_or_default().to_owned(), value.unwrap_or_default())
    };
    list(json).map(pair).collect()
}
