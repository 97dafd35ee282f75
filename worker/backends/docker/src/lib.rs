//! Backend `docker`: a container per task on a Docker Engine.
//!
//! What can be decided without an engine is a function over what was read: [`endpoint`], [`credentials`], [`registry`],
//! [`pull`], [`container`], [`state`], [`tail`]. The rest calls the engine through `engine`.

#![forbid(unsafe_code)]

mod calls;
pub mod container;
mod creation;
pub mod credentials;
mod earlier;
mod ending;
pub mod endpoint;
mod engine;
mod error;
mod filling;
mod images;
mod instance;
mod keyring;
pub mod labels;
mod line;
pub mod place;
pub mod pull;
mod refusals;
pub mod registry;
mod removal;
mod reply;
mod run;
mod settings;
mod sidecar_error;
mod sidecars;
pub mod state;
pub mod tail;
mod volumes;
mod wait;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oz_worker_contract::aside::Aside;
use oz_worker_contract::earlier::Left;
use oz_worker_contract::ends::{Ends, Key};
use oz_worker_contract::machine;
use oz_worker_contract::program::find_program;
use oz_worker_contract::turns::Turns;
use oz_worker_contract::{Common, Earlier, Resumed, Task};
use oz_worker_core::Failure;
use oz_worker_net::Destination;
use oz_worker_runtime::{Host, Lane, Machine};
use serde::Deserialize;
use tracing::{info, warn};

use calls::Call;
use earlier::TakenUp;
use ending::Ended;
use endpoint::Endpoint;
use engine::Engine;
use error::EngineError;
use filling::Fillers;
use images::{Images, architecture};
use instance::Instance;
use keyring::Keyring;
use labels::Owned;
use line::Ssh;
use place::Place;
use reply::within;
pub use settings::{DockerSettings, PullWhen, UnknownPullWhen, VolumeError, check_volume};
use sidecars::Sidecars;

/// How long an engine may take to answer at start.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How many containers are made and started at once: an engine does few at a time, and each takes memory here.
const MOST_STARTS: usize = 16;
/// How many containers stay at most whose end the server is not known to have heard. One that is away gives no further tasks, so
/// these are as many as ran; one that answers no Ping must not fill the engine's disk.
const MOST_ENDED: usize = 100;

pub struct DockerBackend<R: Host> {
    shared: Arc<Shared<R>>,
}

/// What is the same for every task.
struct Shared<R: Host> {
    common: Arc<Common<R>>,
    settings: DockerSettings,
    extra_labels: Vec<(String, String)>,
    engine: Arc<Engine<R>>,
    images: Arc<Images<R>>,
    sidecars: Arc<Sidecars<R>>,
    /// This process, as its containers name it.
    own: Instance,
    /// The tasks that earlier workers started, from the oldest on.
    earlier: Vec<Left<TakenUp>>,
    /// The line of those who make a container and start it.
    starts: Turns<()>,
    /// What is removed beside everything else.
    aside: Arc<Aside>,
    /// The containers that stay until the server has heard how they ended.
    ends: Ends<Ended>,
}

/// What an engine says of itself (`GET /info`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(rename = "OSType", default)]
    os_type: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    server_version: String,
    #[serde(default = "yes")]
    memory_limit: bool,
    #[serde(default = "yes")]
    swap_limit: bool,
    #[serde(default = "yes", rename = "CPUCfsQuota", alias = "CpuCfsQuota")]
    cpu_cfs_quota: bool,
}

/// What is not said is not missing.
const fn yes() -> bool {
    true
}

impl Info {
    /// The limits that the engine cannot enforce.
    fn missing_limits(&self) -> Vec<&'static str> {
        let limits = [(self.memory_limit, "memory"), (self.swap_limit, "swap"), (self.cpu_cfs_quota, "CPUs")];
        limits.into_iter().filter(|(is_there, _)| !is_there).map(|(_, name)| name).collect()
    }
}

impl<R: Host> Shared<R> {
    fn owned(&self) -> Owned<'_> {
        Owned { worker_id: &self.common.worker_id, instance: self.own.text() }
    }

    fn taken_up(&self, task_id: &str, execution_id: Option<&str>) -> Option<TakenUp> {
        let is_it =
            |left: &&Left<TakenUp>| left.task.task_id == task_id && left.task.execution_id.as_deref() == execution_id;
        self.earlier.iter().find(is_it).map(|left| left.thing.clone())
    }
}

