//! What a task writes, cut into lines for the log: read, bounded and logged in this one place, whatever the bytes come
//! through. Nothing is held for a task that is silent.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot::{self, Receiver};
use futures_io::AsyncRead;
use futures_lite::FutureExt;
use futures_lite::future::poll_fn;
use oz_worker_core::time::Instant;
use oz_worker_runtime::Runtime;

/// The longest line that is logged whole, in bytes: `docs/configuration.md`, Logs.
pub const LONGEST_LINE: usize = 16 << 10;
/// What is kept of the end of a longer one: an error stands there. The rest of [`LONGEST_LINE`] is its beginning.
pub const LINE_END: usize = 4 << 10;
/// How long a task may be silent in the middle of a line before that is shown as it stands: it may wait for an answer.
const QUIET: Duration = Duration::from_secs(1);
/// How old the beginning of a line may be before it is shown, though more keeps coming.
const OLDEST: Duration = Duration::from_secs(2);
/// How much output is read at once. One buffer per thread, not per task: most tasks are silent most of the time.
const CHUNK: usize = 32 << 10;
/// How long a task waits when it has used up its share of the log: with that share, some 4 MiB of log a second. More would
/// fill any disk, and take the processor from others.
const SHARE_PAUSE: Duration = Duration::from_millis(2);
/// After how many such waits in a row the log is stuck, and lines are dropped instead.
const MOST_PAUSES: u32 = 50;
/// How long a task waits that writes faster than it is read, with or without line breaks: 64 MiB a second at most.
const CHUNK_PAUSE: Duration = Duration::from_micros(500);

/// Where the lines of one task go. Never blocks.
pub trait TaskLog: Send + Sync + 'static {
    /// Whether a line would be taken now. Once one was dropped, the answer is yes until one is taken again: whoever waits
    /// for room waits once and not for every line.
    fn has_room(&self) -> bool;

    /// One line without its break. `cut` is how many bytes of it were thrown away already: they stood before the last
    /// [`LINE_END`] of these. What there is no room for is dropped and counted.
    fn line(&self, line: &[u8], cut: u64);

    /// The last line was written for now: says how many lines were dropped, if any.
    fn end(&self);
}

/// Writes what comes out of `stream` to `log` until the stream ends, beside the caller. What is given back ends then.
pub fn forward<R: Runtime>(
    runtime: &R,
    stream: Option<impl AsyncRead + Unpin + Send + 'static>,
    log: Arc<dyn TaskLog>,
) -> Receiver<()> {
    let (open, closed) = oneshot::channel();
    if let Some(stream) = stream {
        let own = runtime.clone();
        runtime.spawn(async move {
            read_lines(&own, stream, Lines::new(log)).await;
            drop(open);
        });
    }
    closed
}

async fn read_lines<R: Runtime>(runtime: &R, mut stream: impl AsyncRead + Unpin, mut lines: Lines) {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // When the line that stands unfinished is to be shown at the latest.
    let mut latest: Option<Instant> = None;
    loop {
        let read = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(CHUNK, 0);
                let Poll::Ready(read) = Pin::new(&mut stream).poll_read(cx, buffer) else { return Poll::Pending };
                Poll::Ready(Some(read.map(|length| {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let taken = lines.write(bytes, false);
                    (length, bytes.get(taken..).unwrap_or_default().to_vec())
                })))
            })
        });
        let read = match latest {
            None => read.await,
            Some(latest) => {
                let quiet = runtime.sleep_until(latest.min(runtime.now().plus(QUIET)));
                let is_late = async {
                    quiet.await;
                    None
                };
                read.or(is_late).await
            }
        };
        let (length, mut rest) = match read {
            Some(Ok((length @ 1.., rest))) => (length, rest),
            Some(_) => break,
            None => {
                latest = (!lines.show()).then(|| runtime.now().plus(QUIET));
                continue;
            }
        };
        let mut pauses = 0;
        while !rest.is_empty() {
            runtime.sleep_until(runtime.now().plus(SHARE_PAUSE)).await;
            pauses += 1;
            let taken = lines.write(&rest, pauses > MOST_PAUSES);
            pauses = if taken > 0 { 0 } else { pauses };
            rest.drain(..taken);
        }
        latest = lines.has_begun().then(|| latest.unwrap_or_else(|| runtime.now().plus(OLDEST)));
        if length == CHUNK {
            runtime.sleep_until(runtime.now().plus(CHUNK_PAUSE)).await;
        } else {
            futures_lite::future::yield_now().await;
        }
    }
    lines.finish();
}

