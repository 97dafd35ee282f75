//! A second worker of the same id: it comes and goes beside the first one, as an upgrade has it in which old and new overlap.

use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt;

use crate::executor::OUTSIDE;
use crate::ledger::Ledger;
use crate::scene::Scene;

/// The second worker, and who lets it come and go.
pub struct Pair {
    pub second: Scene,
    /// Closed when it is to come and go no longer, and once it does not.
    over: Sender<()>,
    ended: Receiver<()>,
}

impl Pair {
    /// A second worker that comes and goes from now on, if there is to be one.
    pub fn start(first: &Scene) -> Option<Self> {
        let second = (**first.second.as_ref()?).clone();
        let (over, is_over) = async_channel::bounded(1);
        let (ends, ended) = async_channel::bounded(1);
        let own = second.clone();
        second.executor.spawn(OUTSIDE, async move {
            come_and_go(own, is_over).await;
            ends.close();
        });
        Some(Self { second, over, ended })
    }

    /// From now on it is there or not: gives what the server has handed to it, and what it has not answered if it is gone.
    pub async fn settle(&self) -> Vec<(String, String)> {
        self.over.close();
        let _ = self.ended.recv().await;
        if self.second.is_running() {
            match self.second.executor.random(|random| random.u32(..3)) {
                0 => self.second.kill(),
                1 => leave(&self.second).await,
                _ => {}
            }
        }
        if self.second.is_running() { Vec::new() } else { self.second.server.ledger(Ledger::gone) }
    }
}

async fn come_and_go(second: Scene, is_over: Receiver<()>) {
    let executor = second.executor.clone();
    loop {
        let pause = executor.sleep(executor.duration(Duration::from_secs(1), Duration::from_secs(900)));
        let over = async {
            let _ = is_over.recv().await;
        };
        pause.or(over).await;
        if is_over.is_closed() {
            return;
        }
        match executor.random(|random| random.u32(..100)) {
            _ if !second.is_running() => second.start(),
            0..40 => second.kill(),
            40..80 => leave(&second).await,
            _ => {}
        }
    }
}

/// Asks it to leave, which it does in time. Then nothing of it runs any more.
pub async fn leave(worker: &Scene) {
    worker.ask_to_leave();
    worker.leaves_in_time().await;
    worker.kill();
}
