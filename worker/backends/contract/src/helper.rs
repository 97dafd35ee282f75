//! A program that is asked for something: bounded in bytes and in time, and killed with its process group.

use std::io;
use std::time::Duration;

use futures_lite::future::zip;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWriteExt, FutureExt};
use oz_worker_runtime::{Command, Exit, Host, Process, Signal};

use crate::machine;

/// What it said and how it ended.
pub struct Answer {
    pub exit: Exit,
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    #[error("its end cannot be awaited: {0}")]
    Wait(io::Error),
    #[error("it took longer than {} s", .0.as_secs())]
    Late(Duration),
}

/// Runs `command`, gives it `input`, and reads at most so many bytes of what it writes to each of its pipes. It may take as
/// long as `limit`; whatever it then still runs is killed.
///
/// # Errors
/// [`HelperError`].
pub async fn ask<R: Host>(
    runtime: &R,
    command: Command,
    input: &[u8],
    most: u64,
    limit: Duration,
) -> Result<Answer, HelperError> {
    let started = machine::start(runtime, command, None, || true, || ()).await;
    let mut process = started.map_err(HelperError::Start)?;
    let (to, output, errors) = (process.input(), process.output(), process.errors());
    let answered = async {
        let told = async {
            if let Some(mut to) = to {
                // One that does not read what it is asked for may know it.
                let _ = to.write_all(input).await;
            }
        };
        let (((), output), errors) = zip(zip(told, beginning(output, most)), beginning(errors, most)).await;
        let exit = process.wait().await.map_err(HelperError::Wait)?;
        Ok(Answer { exit, output, errors })
    };
    let late = async {
        runtime.sleep_until(runtime.now().plus(limit)).await;
        Err(HelperError::Late(limit))
    };
    let answer = answered.or(late).await;
    process.signal_group(Signal::Kill);
    answer
}

/// The first bytes of a stream. The rest is read and thrown away, so that whoever writes it comes to an end.
async fn beginning(stream: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut read = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(most).read_to_end(&mut read).await;
        let _ = futures_lite::io::copy(stream, futures_lite::io::sink()).await;
    }
    read
}
