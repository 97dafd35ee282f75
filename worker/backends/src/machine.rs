//! What every backend does whose tasks have processes on this machine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oz_worker_runtime::{Command, Host, Lane, Machine, Owner, Process, Signal};
use tracing::warn;

pub(crate) type ProcessOf<R> = <<R as Host>::Machine as Machine>::Process;
/// All processes of a task there.
pub(crate) type TreeOf<R> = <<R as Host>::Machine as Machine>::Tree;

/// How often orphans that ended while no task did are reaped.
const REAP_INTERVAL: Duration = Duration::from_secs(15);

/// Makes this machine ready for tasks of `owner`: nothing that they leave running escapes from now on, and what those of a
/// crashed worker left running is ended.
pub(crate) async fn adopt<R: Host>(runtime: &R, owner: &Owner) {
    let owner = owner.clone();
    match runtime.on(Lane::Start, move |machine| machine.adopt(&owner)).await {
        Ok(0) => {}
        Ok(ended) => warn!(ended, "ended processes that tasks of a crashed worker with this id had left running"),
        Err(error) => warn!("cannot find every process that a task leaves running: {error}"),
    }
    let own = runtime.clone();
    runtime.spawn(async move {
        loop {
            own.sleep_until(own.now().plus(REAP_INTERVAL)).await;
            own.on(Lane::Finish, |machine| machine.reap()).await;
        }
    });
}

/// Gives back what was taken from the machine.
pub(crate) async fn release<R: Host>(runtime: &R) {
    runtime.on(Lane::Finish, |machine| machine.release()).await;
}

/// Starts a process where that may block. When this is given up it is not started any more; one that was being started is
/// killed as soon as it is there.
pub(crate) async fn start<R: Host>(
    runtime: &R,
    command: Command,
    tree: Option<&Arc<TreeOf<R>>>,
) -> io::Result<ProcessOf<R>> {
    let tree = tree.cloned();
    let begin = move |machine: &R::Machine| machine.start(&command, tree.as_deref()).map(Unclaimed::new);
    runtime.on(Lane::Start, begin).await.and_then(Unclaimed::claim)
}

/// A process on its way to whoever wanted it.
pub(crate) struct Unclaimed<P: Process>(Option<P>);

impl<P: Process> Unclaimed<P> {
    pub(crate) const fn new(process: P) -> Self {
        Self(Some(process))
    }

    pub(crate) fn claim(mut self) -> io::Result<P> {
        self.0.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl<P: Process> Drop for Unclaimed<P> {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.signal_group(Signal::Kill);
        }
    }
}
