//! Backend `kubernetes`: a Job per task.
//!
//! What can be decided without a cluster is a function over what was read: [`names`], [`template`], [`job`], [`preflight`],
//! [`scripts`], [`objects`], [`pulls`], [`access`], [`kubeconfig`], `instance`; how a task ended and what a watch means are state machines, [`verdict`]
//! and [`watch`]. The rest calls the API server through `cluster`.

#![forbid(unsafe_code)]

pub mod access;
mod adoption;
mod begin;
mod cluster;
mod creation;
mod credentials;
mod error;
mod followers;
mod held;
mod instance;
pub mod job;
pub mod kubeconfig;
pub mod names;
pub mod objects;
mod output;
pub mod preflight;
pub mod pulls;
mod quantity;
mod reach;
mod removal;
mod run;
pub mod scripts;
mod settings;
pub mod template;
pub mod verdict;
pub mod watch;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_contract::aside::Aside;
use oz_worker_contract::machine;
use oz_worker_contract::{Common, Earlier, Latch, Resumed, Task};
use oz_worker_core::Failure;
use oz_worker_runtime::Host;
use tracing::info;

use cluster::Cluster;
use followers::Followers;
use held::Held;
use instance::OwnPod;
use names::{WORKER_HASH, hash};
use objects::{Job, Pod};
pub use oz_worker_contract::untyped::Untyped;
pub use settings::{KubernetesSettings, PullPolicy, UnknownPullPolicy};
use watcher::Watcher;

/// How long it may take at start until all Jobs and Pods have been seen.
const LIST_LIMIT: Duration = Duration::from_secs(120);

pub struct KubernetesBackend<R: Host> {
    shared: Arc<Shared<R>>,
    /// The tasks that were taken up at start.
    earlier: Vec<Earlier>,
    /// Set when there are no tasks any more.
    over: Latch,
}

/// What is the same for every task.
struct Shared<R: Host> {
    common: Arc<Common<R>>,
    settings: KubernetesSettings,
    cluster: Arc<Cluster<R>>,
    followers: Arc<Followers>,
    /// This process, as the annotation of its Jobs has it, and the Pod that it runs in.
    instance: String,
    pod: Option<OwnPod>,
    held: Held,
    /// The creations that go on although their task is to stop.
    aside: Aside,
    /// Whether Jobs can be marked.
    can_patch: AtomicBool,
    /// Whether it was said that the Pods of workers cannot be seen.
    is_blind_to_workers: AtomicBool,
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
        let (cluster, pod) = reach::reach(&settings, &common).await.map_err(told)?;
        let cluster = Arc::new(cluster);
        let can_patch = begin::check_access(&cluster, &settings.namespace).await.map_err(told)?;
        begin::check_start(&cluster, &settings, &common.worker_id, can_patch).await.map_err(told)?;
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
        let late = async {
            common.runtime.sleep_until(common.runtime.now().plus(LIST_LIMIT)).await;
            false
        };
        let listed = async {
            followers.listed().await;
            true
        };
        if !listed.or(late).await {
            over.set();
            return Err(told("Jobs and Pods cannot be listed".to_owned()));
        }
        let instance = instance::written(pod.as_ref(), common.owner.mark());
        let shared = Arc::new(Shared {
            common,
            settings,
            cluster,
            followers,
            instance,
            pod,
            held: Held::default(),
            aside: Aside::default(),
            can_patch: can_patch.into(),
            is_blind_to_workers: false.into(),
        });
        let earlier = shared.take_up().await;
        Ok(Self { shared, earlier, over })
    }

    /// The tasks that were taken up at start, from the oldest on.
    pub fn earlier(&self) -> Vec<Earlier> {
        self.earlier.clone()
    }

    /// Takes up what is left by workers that go later, until there are no tasks any more.
    pub async fn find(&self, found: impl Fn(Earlier) + Send) {
        self.shared.find(found).or(self.over.wait()).await;
    }

    /// Lets go what was kept of a task for later workers, whose end is not told any more. None: there is nothing.
    pub fn settle(
        &self,
        task_id: &str,
        execution_id: Option<&str>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        self.shared.settle(task_id, execution_id)
    }

    /// Takes up a task that an earlier worker started; otherwise as [`run`](Self::run).
    pub async fn resume(&self, resumed: Resumed) -> Vec<Failure> {
        self.shared.resume(resumed).await
    }

    /// Runs a task to its end, or until it is asked to stop. Its report is told what became of it; what failed after that is
    /// given.
    pub async fn run(&self, task: Task) -> Vec<Failure> {
        self.shared.run(task).await
    }

    /// Gives back what was taken from the machine, and watches no longer. Nothing that was told to have been stopped begins
    /// afterwards.
    pub async fn release(&self) {
        self.shared.aside.over().await;
        self.over.set();
        machine::release(&self.shared.common.runtime).await;
    }
}
