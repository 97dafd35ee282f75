//! From the command line to the run loop and out again.

use std::ffi::OsString;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use oz_worker_core::agent::AgentSettings;
use oz_worker_core::{AfterKill, Config, Worker};
use oz_worker_telemetry::{Identity, Telemetry};
use tracing::{error, info, warn};

use crate::backend::{Backend, CommandBackend, DirectBackend};
use crate::host::{Owner, Workspaces, give_back_code};
use crate::link::{Link, Target};
use crate::logs;
use crate::run::RunLoop;
use crate::runtime::{Files, Runtime};
use crate::settings::{About, Invocation, Refusal, Settings, backend, check, from_args};

/// The version that the program reports, in `--version`, metrics and requests.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long a stopped task may take beyond its grace period: teardown command, removal of the workspace.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(10);
/// How long the last export of metrics may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long the last lines of the log may take.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// The program `oz-agent-worker`, over the runtime of this name that `start` makes. `drive` runs a future on the calling
/// thread until it ends.
///
/// Exit codes: 0 after a clean stop, 1 when the worker cannot start, 2 for bad flags or configuration.
pub fn main<R: Runtime>(
    name: &'static str,
    start: impl FnOnce() -> io::Result<R>,
    drive: impl FnOnce(&R, Pin<Box<dyn Future<Output = ()> + '_>>),
) -> ExitCode {
    let about = About { version: VERSION, commit: option_env!("OZ_WORKER_COMMIT"), runtime: name };
    let env = |name: &str| std::env::var(name).ok();
    let path = std::env::var_os("PATH");
    let invocation = from_args(std::env::args_os().skip(1).collect(), &env, &|path| std::fs::read(path), &about);
    let checked = invocation.and_then(|invocation| match invocation {
        Invocation::Print(text) => Ok(Err(text)),
        Invocation::Check(settings) => {
            let metrics = env("OTEL_METRICS_EXPORTER").filter(|exporters| !exporters.trim().is_empty());
            let metrics = metrics.as_deref().unwrap_or("otlp (the default of OTEL_METRICS_EXPORTER)");
            check::report(&settings, path.as_deref(), metrics).map(Err)
        }
        Invocation::Run(settings) => settings.unavailable().map_or(Ok(Ok(settings)), Err),
    });
    match checked {
        Ok(Ok(settings)) => serve(&settings, about, start, drive),
        Ok(Err(text)) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(refusal) => refuse(&refusal),
    }
}

fn refuse(refusal: &Refusal) -> ExitCode {
    for line in &refusal.lines {
        let _ = writeln!(io::stderr(), "oz-agent-worker: {line}");
    }
    ExitCode::from(refusal.exit_code)
}

/// Runs the worker until it is asked to stop.
fn serve<R: Runtime>(
    settings: &Settings,
    about: About,
    start: impl FnOnce() -> io::Result<R>,
    drive: impl FnOnce(&R, Pin<Box<dyn Future<Output = ()> + '_>>),
) -> ExitCode {
    if let Err(error) = logs::init(settings.log_level, settings.log_format) {
        let _ = writeln!(io::stderr(), "oz-agent-worker: cannot start the log: {error}");
        return ExitCode::FAILURE;
    }
    let worker_id = settings.worker_id.as_str();
    let backend = settings.backend.name();
    info!(version = VERSION, runtime = about.runtime, worker_id, backend, "oz-agent-worker starts");
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let ended = start().map_err(|error| format!("cannot start the runtime: {error}")).and_then(|runtime| {
        let prepared = Prepared::new(&runtime, settings)?;
        let identity = Identity {
            version: VERSION.to_owned(),
            worker_id: settings.worker_id.clone(),
            backend: settings.backend.name().to_owned(),
            max_concurrent_tasks: settings.max_concurrent_tasks,
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            status_page: settings.status_page,
        };
        let (mut recorder, mut telemetry): (_, Telemetry) =
            oz_worker_telemetry::start(&identity, |name| std::env::var(name).ok());
        if let Some((host, port)) = &settings.health_address {
            telemetry.serve_health(&mut recorder, &identity, host, *port);
        }
        let run_loop = RunLoop::new(runtime.clone(), prepared.link, prepared.backend, recorder, prepared.signals);
        let seed = RandomState::new().build_hasher().finish();
        give_back_code();
        drive(&runtime, Box::pin(run_loop.run(Worker::new(config(settings), seed))));
        telemetry.shutdown(FLUSH_LIMIT);
        Ok(())
    });
    let code = match ended {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    };
    logs::flush(LOG_LIMIT);
    code
}

/// What the run loop needs, made before anything is connected.
struct Prepared<R: Runtime> {
    backend: Backend<R>,
    link: Link<R>,
    signals: R::StopSignals,
}

impl<R: Runtime> Prepared<R> {
    fn new(runtime: &R, settings: &Settings) -> Result<Self, String> {
        let owner = Owner::new(&settings.worker_id);
        match runtime.adopt(&owner) {
            Ok(0) => {}
            Ok(ended) => warn!(ended, "ended processes that tasks of a crashed worker with this id had left running"),
            Err(error) => warn!("cannot find every process that a task leaves running: {error}"),
        }
        let url = settings.dial_url();
        let target = Target::new(&url, settings.api_key.clone(), |name| std::env::var(name).ok());
        let target = target.ok_or("--web-socket-url cannot be dialled")?;
        let signals = runtime.stop_signals().map_err(|error| format!("cannot listen for signals: {error}"))?;
        Ok(Self {
            backend: make_backend(runtime, settings, &owner)?,
            link: Link::new(runtime.clone(), target),
            signals,
        })
    }
}

fn make_backend<R: Runtime>(runtime: &R, settings: &Settings, owner: &Owner) -> Result<Backend<R>, String> {
    let host_env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match &settings.backend {
        backend::Backend::Direct(direct) => {
            let oz = direct.resolve(std::env::var_os("PATH").as_deref()).map_err(|error| error.to_string())?;
            let temporary = std::env::temp_dir();
            let root = if direct.target_dir.is_some() { &temporary } else { &direct.workspace_root };
            Ok(Backend::Direct(DirectBackend {
                runtime: runtime.clone(),
                oz,
                workspaces: workspaces(runtime.files(), root, owner, settings.cleanup),
                target_dir: direct.target_dir.clone(),
                setup_command: direct.setup_command.clone(),
                teardown_command: direct.teardown_command.clone(),
                cleanup: settings.cleanup,
                cancel_grace_period: settings.cancel_grace_period,
                host_env,
            }))
        }
        backend::Backend::Command(command) => {
            let configured = settings.environment.iter();
            let configured = configured.map(|(name, value)| (name.into(), value.expose().into()));
            Ok(Backend::Command(CommandBackend {
                runtime: runtime.clone(),
                dispatch_command: command.dispatch_command.clone(),
                cancel_command: command.cancel_command.clone(),
                dispatch_timeout: command.dispatch_timeout,
                server_root_url: settings.server_root_url.clone(),
                worker_id: settings.worker_id.clone(),
                cwd: std::env::current_dir().unwrap_or_else(|_| "/".into()),
                env: host_env.into_iter().chain(configured).collect(),
            }))
        }
        backend::Backend::Docker(_) | backend::Backend::Kubernetes(_) => {
            let refusal = settings.unavailable().map(|refusal| refusal.to_string());
            Err(refusal.unwrap_or_default())
        }
    }
}

/// The workspaces below `root`; with `cleanup`, those that a crash left behind are removed.
fn workspaces<F: Files>(files: F, root: &Path, owner: &Owner, cleanup: bool) -> Workspaces<F> {
    let workspaces = Workspaces::new(files, root, owner.clone());
    if !cleanup {
        return workspaces;
    }
    let cleaned = workspaces.clean_leftovers();
    let shown = |name: &OsString| root.join(name).display().to_string();
    for name in cleaned.removed {
        warn!("removed {}, which a crashed worker with this id had left behind", shown(&name));
    }
    for (name, problem) in cleaned.failed {
        warn!("cannot remove {}, which a crashed worker with this id left behind: {problem}", shown(&name));
    }
    if let Ok(false) = workspaces.supports_marks() {
        let root = root.display();
        warn!("the file system of {root} has no extended attributes: what a crash leaves there will not be cleaned up");
    }
    workspaces
}

fn config(settings: &Settings) -> Config {
    let kubernetes = match &settings.backend {
        backend::Backend::Kubernetes(kubernetes) => Some(kubernetes),
        _ => None,
    };
    Config {
        worker_id: settings.worker_id.clone(),
        max_concurrent_tasks: settings.max_concurrent_tasks,
        drain_timeout: settings.drain_timeout,
        stop_timeout: settings.cancel_grace_period + TEARDOWN_LIMIT,
        stops_tasks_on_shutdown: matches!(settings.backend, backend::Backend::Direct(_) | backend::Backend::Docker(_)),
        after_kill: match settings.backend {
            backend::Backend::Direct(_) => AfterKill::Fails,
            backend::Backend::Command(_) => AfterKill::IsCancelled,
            backend::Backend::Docker(_) | backend::Backend::Kubernetes(_) => AfterKill::Resumes,
        },
        // There is no journal yet.
        journal: false,
        agent: AgentSettings {
            server_root_url: settings.server_root_url.clone(),
            session_sharing_server_url: settings.session_sharing_server_url.clone(),
            idle_on_complete: settings.idle_on_complete.clone(),
            environment: settings.environment.clone(),
            default_image: kubernetes.and_then(|kubernetes| kubernetes.default_image.clone()),
            sidecar_image: kubernetes.and_then(|kubernetes| kubernetes.sidecar_image.clone()),
            coding_cli_sidecars: kubernetes
                .map(|kubernetes| kubernetes.coding_cli_sidecars.clone())
                .unwrap_or_default(),
        },
    }
}
