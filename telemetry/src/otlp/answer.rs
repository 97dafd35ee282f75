//! What a collector answers to what it took.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use oz_worker_text::line::beginning;
use prost::Message;
use serde::Deserialize;

use crate::otlp::failure::ExportFailure;

/// The longest answer of a collector that is read, in bytes: it only ever names what it did not take.
pub(super) const MAX_ANSWER: usize = 65_536;

/// The longest message of a collector that is repeated in the log, in characters.
const MAX_MESSAGE: usize = 300;

/// What a collector did not take although it took the request; nothing, usually.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PartialSuccess {
    /// Data points or spans that are lost.
    pub(super) rejected: i64,
    /// Why, in the collector's words, fit for one line of a log.
    pub(super) message: String,
}

impl PartialSuccess {
    fn new(rejected: i64, message: &str) -> Self {
        Self { rejected, message: beginning(message.trim(), MAX_MESSAGE) }
    }

    /// # Errors
    /// These bytes are no answer of OTLP.
    pub(super) fn from_protobuf(bytes: &[u8]) -> Result<Self, ExportFailure> {
        // The answers to metrics and to spans have the same fields on the wire.
        let answer = ExportMetricsServiceResponse::decode(bytes)
            .map_err(|_| ExportFailure::Nonsense("an answer that is not OTLP's protobuf"))?;
        Ok(answer
            .partial_success
            .map_or_else(Self::default, |partial| Self::new(partial.rejected_data_points, &partial.error_message)))
    }

    /// # Errors
    /// These bytes are no answer of OTLP.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, ExportFailure> {
        let answer: JsonAnswer =
            serde_json::from_slice(bytes).map_err(|_| ExportFailure::Nonsense("an answer that is not OTLP's JSON"))?;
        let partial = answer.partial_success.unwrap_or_default();
        Ok(Self::new(partial.rejected.map_or(0, Number::get), &partial.error_message))
    }
}

/// The answer in JSON, to metrics and to spans.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonAnswer {
    partial_success: Option<Partial>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Partial {
    #[serde(alias = "rejectedDataPoints", alias = "rejectedSpans")]
    rejected: Option<Number>,
    error_message: String,
}

/// A 64-bit number in protobuf's JSON: a string, though many write a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(i64),
    Text(String),
}

impl Number {
    fn get(self) -> i64 {
        match self {
            Self::Number(number) => number,
            Self::Text(text) => text.parse().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_and_an_empty_partial_success_are_a_success() {
        assert_eq!(PartialSuccess::from_protobuf(&[]).unwrap(), PartialSuccess::default());
        // Field 1, length 0.
        assert_eq!(PartialSuccess::from_protobuf(&[0x0a, 0]).unwrap(), PartialSuccess::default());
        for json in ["{}", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":null}"#] {
            assert_eq!(PartialSuccess::from_json(json.as_bytes()).unwrap(), PartialSuccess::default(), "{json}");
        }
    }

    #[test]
    fn the_number_is_text_or_a_number_and_named_by_its_signal() {
        for rejected in [r#""rejectedDataPoints":"7""#, r#""rejectedSpans":7"#] {
            let json = format!(r#"{{"partialSuccess":{{{rejected},"errorMessage":"too old"}}}}"#);
            let partial = PartialSuccess::from_json(json.as_bytes()).unwrap();
            assert_eq!((partial.rejected, partial.message.as_str()), (7, "too old"));
        }
    }

    #[test]
    fn in_protobuf_the_number_and_the_words_are_those_of_the_collector() {
        // Field 1: a message of field 1, the number 7, and field 2, two letters.
        let partial = PartialSuccess::from_protobuf(&[0x0a, 6, 0x08, 7, 0x12, 2, b'n', b'o']).unwrap();
        assert_eq!((partial.rejected, partial.message.as_str()), (7, "no"));
    }

    #[test]
    fn what_a_collector_says_is_one_short_line() {
        let partial = PartialSuccess::new(1, &format!("a\nb\u{1b}[31m{}", "x".repeat(1000)));
        assert!(
            partial.message.starts_with("a\\nb\\u{1b}[31mxxx") && partial.message.ends_with("x…"),
            "{}",
            partial.message
        );
        assert!(partial.message.chars().count() < MAX_MESSAGE + 10);
    }

    #[test]
    fn anything_else_is_nonsense() {
        assert!(matches!(PartialSuccess::from_protobuf(b"<html>"), Err(ExportFailure::Nonsense(_))));
        assert!(matches!(PartialSuccess::from_json(b"<html>"), Err(ExportFailure::Nonsense(_))));
    }
}
