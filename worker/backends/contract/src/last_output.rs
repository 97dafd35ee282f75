//! The last of what a container wrote, into the log after a failure: how much is asked for, what is kept of it, and its way to
//! the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_runtime::Runtime;

use crate::output::{TaskLog, forward};

/// How long it may take to be read, and to be logged.
pub const LIMIT: Duration = Duration::from_secs(10);
/// The most that is kept, in bytes.
pub const MOST: usize = 1 << 20;
/// The most that is read, in bytes: whoever gives it sends whole lines, however long.
pub const MOST_READ: u64 = 64 << 20;
/// How many last lines are asked for, and how many when those are too long to be read: engines cut lines at 16 KiB, and this
/// many hold all that is kept.
const LINES: u32 = 10_000;
const LONG_LINES: u32 = 64;

/// Reads the last lines. `ask` reads so many of them; `None` from it: they are longer than [`MOST_READ`].
///
/// # Errors
/// What `ask` fails with.
pub async fn read<E, F>(ask: impl Fn(u32) -> F) -> Result<Vec<u8>, E>
where
    F: Future<Output = Result<Option<Vec<u8>>, E>>,
{
    // An answer that is broken off lacks its end, which says most.
    if let Some(text) = ask(LINES).await? {
        return Ok(text);
    }
    Ok(ask(LONG_LINES).await?.unwrap_or_default())
}

/// Logs a text line by line.
pub async fn show<R: Runtime>(runtime: &R, text: Vec<u8>, log: &Arc<dyn TaskLog>) {
    let written = forward(runtime, Some(futures_lite::io::Cursor::new(text)), Arc::clone(log));
    let written = async {
        let _ = written.await;
    };
    written.or(runtime.sleep_until(runtime.now().plus(LIMIT))).await;
}

/// Keeps the end of what it takes.
#[derive(Debug, Default)]
pub struct Last {
    kept: VecDeque<u8>,
    /// Whether something was thrown away at the beginning.
    is_cut: bool,
}

impl Last {
    pub fn take(&mut self, bytes: &[u8]) {
        // Only the end of a piece that is larger than all that is kept.
        let skipped = bytes.len().saturating_sub(MOST);
        self.kept.extend(bytes.get(skipped..).unwrap_or_default());
        let over = self.kept.len().saturating_sub(MOST);
        self.kept.drain(..over);
        self.is_cut |= skipped + over > 0;
    }

    /// What is kept. Where something was thrown away it begins with the first whole line.
    pub fn finish(self) -> Vec<u8> {
        let kept = Vec::from(self.kept);
        let whole = if self.is_cut { kept.iter().position(|byte| *byte == b'\n') } else { None };
        match whole {
            Some(end) => kept.get(end + 1..).unwrap_or_default().to_vec(),
            None => kept,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::RefCell;

    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn only_the_end_is_kept_and_it_begins_with_a_line() {
        let mut last = Last::default();
        last.take(&[vec![b'x'; MOST], b"\nlast\n".to_vec()].concat());
        assert_eq!(last.finish(), b"last\n");
        let mut last = Last::default();
        for piece in [&vec![b'y'; MOST - 2][..], b"y\n", b"one\n"] {
            last.take(piece);
        }
        assert_eq!(last.finish(), b"one\n", "half a line may be half a secret");
        let mut last = Last::default();
        last.take(b"all");
        assert_eq!(last.finish(), b"all");
    }

    #[test]
    fn lines_that_are_too_long_are_asked_for_again_and_fewer() {
        let asked = RefCell::new(Vec::new());
        let read = |is_long: bool| {
            let ask = |lines: u32| {
                asked.borrow_mut().push(lines);
                let answer = (!is_long || lines == LONG_LINES).then(|| b"text".to_vec());
                async move { Ok::<_, ()>(answer) }
            };
            block_on(read(ask)).unwrap()
        };
        assert_eq!((read(false), read(true)), (b"text".to_vec(), b"text".to_vec()));
        assert_eq!(*asked.borrow(), [LINES, LINES, LONG_LINES]);
    }
}
