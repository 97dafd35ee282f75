//! Creations of Jobs that the API server holds up, as a webhook does that gives no answer; and how many are open at once.

use std::io;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::{AsyncReadExt, FutureExt};

use super::Cluster;
use crate::network::Stream;

#[derive(Default)]
pub struct Creations {
    /// Closed when they are held up no longer.
    held: Option<(Sender<()>, Receiver<()>)>,
    open: usize,
    /// How long every task runs, when it is not drawn.
    pub length: Option<Duration>,
}

/// A creation that somebody waits for.
struct Open(Cluster);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state().creations.open -= 1;
    }
}

impl Cluster {
    /// Holds up every creation of a Job from now on, or lets them all go on.
    pub fn hold_creations(&self, holds: bool) {
        self.truths.disturb(holds);
        self.state().creations.held = holds.then(|| async_channel::bounded(1));
    }

    /// How many creations are held up, and somebody waits for them.
    pub fn open_creations(&self) -> usize {
        self.state().creations.open
    }

    /// Lets the tasks run so long whose Jobs are made from now on.
    pub fn set_length(&self, length: Duration) {
        self.state().creations.length = Some(length);
    }

    /// How many Jobs were made for an execution.
    pub fn jobs_of(&self, execution: &str) -> u32 {
        self.truths.of(execution).jobs
    }

    /// Ends when a creation may go on.
    ///
    /// # Errors
    /// Nobody waits for it any more.
    pub(super) async fn is_let_go(&self, stream: &mut Stream) -> io::Result<()> {
        let Some(held) = self.state().creations.held.as_ref().map(|held| held.1.clone()) else { return Ok(()) };
        self.state().creations.open += 1;
        let _open = Open(self.clone());
        let let_go = async {
            let _ = held.recv().await;
            Ok(())
        };
        let mut rest = [0];
        let given_up = async {
            let _ = stream.read(&mut rest).await;
            Err(io::ErrorKind::UnexpectedEof.into())
        };
        let_go.or(given_up).await
    }
}
