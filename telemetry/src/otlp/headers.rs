//! What goes with every message to a collector, whatever carries it.

use http::{HeaderMap, HeaderValue, header};
use oz_worker_net::url::Url;

use crate::otlp::body::Encoding;
use crate::settings::Headers;

/// What the worker calls itself, as the specification asks ("OTLP exporter", user agent).
const USER_AGENT: &str = concat!("oz-agent-worker/", env!("CARGO_PKG_VERSION"));

/// The operator's headers, and those that the protocol needs, which win.
pub(super) fn headers(url: &Url, given: &Headers, encoding: Encoding) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(mut basic) = url.user_info().and_then(|user| HeaderValue::from_str(user.basic().expose()).ok()) {
        basic.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, basic);
    }
    headers.extend(given.0.clone());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
    headers
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::settings::{Compression, Protocol};

    fn headers_for(url: &str, given: &[(&'static str, &str)]) -> HeaderMap {
        let encoding = Encoding::new(Protocol::HttpJson, Compression::None);
        let given = given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        headers(&Url::parse(url, &["http"]).unwrap(), &Headers(given), encoding)
    }

    #[test]
    fn the_protocols_own_win_over_the_operators_and_these_over_the_rest() {
        let headers = headers_for("http://me:p@h", &[("user-agent", "x"), ("content-type", "y"), ("a", "b")]);
        assert_eq!(headers.get(header::USER_AGENT).unwrap(), "x");
        assert_eq!(headers.get(header::CONTENT_TYPE).unwrap(), "application/json");
        assert_eq!(headers.get("a").unwrap(), "b");
        assert_eq!(headers.get(header::AUTHORIZATION).unwrap(), "Basic bWU6cA==");
        assert!(!format!("{headers:?}").contains("bWU6cA"), "{headers:?}");
        assert_eq!(headers_for("http://me:p@h", &[("authorization", "x")]).get(header::AUTHORIZATION).unwrap(), "x");
        let own = headers_for("http://h", &[]);
        assert!(own.get(header::AUTHORIZATION).is_none());
        assert!(own.get(header::USER_AGENT).unwrap().to_str().unwrap().starts_with("oz-agent-worker/"));
    }
}
