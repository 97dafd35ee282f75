//! HTTP/1.1 as an engine speaks it: one request a connection, an answer whole or in chunks.

use std::io;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use serde_json::{Value, json};

use crate::network::Stream;
use crate::server::read_head;

/// A request whose body is still to be read.
pub struct Request {
    pub method: String,
    /// Without the version.
    pub path: Vec<String>,
    query: Vec<(String, String)>,
    /// The version of the API in its path.
    pub version: Option<u32>,
    /// Whether it is one of HTTP/1.0, whose answers know no chunks.
    pub is_old: bool,
    body: Incoming,
}

struct Incoming {
    /// What was received and is not read yet.
    rest: Vec<u8>,
    length: Option<usize>,
}

impl Request {
    pub async fn read(stream: &mut Stream) -> Option<Self> {
        let (head, rest) = read_head(stream).await?;
        let mut lines = head.lines();
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let is_old = words.next() == Some("HTTP/1.0");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut path: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let version = path.first().and_then(|first| first.strip_prefix("v1.")).and_then(|minor| minor.parse().ok());
        if version.is_some() {
            path.remove(0);
        }
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let is_chunked = lower.contains("transfer-encoding: chunked");
        let length = if is_chunked { None } else { Some(length.unwrap_or(0)) };
        Some(Self { method, path, query, version, is_old, body: Incoming { rest, length } })
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body of a request that is JSON.
    pub async fn json(&mut self, stream: &mut Stream) -> Option<Value> {
        let length = self.body.length?;
        while self.body.rest.len() < length {
            self.body.more(stream).await?;
        }
        if length == 0 { Some(Value::Null) } else { serde_json::from_slice(&self.body.rest[..length]).ok() }
    }

    /// The next piece of a body that comes in chunks; an empty one is its end. None: it broke off.
    pub async fn chunk(&mut self, stream: &mut Stream) -> Option<Vec<u8>> {
        let (start, length) = loop {
            if let Some(end) = self.body.rest.windows(2).position(|two| two == b"\r\n") {
                let length = std::str::from_utf8(&self.body.rest[..end]).ok()?;
                break (end + 2, usize::from_str_radix(length.trim(), 16).ok()?);
            }
            self.body.more(stream).await?;
        };
        while self.body.rest.len() < start + length + 2 {
            self.body.more(stream).await?;
        }
        let chunk = self.body.rest[start..start + length].to_vec();
        self.body.rest.drain(..start + length + 2);
        Some(chunk)
    }
}

impl Incoming {
    async fn more(&mut self, stream: &mut Stream) -> Option<()> {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await.ok().filter(|length| *length > 0)?;
        self.rest.extend_from_slice(&piece[..length]);
        Some(())
    }
}

/// An answer that is there at once.
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

impl Reply {
    pub const fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    pub const fn created(body: Value) -> Self {
        Self { status: 201, body }
    }

    pub const fn done() -> Self {
        Self { status: 204, body: Value::Null }
    }

    /// A refusal, in the engine's words.
    pub fn refuse(status: u16, message: impl Into<String>) -> Self {
        Self { status, body: json!({"message": message.into()}) }
    }

    pub async fn write(&self, stream: &mut Stream, api: &str) -> io::Result<()> {
        let body = if self.body.is_null() { String::new() } else { self.body.to_string() };
        let length = match self.status {
            204 | 304 => String::new(),
            _ => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
        };
        let head = format!("HTTP/1.1 {} X\r\nApi-Version: {api}\r\n{length}\r\n", self.status);
        stream.write_all([head, body].concat().as_bytes()).await
    }
}

/// Begins an answer that ends with the connection.
pub async fn begin_bare(stream: &mut Stream, api: &str) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.0 200 OK\r\nApi-Version: {api}\r\nConnection: close\r\n\r\n").as_bytes()).await
}

/// Begins an answer that comes piece by piece.
pub async fn begin(stream: &mut Stream, api: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nApi-Version: {api}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await
}

/// One piece; an empty one ends the answer.
pub async fn piece(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    stream.write_all(&chunk).await
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = &after[if escaped.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
