//! HTTP as little as it can be: for what a backend is measured against.

use std::io::{self, Read, Write};

/// Calls once, on a connection of its own, and gives the body of a good answer.
pub fn call(mut connection: impl Read + Write, method: &str, path: &str, body: &str) -> io::Result<String> {
    ask(&mut connection, method, path, body)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), "{method} {path}: {answer}");
    Ok(body.to_owned())
}

/// Sends a request; the connection ends with the answer.
pub fn ask(connection: &mut impl Write, method: &str, path: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        connection,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