/// A stream of bytes as lines. A carriage return ends one too: what stands before it would be overwritten on a terminal.
struct Lines {
    log: Arc<dyn TaskLog>,
    /// The beginning of a line whose end has not come yet, at most [`LONGEST_LINE`] bytes of it.
    begun: Vec<u8>,
    /// The last bytes that came of that line after those, at least [`LINE_END`] of them if there were as many.
    last: Vec<u8>,
    /// How many bytes came between the two and were thrown away.
    cut: u64,
    /// What stands before here was logged already, so that a line break here ends nothing.
    is_shown: bool,
}

impl Lines {
    fn new(log: Arc<dyn TaskLog>) -> Self {
        Self { log, begun: Vec::new(), last: Vec::new(), cut: 0, is_shown: false }
    }

    /// Logs every line that is complete now, as long as the log has room for it, and gives how many bytes that took. With
    /// `lossy` it takes all, and the log counts what it has no room for.
    fn write(&mut self, bytes: &[u8], lossy: bool) -> usize {
        let mut taken = 0;
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            if !lossy && !self.log.has_room() {
                break;
            }
            taken += piece.len();
            match piece.split_last() {
                Some((b'\n', line)) => self.end_with(line, false),
                Some((b'\r', line)) => self.end_with(line, true),
                _ => self.begin(piece),
            }
        }
        taken
    }

    /// Ends a line with this piece of it.
    fn end_with(&mut self, piece: &[u8], returns: bool) {
        let is_empty = piece.is_empty() && !self.has_begun();
        if !is_empty {
            if self.has_begun() || piece.len() > LONGEST_LINE {
                self.begin(piece);
                self.end_line();
            } else {
                self.log.line(piece, 0);
            }
            self.is_shown = returns;
        } else if !returns && !std::mem::take(&mut self.is_shown) {
            self.log.line(b"", 0);
        }
    }

    /// Logs the line that has begun as far as it has come, if the log has room; says whether it did.
    fn show(&mut self) -> bool {
        let has_room = self.log.has_room();
        if has_room && self.has_begun() {
            self.end_line();
            self.is_shown = true;
        }
        has_room
    }

    /// Logs what stands after the last line break: no more is to come.
    fn finish(&mut self) {
        if self.has_begun() {
            self.end_line();
        }
        self.log.end();
    }

    fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    fn begin(&mut self, piece: &[u8]) {
        self.is_shown &= piece.is_empty();
        let (first, more) = piece.split_at(piece.len().min(LONGEST_LINE - self.begun.len()));
        self.begun.extend_from_slice(first);
        self.last.extend_from_slice(more);
        // Not at every byte: it moves what is kept.
        if self.last.len() > 2 * LINE_END {
            self.forget(self.last.len() - LINE_END);
        }
    }

    /// Throws away so many of the last bytes, the oldest of them.
    fn forget(&mut self, count: usize) {
        self.last.drain(..count);
        self.cut += count as u64;
    }

    fn end_line(&mut self) {
        let (mut line, mut cut) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.cut));
        let last = std::mem::take(&mut self.last);
        if !last.is_empty() {
            line.extend_from_slice(&last);
            let surplus = line.len() - LONGEST_LINE;
            line.drain(LONGEST_LINE - LINE_END..LONGEST_LINE - LINE_END + surplus);
            cut += surplus as u64;
        }
        self.log.line(&line, cut);
    }
}

