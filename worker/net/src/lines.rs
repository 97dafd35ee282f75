//! Lines of a stream, none longer than a limit: what follows a Pod, pulls an image or reads a log comes line by line.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::AsyncRead;

/// How much is read at once.
const CHUNK: usize = 8 << 10;

/// A line, without the `\n` or `\r\n` that ended it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamLine {
    /// Its beginning: at most as many bytes as were asked for.
    pub bytes: Vec<u8>,
    /// How many bytes of it were left out.
    pub cut: u64,
}

/// Puts bytes together into lines. Without I/O: bytes in, lines out.
#[derive(Debug)]
pub struct Splitter {
    most: usize,
    line: StreamLine,
    /// Whether the line has begun: it may be empty so far.
    begun: bool,
    /// Whether the last byte that was left out may belong to the line's end.
    cut_return: bool,
}

impl Splitter {
    /// A splitter whose lines have at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { most, line: StreamLine::default(), begun: false, cut_return: false }
    }

    /// Takes bytes up to the end of a line: how many, and the line if it ended there.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Option<StreamLine>) {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or(bytes);
        let room = self.most - self.line.bytes.len();
        let (kept, rest) = piece.split_at_checked(room).unwrap_or((piece, &[]));
        self.line.bytes.extend_from_slice(kept);
        self.line.cut += rest.len() as u64;
        if let Some(last) = rest.last() {
            self.cut_return = *last == b'\r';
        }
        self.begun |= !piece.is_empty();
        match end {
            Some(end) => (end + 1, Some(self.end())),
            None => (piece.len(), None),
        }
    }

    /// The last line, when the stream ended in the middle of it. A `\r` at its end stays.
    pub fn finish(&mut self) -> Option<StreamLine> {
        std::mem::take(&mut self.begun).then(|| std::mem::take(&mut self.line))
    }

    fn end(&mut self) -> StreamLine {
        if self.line.cut == 0 {
            self.line.bytes.pop_if(|last| *last == b'\r');
        } else if self.cut_return {
            self.line.cut -= 1;
        }
        (self.begun, self.cut_return) = (false, false);
        std::mem::take(&mut self.line)
    }
}

/// The lines of a stream. A read that is given up loses nothing: the next one goes on from there.
#[derive(Debug)]
pub struct Lines<R> {
    stream: R,
    splitter: Splitter,
    chunk: Box<[u8]>,
    /// What of the chunk is not split yet.
    filled: usize,
    done: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// The lines of `stream`, each with at most `most` bytes.
    pub fn new(stream: R, most: usize) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { stream, splitter: Splitter::new(most), chunk, filled: 0, done: 0, ended: false }
    }

    /// The next line, or `None` at the end of the stream.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn next(&mut self) -> io::Result<Option<StreamLine>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same for whoever waits for several things.
    ///
    /// # Errors
    /// What the stream says.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<StreamLine>>> {
        loop {
            let rest = self.chunk.get(self.done..self.filled).unwrap_or_default();
            let (taken, line) = self.splitter.take(rest);
            self.done += taken;
            if line.is_some() {
                return Poll::Ready(Ok(line));
            }
            if self.ended {
                return Poll::Ready(Ok(self.splitter.finish()));
            }
            self.filled = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut self.chunk))?;
            self.done = 0;
            self.ended = self.filled == 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    /// Gives its bytes in pieces of this size.
    struct Pieces<'a>(&'a [u8], usize);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
            let length = self.1.min(self.0.len()).min(to.len());
            let (piece, rest) = self.0.split_at(length);
            to.get_mut(..length).unwrap().copy_from_slice(piece);
            self.0 = rest;
            Poll::Ready(Ok(length))
        }
    }

    fn lines(bytes: &[u8], piece: usize) -> Vec<(String, u64)> {
        let mut lines = Lines::new(Pieces(bytes, piece), 4);
        let mut read = Vec::new();
        while let Some(line) = block_on(lines.next()).unwrap() {
            read.push((String::from_utf8(line.bytes).unwrap(), line.cut));
        }
        assert_eq!(block_on(lines.next()).unwrap(), None);
        read
    }

    #[test]
    fn lines_end_with_either_sign_and_say_what_was_left_out() {
        let rows: [(&str, &[(&str, u64)]); 11] = [
            ("", &[]),
            ("\n", &[("", 0)]),
            ("a\nb\r\n\r\nc", &[("a", 0), ("b", 0), ("", 0), ("c", 0)]),
            ("a\r", &[("a\r", 0)]),
            ("a\rb\n", &[("a\rb", 0)]),
            ("a\r\r\n", &[("a\r", 0)]),
            ("1234\n1234\r\n", &[("1234", 0), ("1234", 0)]),
            ("123\r\n", &[("123", 0)]),
            ("12345\n123456\r\n", &[("1234", 1), ("1234", 2)]),
            ("12345\r6\n1234\rx", &[("1234", 3), ("1234", 2)]),
            ("1234567890", &[("1234", 6)]),
        ];
        for (text, expected) in rows {
            for piece in 1..=text.len().max(1) {
                let expected: Vec<_> = expected.iter().map(|(line, cut)| ((*line).to_owned(), *cut)).collect();
                assert_eq!(lines(text.as_bytes(), piece), expected, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let text = vec![b'x'; 1 << 20];
        assert_eq!(lines(&text, 8 << 10), [("xxxx".to_owned(), (1 << 20) - 4)]);
    }
}
