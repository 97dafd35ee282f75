//! The end of a task on this machine: whatever it left running is ended, and its place given back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot::Receiver;
use futures_lite::FutureExt;
use oz_worker_contract::Report;
use oz_worker_contract::machine::{KILL_LIMIT, ProcessOf, TreeOf};
use oz_worker_core::Failure;
use oz_worker_core::metrics::FailureReason;
use oz_worker_runtime::{Files, Host, Lane, Machine, Tree};
use oz_worker_telemetry::TaskTrace;

use tracing::warn;

use super::workspaces::Workspace;
use super::{Job, Place, steps};

/// How long a task waits until nothing of it is left on this machine. A large removal, or a file system that does not
/// answer, has the rest of its time beside: the task's end is known, and somebody waits to hear it.
const LIMIT: Duration = Duration::from_secs(6);

/// What a task leaves on this machine.
pub(super) struct Left<R: Host> {
    pub(super) task_id: String,
    pub(super) trace: TaskTrace,
    pub(super) place: Place,
    pub(super) tree: Arc<TreeOf<R>>,
    /// Kept until nothing is left, because the tree knows descendants by their groups.
    pub(super) over: Vec<ProcessOf<R>>,
    pub(super) outputs: Vec<Receiver<()>>,
}

/// Kills what is left of a task until nothing is, and gives back its place. A failure is given when it happens in time, and
/// else told to `report`.
pub(super) async fn end<R: Host>(runtime: &R, job: &Arc<Job>, left: Left<R>, report: &Report) -> Option<Failure> {
    let mut ending = Box::pin(clear_and_remove(runtime.clone(), Arc::clone(job), left));
    let in_time = async { Some((&mut ending).await) };
    let late = async {
        runtime.sleep_until(runtime.now().plus(LIMIT)).await;
        None
    };
    if let Some(failure) = in_time.or(late).await {
        return failure;
    }
    let report = report.clone();
    runtime.spawn(async move {
        if let Some(failure) = ending.await {
            report.cleanup_failed(failure);
        }
    });
    None
}

async fn clear_and_remove<R: Host>(runtime: R, job: Arc<Job>, left: Left<R>) -> Option<Failure> {
    let Left { task_id, trace, place, tree, over, outputs } = left;
    let path = place.own.path().to_owned();
    let until = runtime.now().plus(KILL_LIMIT);
    let mut pause = Duration::from_micros(500);
    let mut held = (place, over);
    let given = loop {
        let is_last = runtime.now() >= until;
        let (tree, job) = (Arc::clone(&tree), Arc::clone(&job));
        let look = move |machine: &R::Machine| {
            let is_empty = tree.is_empty();
            if !is_empty && !is_last {
                tree.kill();
                return Look::<R>::Held(held);
            }
            let (place, over) = held;
            drop(over);
            Look::Given(is_empty, give_back(machine.files(), &job, place.own))
        };
        match runtime.on(Lane::Finish, look).await {
            Look::Given(true, given) => break given,
            Look::Given(false, given) => {
                let trace_id = trace.id();
                warn!(
                    task_id,
                    trace_id, "a process of the task did not die of SIGKILL within 5 s; going on without it"
                );
                break given;
            }
            Look::Held(back) => held = back,
        }
        runtime.sleep_until(runtime.now().plus(pause)).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    steps::read_out(&runtime, outputs).await;
    let removed = match given {
        Given::Back(result) => result,
        Given::Rest(rest) => runtime.on(Lane::Remove, move |machine| rest.remove(machine.files())).await,
    };
    let failure = |error| Failure::new(FailureReason::Cleanup, format!("cannot remove {}: {error}", path.display()));
    removed.err().map(failure)
}

/// What a look at a task's processes came to.
enum Look<R: Host> {
    /// The place was given back; whether nothing was left of them.
    Given(bool, Given),
    /// Something was left, and is killed.
    Held((Place, Vec<ProcessOf<R>>)),
}

/// How far a place was given back at once.
enum Given {
    /// Nothing is left to do.
    Back(io::Result<()>),
    /// There is something in it, whose removal may take long.
    Rest(Workspace),
}

fn give_back(files: &impl Files, job: &Job, mut own: Workspace) -> Given {
    // The private directory beside a shared one holds nothing that anybody would want to look at.
    if !job.cleanup && job.settings.target_dir.is_none() {
        Given::Back(own.keep(files))
    } else if own.remove_if_empty(files) {
        Given::Back(Ok(()))
    } else {
        own.set_aside(files, &job.workspaces);
        Given::Rest(own)
    }
}
