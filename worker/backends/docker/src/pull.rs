//! What an engine says while it pulls: a row of JSON objects, one a line, in which a pull may fail long after its 200.

use oz_worker_contract::reference::is_digest;
use serde::Deserialize;

/// The longest line that is read. Real ones have a few hundred bytes.
pub const LONGEST_LINE: usize = 16 << 10;
/// The longest text of an error that is kept, in characters.
pub const LONGEST_TEXT: usize = 1000;
/// The most layers whose progress is followed. Images have at most 127.
const MOST_LAYERS: usize = 256;
/// The longest id of a layer that is followed. Real ones have 12 characters.
const LONGEST_ID: usize = 80;

/// What is known of a pull so far.
#[derive(Debug, Default)]
pub struct PullProgress {
    error: Option<String>,
    digest: Option<String>,
    is_known: bool,
    /// Each layer that is being downloaded: how many bytes are here, and how many there are.
    layers: Vec<(String, u64, u64)>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default, rename = "errorDetail")]
    error_detail: Option<Detail>,
    #[serde(default, rename = "progressDetail")]
    progress: Option<Progress>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Progress {
    #[serde(default)]
    current: Option<u64>,
    #[serde(default)]
    total: Option<u64>,
}

impl PullProgress {
    /// Takes one line, of which so many bytes were left out. What is no such object says nothing; but an error may have stood
    /// in what was left out.
    pub fn line(&mut self, line: &[u8], cut: u64) {
        if cut > 0 {
            self.error.get_or_insert_with(|| "the engine wrote a line of more than 16 KiB".to_owned());
        }
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return };
        let detail = line.error_detail.and_then(|detail| detail.message);
        if let Some(error) = line.error.filter(|error| !error.is_empty()).or(detail)
            && self.error.is_none()
        {
            self.error = Some(error.chars().take(LONGEST_TEXT).collect());
        }
        // Engine 20.10 and 29 say so once they have the manifest.
        self.is_known |= line.status.as_deref().is_some_and(|status| status.starts_with("Pulling from "));
        let digest = line.status.as_deref().and_then(|status| status.strip_prefix("Digest: ")).map(str::trim);
        if let Some(digest) = digest.filter(|digest| is_digest(digest)) {
            self.digest = Some(digest.to_owned());
        }
        if let (Some(id), Some(Progress { current: Some(current), total: Some(total) })) = (line.id, line.progress)
            && total > 0
        {
            let has_room = self.layers.len() < MOST_LAYERS && id.len() <= LONGEST_ID;
            match self.layers.iter_mut().find(|(known, ..)| *known == id) {
                Some(layer) => (layer.1, layer.2) = (current.min(total), total),
                None if has_room => self.layers.push((id, current.min(total), total)),
                None => {}
            }
        }
    }

    /// The first error in it: it is no pull then, however it ended.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether the registry has said what the image is.
    pub const fn is_known(&self) -> bool {
        self.is_known
    }

    /// The digest of what was pulled, as the registry has it.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// How far the layers are that are known so far, in percent; `None` while none is.
    pub fn percent(&self) -> Option<u8> {
        let sum = |part: fn(&(String, u64, u64)) -> u64| self.layers.iter().map(part).map(u128::from).sum::<u128>();
        let (current, total) = (sum(|layer| layer.1), sum(|layer| layer.2));
        (current * 100).checked_div(total).and_then(|percent| u8::try_from(percent).ok())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> PullProgress {
        let mut pull = PullProgress::default();
        for line in lines {
            pull.line(line.as_bytes(), 0);
        }
        pull
    }

    #[test]
    fn a_pull_that_failed_inside_its_stream_is_known_by_its_error() {
        let failed = r#"{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}"#;
        let after = r#"{"error":"another"}"#;
        assert_eq!(read(&[r#"{"status":"Pulling from x","id":"1"}"#, failed, after]).error(), Some("unexpected EOF"));
        assert_eq!(read(&[r#"{"errorDetail":{"code":500,"message":"m"}}"#]).error(), Some("m"));
        for nothing in ["", "null", "[]", "{", r#"{"status":7}"#, r#"{"error":""}"#, r#"{"status":"error"}"#] {
            assert_eq!(read(&[nothing]).error(), None, "{nothing}");
        }
        let long = format!(r#"{{"error":"{}"}}"#, "ü".repeat(5000));
        assert_eq!(read(&[&long]).error().map(|text| text.chars().count()), Some(LONGEST_TEXT));
    }

    #[test]
    fn an_image_is_known_once_the_engine_has_its_manifest() {
        assert!(read(&[r#"{"status":"Pulling from oz/x","id":"1"}"#, r#"{"error":"x"}"#]).is_known());
        assert!(!read(&[r#"{"error":"Pulling from oz/x"}"#]).is_known());
    }

    #[test]
    fn an_error_that_is_too_long_to_be_read_is_one() {
        let mut pull = PullProgress::default();
        pull.line(br#"{"error":"xxx"#, 1);
        assert_eq!(pull.error(), Some("the engine wrote a line of more than 16 KiB"));
    }

    #[test]
    fn the_digest_of_what_was_pulled_is_in_it() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(read(&[&format!(r#"{{"status":"Digest: {digest}"}}"#)]).digest(), Some(digest.as_str()));
        assert_eq!(read(&[r#"{"status":"Digest: sha256:../.."}"#]).digest(), None);
    }

    #[test]
    fn only_so_many_layers_are_followed_and_none_with_a_long_id() {
        let line =
            |id: &str, current: u64| format!(r#"{{"id":"{id}","progressDetail":{{"current":{current},"total":100}}}}"#);
        let mut pull = PullProgress::default();
        pull.line(line(&"x".repeat(LONGEST_ID + 1), 100).as_bytes(), 0);
        assert_eq!(pull.percent(), None);
        let layers = u64::try_from(MOST_LAYERS).unwrap();
        for layer in 0..layers + 10 {
            pull.line(line(&layer.to_string(), 50).as_bytes(), 0);
        }
        assert_eq!((pull.layers.len(), pull.percent()), (MOST_LAYERS, Some(50)));
        for layer in 0..layers {
            pull.line(line(&layer.to_string(), 100).as_bytes(), 0);
        }
        assert_eq!((pull.layers.len(), pull.percent()), (MOST_LAYERS, Some(100)));
    }

    #[test]
    fn progress_is_that_of_all_layers_known_so_far() {
        let line = |id: &str, current: u64, total: u64| {
            format!(
                r#"{{"status":"Downloading","id":"{id}","progressDetail":{{"current":{current},"total":{total}}}}}"#
            )
        };
        assert_eq!(read(&[]).percent(), None);
        assert_eq!(read(&[&line("a", 50, 100), &line("b", 0, 300), &line("a", 100, 100)]).percent(), Some(25));
        assert_eq!(read(&[&line("a", 5, 0)]).percent(), None);
        assert_eq!(read(&[&line("a", 5, 0), &line("a", 5, 100)]).percent(), Some(5));
        assert_eq!(read(&[&line("a", 500, 100)]).percent(), Some(100));
        assert_eq!(read(&[&line("a", u64::MAX, u64::MAX), &line("b", u64::MAX, u64::MAX)]).percent(), Some(100));
    }
}
