//! What a collector was sent, as maps.

use std::collections::BTreeMap;
use std::io::Read;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, ResourceMetrics,
};
use prost::Message;

use super::Series;
use super::collector::Post;

#[derive(Default)]
pub struct Export {
    pub resource: BTreeMap<String, String>,
    pub numbers: BTreeMap<Series, i64>,
    pub histogram: Vec<HistogramDataPoint>,
    pub exponential: Vec<ExponentialHistogramDataPoint>,
    /// 1 for delta, 2 for cumulative, of everything that has one.
    pub temporalities: BTreeMap<String, i32>,
}

impl Post {
    /// The metrics in it, whichever way they were written and packed.
    pub fn decode(&self) -> Export {
        let packed = self.headers.get("content-encoding").or_else(|| self.headers.get("grpc-encoding"));
        let body = match packed.map(String::as_str) {
            None => self.body.clone(),
            Some("gzip") => read(flate2::read::GzDecoder::new(self.body.as_slice())),
            Some("zstd") => read(ruzstd::decoding::StreamingDecoder::new(self.body.as_slice()).unwrap()),
            Some(other) => panic!("{other}"),
        };
        let request = match self.headers["content-type"].as_str() {
            "application/json" => serde_json::from_slice(&body).unwrap(),
            "application/x-protobuf" | "application/grpc" => {
                ExportMetricsServiceRequest::decode(body.as_slice()).unwrap()
            }
            other => panic!("{other}"),
        };
        assert_eq!(request.resource_metrics.len(), 1);
        Export::new(request.resource_metrics.into_iter().next().unwrap())
    }
}

impl Export {
    fn new(resource: ResourceMetrics) -> Self {
        let mut export = Self { resource: text(&resource.resource.unwrap().attributes), ..Self::default() };
        for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            let mut temporality = |temporality| {
                export.temporalities.insert(metric.name.clone(), temporality);
            };
            let points = match metric.data.unwrap() {
                Data::Gauge(gauge) => gauge.data_points,
                Data::Sum(sum) => {
                    temporality(sum.aggregation_temporality);
                    sum.data_points
                }
                Data::Histogram(histogram) => {
                    temporality(histogram.aggregation_temporality);
                    export.histogram.extend(histogram.data_points);
                    continue;
                }
                Data::ExponentialHistogram(histogram) => {
                    temporality(histogram.aggregation_temporality);
                    export.exponential.extend(histogram.data_points);
                    continue;
                }
                Data::Summary(summary) => panic!("{summary:?}"),
            };
            let points = points.iter().map(|point| ((metric.name.clone(), text(&point.attributes)), number(point)));
            export.numbers.extend(points);
        }
        export
    }
}

fn read(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

fn number(point: &NumberDataPoint) -> i64 {
    match point.value.unwrap() {
        Number::AsInt(number) => number,
        Number::AsDouble(number) => panic!("{number}"),
    }
}
