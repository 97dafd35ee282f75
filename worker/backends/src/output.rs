//! What a task writes, cut into lines for the log: read, bounded and logged in this one place, whatever the bytes come
//! through. Nothing is held for a task that is silent.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot::{self, Receiver};
use futures_io::AsyncRead;
use futures_lite::future::poll_fn;
use oz_worker_runtime::Runtime;

/// The longest line that is logged, in bytes: `docs/configuration.md`, Logs.
pub const LONGEST_LINE: usize = 16 << 10;
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

    /// One line without its break. `cut` is how many further bytes of it were thrown away already. What there is no room
    /// for is dropped and counted.
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
    loop {
        let read = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(CHUNK, 0);
                let Poll::Ready(read) = Pin::new(&mut stream).poll_read(cx, buffer) else { return Poll::Pending };
                Poll::Ready(read.map(|length| {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let taken = lines.write(bytes, false);
                    (length, bytes.get(taken..).unwrap_or_default().to_vec())
                }))
            })
        });
        let Ok((length @ 1.., mut rest)) = read.await else { break };
        let mut pauses = 0;
        while !rest.is_empty() {
            runtime.sleep_until(runtime.now().plus(SHARE_PAUSE)).await;
            pauses += 1;
            let taken = lines.write(&rest, pauses > MOST_PAUSES);
            pauses = if taken > 0 { 0 } else { pauses };
            rest.drain(..taken);
        }
        if length == CHUNK {
            runtime.sleep_until(runtime.now().plus(CHUNK_PAUSE)).await;
        } else {
            futures_lite::future::yield_now().await;
        }
    }
    lines.finish();
}

/// A stream of bytes as lines.
struct Lines {
    log: Arc<dyn TaskLog>,
    /// The beginning of a line whose end has not come yet, at most [`LONGEST_LINE`] bytes of it.
    begun: Vec<u8>,
    /// How many more bytes of that line came and were thrown away.
    cut: u64,
}

impl Lines {
    fn new(log: Arc<dyn TaskLog>) -> Self {
        Self { log, begun: Vec::new(), cut: 0 }
    }

    /// Logs every line that is complete now, as long as the log has room for it, and gives how many bytes that took. With
    /// `lossy` it takes all, and the log counts what it has no room for.
    fn write(&mut self, bytes: &[u8], lossy: bool) -> usize {
        let mut taken = 0;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !lossy && !self.log.has_room() {
                break;
            }
            taken += piece.len();
            match piece.strip_suffix(b"\n") {
                Some(line) if self.begun.is_empty() && self.cut == 0 => self.log(line, 0),
                Some(rest) => {
                    self.begin(rest);
                    self.end_line();
                }
                None => self.begin(piece),
            }
        }
        taken
    }

    /// Logs what stands after the last line break: no more is to come.
    fn finish(&mut self) {
        if !self.begun.is_empty() {
            self.end_line();
        }
        self.log.end();
    }

    fn begin(&mut self, piece: &[u8]) {
        let (kept, cut) = piece.split_at(piece.len().min(LONGEST_LINE - self.begun.len()));
        self.begun.extend_from_slice(kept);
        self.cut += cut.len() as u64;
    }

    fn end_line(&mut self) {
        let (line, cut) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.cut));
        self.log(&line, cut);
    }

    fn log(&self, line: &[u8], cut: u64) {
        self.log.line(line.strip_suffix(b"\r").unwrap_or(line), cut);
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
    fn what_is_too_long_is_cut_and_counted() {
        let long = vec![b'x'; LONGEST_LINE + 7];
        assert_eq!(lines(&[&long, b"y\nz"]), [(vec![b'x'; LONGEST_LINE], 8), (b"z".to_vec(), 0)]);
        let longest = vec![b'x'; LONGEST_LINE];
        assert_eq!(lines(&[&longest, b"\n"]), [(longest.clone(), 0)]);
    }
}