impl<R: Host> DockerBackend<R> {
    /// The backend on an engine that answers and can run tasks.
    ///
    /// # Errors
    /// What stands in the way, in one line.
    pub async fn prepare(settings: DockerSettings, common: Arc<Common<R>>) -> Result<Self, String> {
        let runtime = common.runtime.clone();
        machine::adopt(&runtime, &common.owner).await;
        let Reached { engine, place, hint } = reach(&common).await?;
        let engine = Arc::new(engine);
        let call = Call::get("/info").silence(Some(START_LIMIT));
        let answer = within(&runtime, Some(START_LIMIT), engine.once(&call)).await;
        let info: Result<Info, _> =
            answer.and_then(|json| serde_json::from_slice(&json).map_err(|_| EngineError::Form));
        let hint = |error: &EngineError| if matches!(error, EngineError::Exchange(_)) { hint } else { "" };
        let info = info.map_err(|error| {
            format!("backend docker: the engine at {place} does not answer: {error}{}", hint(&error))
        })?;
        let kind = architecture(&info.architecture).filter(|_| info.os_type == "linux").ok_or_else(|| {
            format!(
                "backend docker: the engine at {place} runs {}/{} containers; tasks need linux/amd64 or linux/arm64",
                info.os_type, info.architecture
            )
        })?;
        info!(engine = place, version = info.server_version, platform = format!("linux/{kind}"), "the engine answers");
        let missing = info.missing_limits();
        if !missing.is_empty() {
            warn!(
                "the engine cannot limit {} of containers: tasks that ask for a limit run without",
                missing.join(", ")
            );
        }
        for key in settings.conflicts() {
            warn!("{key} of container_options has no effect: the worker sets it");
        }
        let listed = |error| format!("backend docker: cannot list containers: {error}");
        let own = Instance::find(&engine, &common.owner).await.map_err(listed)?;
        if let Some(container) = own.container() {
            info!("this worker runs in container {} of that engine", container.get(..12).unwrap_or(container));
        }
        let earlier = earlier::take_up(&engine, &own, &common.worker_id).await.map_err(listed)?;
        runtime.spawn(earlier::remove_late(Arc::clone(&engine), own.clone(), common.worker_id.clone()));

        let keyring = Keyring::new(runtime.clone(), common.host_env.clone());
        let images = Arc::new(Images::new(Arc::clone(&engine), keyring, settings.pull_policy, kind));
        let aside = Arc::new(Aside::default());
        let fillers = Fillers::new(Arc::clone(&engine), own.clone(), common.worker_id.clone(), Arc::clone(&aside));
        let sidecars = Arc::new(Sidecars::new(Arc::clone(&engine), Arc::clone(&images), fillers));
        if let Some(ttl) = settings.sidecar_volume_ttl {
            runtime.spawn(Arc::clone(&sidecars).collect(ttl));
        }
        let extra_labels = settings.extra_labels.clone().into_iter().collect();
        let (starts, ends) = (Turns::new(MOST_STARTS), Ends::new(MOST_ENDED));
        let shared =
            Shared { common, settings, extra_labels, engine, images, sidecars, own, earlier, starts, aside, ends };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The tasks that earlier workers started and that this one has taken up, from the oldest on.
    pub fn earlier(&self) -> Vec<Earlier> {
        self.shared.earlier.iter().map(|left| left.task.clone()).collect()
    }

    /// Lets go what was kept of a task for later workers, whose end is not told any more. None: there is nothing.
    pub fn settle(
        &self,
        task_id: &str,
        execution_id: Option<&str>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let ended = self.shared.ends.heard(&Key::new(task_id, execution_id))?;
        let own = Arc::clone(&self.shared);
        Some(async move { own.let_go(ended).await })
    }

    /// Runs a task to its end, or until it is asked to stop. Its report is told what became of it; what failed after that is
    /// given.
    pub async fn run(&self, task: Task) -> Vec<Failure> {
        self.shared.run(task).await
    }

    /// Takes up a task that an earlier worker started; otherwise as [`run`](Self::run).
    pub async fn resume(&self, resumed: Resumed) -> Vec<Failure> {
        self.shared.resume(resumed).await
    }

    /// Gives back what was taken from the machine.
    pub async fn release(&self) {
        self.shared.aside.over().await;
        machine::release(&self.shared.common.runtime).await;
    }
}

/// An engine that was found and not called yet.
struct Reached<R: Host> {
    engine: Engine<R>,
    /// Where it is, in words.
    place: String,
    /// What may be wrong when it takes a connection and does not answer.
    hint: &'static str,
}

/// The engine, found as the docker client finds it.
async fn reach<R: Host>(common: &Common<R>) -> Result<Reached<R>, String> {
    let runtime = &common.runtime;
    let (env, program_env) = (common.host_env.clone(), common.host_env.clone());
    let look = move |machine: &R::Machine| {
        let text = |name: &str| env.get(name).map(|value| value.to_string_lossy().into_owned());
        let endpoint = endpoint::find(&text, machine.files()).map_err(|error| error.to_string())?;
        let ssh = match &endpoint.place {
            Place::Ssh(_) => {
                Some(find_program(machine.files(), "ssh", env.get("PATH")).map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        Ok::<(Endpoint, Option<PathBuf>), String>((endpoint, ssh))
    };
    let (endpoint, program) =
        runtime.on(Lane::Start, look).await.map_err(|problem| format!("backend docker: {problem}"))?;
    let place = endpoint.to_string();
    let env = |name: &str| program_env.get(name).map(|value| value.to_string_lossy().into_owned());
    let mut hint = "";
    let (destination, ssh) = match endpoint.place {
        Place::Unix(path) => (Destination::Unix(path), None),
        Place::Url(url) => {
            let (url, tls) = *url;
            // An engine that knows its clients hangs up, and TLS 1.3 does not say why before that.
            if url.is_secure() && tls.client.is_none() {
                hint = "; it may want to know who asks: put cert.pem and key.pem beside ca.pem";
            }
            let destination = Destination::new(url, &env, Arc::new(tls));
            (destination.map_err(|error| format!("backend docker: {error}"))?, None)
        }
        // Only the head of a request needs one: what carries it is the program.
        Place::Ssh(host) => {
            let ssh = program.map(|program| Ssh { program, host, env: program_env.clone() });
            (Destination::Unix(PathBuf::new()), ssh)
        }
    };
    Ok(Reached { engine: Engine::new(runtime.clone(), destination, ssh), place, hint })
}
