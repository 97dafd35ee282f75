//! Paths and queries of the calls to an engine or a cluster.

/// A text as it can stand in the path or the query of a call.
pub fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_query_is_escaped() {
        assert_eq!(escaped("a/b?c&d=e f%ü"), "a%2Fb%3Fc%26d%3De%20f%25%C3%BC");
    }
}
