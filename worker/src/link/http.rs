//! The head of an HTTP response, as a dial reads it from a proxy or from the server: bounded, checked, never trusted.

use futures_io::AsyncRead;
use futures_lite::AsyncReadExt;

/// The largest head that is read. Real ones have a few hundred bytes.
pub const LARGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 100;

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The headers in their order; values that are not UTF-8 are left out.
    headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a header that holds a list names `token`.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .any(|(_, value)| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
    }
}

/// Why what was read is not the head of an HTTP response.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The connection ended before the head did.
    #[error("the connection was closed in the middle of the answer")]
    Truncated,
    /// Nothing came at all.
    #[error("the connection was closed without an answer")]
    Empty,
    /// The head is larger than [`LARGEST_HEAD`].
    #[error("the answer's header is larger than 16 KiB")]
    TooLarge,
    /// It is not HTTP.
    #[error("the answer is not HTTP ({0})")]
    NotHttp(httparse::Error),
}

/// Reads a head from the beginning of `bytes`: it and its length, or `None` when more bytes are needed.
///
/// # Errors
/// When no further byte can make it a head.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes).map_err(HeadError::NotHttp)? {
        httparse::Status::Partial if bytes.len() >= LARGEST_HEAD => Err(HeadError::TooLarge),
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(length) => {
            let text = |header: &httparse::Header<'_>| {
                Some((header.name.to_owned(), std::str::from_utf8(header.value).ok()?.to_owned()))
            };
            let headers = response.headers.iter().filter_map(text).collect();
            Ok(Some((Head { status: response.code.unwrap_or_default(), headers }, length)))
        }
    }
}

/// Reads a head and whatever came with it behind it.
///
/// # Errors
/// [`HeadError`].
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Head, Vec<u8>), HeadError> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Err(if bytes.is_empty() { HeadError::Empty } else { HeadError::Truncated });
        }
        bytes.extend_from_slice(chunk.get(..length).unwrap_or_default());
        if let Some((head, length)) = parse_head(&bytes)? {
            return Ok((head, bytes.split_off(length)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_whole_or_not_at_all() {
        let text = b"HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive, Upgrade\r\nX: a\r\n\r\nrest";
        for cut in 0..text.len() - 4 {
            assert!(parse_head(text.get(..cut).unwrap()).unwrap().is_none(), "{cut}");
        }
        let (head, length) = parse_head(text).unwrap().unwrap();
        assert_eq!((head.status, text.get(length..).unwrap()), (101, &b"rest"[..]));
        assert!(head.lists("connection", "upgrade"));
        assert_eq!(head.header("x"), Some("a"));
    }

    #[test]
    fn what_is_not_http_or_never_ends_is_refused() {
        assert!(matches!(parse_head(b"SSH-2.0-OpenSSH_9\r\n"), Err(HeadError::NotHttp(_))));
        let mut endless = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        endless.resize(LARGEST_HEAD, b'a');
        assert!(matches!(parse_head(&endless), Err(HeadError::TooLarge)));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert!(matches!(parse_head(many.as_bytes()), Err(HeadError::NotHttp(_))));
    }
}
