//! Paths and queries of the calls to an engine or a cluster.

/// A text as it can stand in the path or the query of a call.
pub fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
