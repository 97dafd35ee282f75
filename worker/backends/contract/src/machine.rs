//! What every backend does whose tasks have processes on this machine.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_runtime::{Command, Files, Host, Lane, Machine, Named, Owner, Process, Signal};
use tracing::warn;

pub type ProcessOf<R> = <<R as Host>::Machine as Machine>::Process;
/// All processes of a task there.
pub type TreeOf<R> = <<R as Host>::Machine as Machine>::Tree;

/// How long whoever is asked to stop waits for what is being begun: it is usually there, and then ended as it should be.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long killed processes may take to die before the worker goes on without them.
pub const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How often orphans that ended while no task did are reaped.
const REAP_INTERVAL: Duration = Duration::from_secs(15);

/// Makes this machine ready for tasks of `owner`: nothing that they leave running escapes from now on, and what those of a
/// crashed worker left running is ended.
pub async fn adopt<R: Host>(runtime: &R, owner: &Owner) {
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
            own.on(Lane::Finish, Machine::reap).await;
        }
    });
}

/// The shell that runs the operator's commands.
pub const SHELL: &str = "/bin/sh";

/// The operator's commands cannot run on this machine, in an image without a shell for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("backend {backend}: {SHELL} is to run your commands, and there is no such program here")]
pub struct NoShell {
    backend: &'static str,
}

/// Looks whether the operator's commands can run on this machine.
///
/// # Errors
/// When there is no shell.
pub fn check_shell(files: &impl Files, backend: &'static str) -> Result<(), NoShell> {
    match files.named(Path::new(SHELL)) {
        Ok(Named::File { executable: true }) => Ok(()),
        _ => Err(NoShell { backend }),
    }
}

/// Gives back what was taken from the machine.
pub async fn release<R: Host>(runtime: &R) {
    runtime.on(Lane::Finish, Machine::release).await;
}

/// What `begin` comes to. None when `stop` ended first and it did not come soon after: whatever it comes to then is ended by
/// its owner.
pub async fn begun<R: Host, T>(
    runtime: &R,
    begin: impl Future<Output = T>,
    stop: impl Future<Output = ()>,
) -> Option<T> {
    let begin = async { Some(begin.await) };
    let late = async {
        stop.await;
        runtime.sleep_until(runtime.now().plus(PATIENCE)).await;
        None
    };
    begin.or(late).await
}

/// Starts a process where that may block, if it is still wanted by then, and says so as soon as it runs. When this is given
/// up it is not started any more; one that was being started is killed as soon as it is there.
///
/// # Errors
/// Why the system did not start it; [`Interrupted`](io::ErrorKind::Interrupted) when it is not wanted any more.
pub async fn start<R: Host>(
    runtime: &R,
    command: Command,
    tree: Option<&Arc<TreeOf<R>>>,
    is_wanted: impl FnOnce() -> bool + Send + 'static,
    runs: impl FnOnce() + Send + 'static,
) -> io::Result<ProcessOf<R>> {
    let tree = tree.cloned();
    let begin = move |machine: &R::Machine| {
        if !is_wanted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        machine.start(&command, tree.as_deref()).inspect(|_| runs()).map(Unclaimed::new)
    };
    runtime.on(Lane::Start, begin).await.and_then(Unclaimed::claim)
}

/// A process that is killed with its group when whoever is to have it never does.
pub struct Unclaimed<P: Process>(Option<P>);

impl<P: Process> Unclaimed<P> {
    pub const fn new(process: P) -> Self {
        Self(Some(process))
    }

    /// It, until it is claimed.
    pub const fn process(&mut self) -> Option<&mut P> {
        self.0.as_mut()
    }

    /// Whoever has it now ends it.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound): it was claimed before.
    pub fn claim(mut self) -> io::Result<P> {
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
