//! Creations of Jobs that the API server holds up, as a webhook does that gives no answer, and how many are open at once; and those
//! whose answer is lost.

use std::io;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::{AsyncReadExt, FutureExt};

use super::Cluster;
use super::api::Answer;
use crate::network::Stream;

/// How much later its answer is lost: every watch has told of the Job by then, also one on a slow connection.
const LOST_AFTER: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Creations {
    /// Closed when they are held up no longer.
    held: Option<(Sender<()>, Receiver<()>)>,
    open: usize,
    /// Whether their answers are lost, and the Jobs deleted before anybody asks again.
    loses: bool,
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

    /// Loses the answer to every creation from now on, or to none. Somebody deletes the Job meanwhile.
    pub fn lose_creations(&self, loses: bool) {
        self.state().creations.loses = loses;
    }

    /// Lets the tasks run so long whose Jobs are made from now on.
    pub fn set_length(&self, length: Duration) {
        self.state().creations.length = Some(length);
    }

    /// How many Jobs were made for an execution.
    pub fn jobs_of(&self, execution: &str) -> u32 {
        self.truths.of(execution).jobs
    }

    /// By which reason an execution was told to have ended.
    pub fn told(&self, execution: &str) -> Option<String> {
        self.truths.of(execution).told.map(|(_, reason)| reason)
    }

    /// Ends when the answer to a creation may be given.
    ///
    /// # Errors
    /// It is lost.
    pub(super) async fn is_answered(&self, answer: &Answer) -> io::Result<()> {
        let Some(uid) = answer.body["metadata"]["uid"].as_str().filter(|_| self.state().creations.loses) else {
            return Ok(());
        };
        self.lag().await;
        self.journal
            .note(|| format!("cluster: somebody deletes {}, before its creation is answered", self.name_of(uid)));
        self.note(uid, |truth| truth.is_removed = true);
        self.remove_job(uid);
        self.executor.sleep(LOST_AFTER).await;
        Err(io::ErrorKind::ConnectionReset.into())
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
