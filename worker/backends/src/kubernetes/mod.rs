//! Backend `kubernetes`: a Job per task.
//!
//! What can be decided without a cluster is a function over what was read: [`names`], [`template`], [`job`], [`preflight`],
//! [`scripts`], [`objects`], [`pulls`], [`kubeconfig`]; how a task ended and what a watch means are state machines, [`verdict`]
//! and [`watch`]. The rest calls the API server through `cluster`.

mod begin;
mod cluster;
mod credentials;
mod followers;
pub mod job;
pub mod kubeconfig;
pub mod names;
pub mod objects;
pub mod preflight;
pub mod pulls;
mod quantity;
mod run;
pub mod scripts;
mod settings;
pub mod template;
pub mod verdict;
pub mod watch;
mod watcher;

use std::sync::Arc;

use oz_worker_core::Failure;
use oz_worker_runtime::Host;
use tracing::info;

use crate::contract::{Common, Latch, Task};
use crate::machine;
pub use crate::untyped::Untyped;
use cluster::Cluster;
use followers::Followers;
use names::{WORKER_HASH, hash};
use objects::{Job, Pod};
pub use settings::{KubernetesSettings, PullPolicy, UnknownPullPolicy};
use watcher::Watcher;

pub struct KubernetesBackend<R: Host> {
    shared: Arc<Shared<R>>,
    /// Set when there are no tasks any more.
    over: Latch,
}

/// What is the same for every task.
struct Shared<R: Host> {
    common: Arc<Common<R>>,
    settings: KubernetesSettings,
    cluster: Arc<Cluster<R>>,
    followers: Arc<Followers>,
}

/// A Job that is followed; no longer once this is dropped.
struct LookedAt {
    followers: Arc<Followers>,
    uid: String,
}

impl Drop for LookedAt {
    fn drop(&mut self) {
        self.followers.leave(&self.uid);
    }
}

impl<R: Host> KubernetesBackend<R> {
    /// The backend on a cluster that starts Pods for it.
    ///
    /// # Errors
    /// What stands in the way, in one line.
    pub async fn prepare(settings: KubernetesSettings, common: Arc<Common<R>>) -> Result<Self, String> {
        let told = |problem: String| format!("backend kubernetes: {problem}");
        machine::adopt(&common.runtime, &common.owner).await;
        let cluster = Arc::new(begin::reach(&settings, &common).await.map_err(told)?);
        begin::check_access(&cluster, &settings.namespace).await.map_err(told)?;
        begin::check_start(&cluster, &settings, &common.worker_id).await.map_err(told)?;
        info!(namespace = settings.namespace, "the cluster starts Pods");

        let (followers, over) = (Arc::new(Followers::default()), Latch::default());
        let watcher = Arc::new(Watcher {
            cluster: Arc::clone(&cluster),
            followers: Arc::clone(&followers),
            selector: format!("{WORKER_HASH}={}", hash(&common.worker_id)),
            over: over.clone(),
        });
        let (jobs, pods) = (Arc::clone(&watcher), watcher);
        common.runtime.spawn(async move { jobs.watch::<Job>(jobs.cluster.jobs()).await });
        common.runtime.spawn(async move { pods.watch::<Pod>(pods.cluster.core("pods")).await });
        Ok(Self { shared: Arc::new(Shared { common, settings, cluster, followers }), over })
    }

    pub(crate) async fn run(&self, task: Task) -> Vec<Failure> {
        self.shared.run(task).await
    }

    /// Gives back what was taken from the machine, and watches no longer.
    pub(crate) async fn release(&self) {
        self.over.set();
        machine::release(&self.shared.common.runtime).await;
    }
}
