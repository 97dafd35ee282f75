//! What a server's refusal says, fit to be shown: short, on one line, and without the API key.

use oz_worker_core::secret::Secret;
use oz_worker_net::url::UrlHost;
use oz_worker_text::line::one_line;
use tungstenite::http::{HeaderMap, StatusCode, header};

use super::error::LinkError;

/// How much of a refusal's body, or of where it points, is shown.
pub(super) const SHOWN: usize = 512;

/// What an answer of `host` with another status than 101 amounts to. Its text never holds the API key, and stays one
/// short line.
pub fn refusal(host: &UrlHost, key: &Secret, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> LinkError {
    let safe = |text: &str| one_line(&without_key(text, key.expose()));
    let body = safe(String::from_utf8_lossy(body).trim());
    let body = if body.is_empty() { body } else { format!(": {body}") };
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return LinkError::KeyRefused { status: status.as_u16(), body };
    }
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok()).map(|location| {
        let location: String = location.chars().take(SHOWN).collect();
        format!(" with a redirect to {}, which is not followed: check --web-socket-url", safe(&location))
    });
    LinkError::Refused { host: host.clone(), status: status.as_u16(), location: location.unwrap_or_default(), body }
}

/// A server that echoes what it was sent must not get the key into the log, nor the piece of it that the cut left over.
fn without_key(text: &str, key: &str) -> String {
    let mut text = text.replace(key, "[API key]");
    let left_over = (1..key.len()).rev().find(|length| key.get(..*length).is_some_and(|piece| text.ends_with(piece)));
    text.truncate(text.len() - left_over.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use super::without_key;

    #[test]
    fn an_echoed_key_is_not_shown_whole_or_cut() {
        assert_eq!(without_key("a wk-secret b wk-secret", "wk-secret"), "a [API key] b [API key]");
        assert_eq!(without_key("Bearer wk-sec", "wk-secret"), "Bearer ");
        assert_eq!(without_key("nothing here", "wk-secret"), "nothing here");
    }
}