#[cfg(fuzzing)]
pub mod fuzzing {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Lines, and how many bytes each has lost.
    type Written = Mutex<Vec<(Vec<u8>, u64)>>;

    struct Log(Written);

    impl TaskLog for Log {
        fn has_room(&self) -> bool {
            true
        }

        fn line(&self, line: &[u8], cut: u64) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((line.to_owned(), cut));
        }

        fn end(&self) {}
    }

    /// The lines of what comes in these pieces.
    pub fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Vec<u8>, u64)> {
        let log = Arc::new(Log(Written::default()));
        let mut lines = Lines::new(log.clone());
        for piece in pieces {
            lines.write(piece, false);
        }
        lines.finish();
        std::mem::take(&mut *log.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]

    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Written(Mutex<Vec<(Vec<u8>, u64)>>);

    impl TaskLog for Written {
        fn has_room(&self) -> bool {
            true
        }

        fn line(&self, line: &[u8], cut: u64) {
            self.0.lock().unwrap().push((line.to_owned(), cut));
        }

        fn end(&self) {}
    }

    fn lines(chunks: &[&[u8]]) -> Vec<(Vec<u8>, u64)> {
        let written = Arc::new(Written::default());
        let mut lines = Lines::new(written.clone());
        for chunk in chunks {
            assert_eq!(lines.write(chunk, false), chunk.len());
        }
        lines.finish();
        written.0.lock().unwrap().clone()
    }

    #[test]
    fn a_line_is_one_however_its_bytes_come() {
        let text = b"one\r\ntwo\n\nlast";
        let whole = lines(&[text]);
        assert_eq!(whole, [&b"one"[..], b"two", b"", b"last"].map(|line| (line.to_owned(), 0)));
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(lines(&[a, b]), whole, "{cut}");
        }
    }

    #[test]
    fn of_what_is_too_long_the_beginning_and_the_end_are_kept() {
        let long = [vec![b'a'; LONGEST_LINE], vec![b'b'; 100_000], b"error: at last".to_vec()].concat();
        for step in [1_000, 7, long.len()] {
            let mut chunks: Vec<&[u8]> = long.chunks(step).collect();
            chunks.push(b"\nz");
            let lines = lines(&chunks);
            let (line, cut) = &lines[0];
            assert_eq!(line.len() as u64 + cut, long.len() as u64);
            assert_eq!(line.len(), LONGEST_LINE);
            assert!(line.starts_with(&long[..LONGEST_LINE - LINE_END]) && line.ends_with(b"bbberror: at last"));
            assert_eq!(lines[1..], [(b"z".to_vec(), 0)]);
        }
        let longest = vec![b'x'; LONGEST_LINE];
        assert_eq!(lines(&[&longest, b"\n"]), [(longest.clone(), 0)]);
    }

    #[test]
    fn a_carriage_return_ends_a_line_and_makes_no_empty_ones() {
        let text = b"\r10%\r20%\r\rdone\r\n\r\nerror\n";
        let whole = lines(&[text]);
        assert_eq!(whole, [&b"10%"[..], b"20%", b"done", b"", b"error"].map(|line| (line.to_owned(), 0)));
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(lines(&[a, b]), whole, "{cut}");
        }
    }

    #[test]
    fn what_was_shown_unfinished_is_ended_by_its_break_without_another_line() {
        for end in ["\n", "\r\n", ""] {
            let written = Arc::new(Written::default());
            let mut lines = Lines::new(written.clone());
            lines.write(b"Password: ", false);
            assert!(lines.show() && lines.show());
            lines.write(end.as_bytes(), false);
            lines.write(b"next\n\n", false);
            lines.finish();
            let expected = [&b"Password: "[..], b"next", b""].map(|line| (line.to_owned(), 0));
            assert_eq!(*written.0.lock().unwrap(), expected, "{end:?}");
        }
    }
}
