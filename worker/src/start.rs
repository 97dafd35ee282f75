//! From the command line to the run loop and out again.

use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use futures_lite::FutureExt;
use futures_lite::future::poll_once;
use oz_worker_backends::contract::{Common, Earlier};
use oz_worker_core::agent::AgentSettings;
use oz_worker_core::record::Record;
use oz_worker_core::{Config, Worker};
use oz_worker_host::{HostFiles, give_back_code, give_back_heap, owner, set_signals, share_heap, start_keeper};
use oz_worker_net::DialError;
use oz_worker_net::tls::TlsError;
use oz_worker_runtime::{Host, StopSignals};
use oz_worker_telemetry::{Heartbeat, Identity, Recorder, Telemetry, TelemetrySettings};
use tracing::{error, info, warn};

use crate::link::{Link, LinkError, Target};
use crate::logs;
use crate::run::RunLoop;
use crate::settings::environment::TextVariables;
use crate::settings::{Invocation, Refusal, Settings, Version, check, from_args};

/// The version that the program reports, in `--version`, metrics and requests.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long a stopped task may take beyond its grace period: teardown command, removal of the workspace.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(10);
/// How long the last export of metrics may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long the last lines of the log may take.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// How often the thread that runs tasks says that it does.
const BEAT: Duration = Duration::from_secs(10);

enum Plan {
    /// Print this and leave.
    Print(String),
    Serve(Box<Prepared>),
}

/// Everything that is read of flags, file and environment. Nothing of it is read a second time.
struct Prepared {
    settings: Settings,
    telemetry: TelemetrySettings,
    target: Target,
}

/// Runs a future on the calling thread until it ends.
pub type Driven<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The program `oz-agent-worker`, over the runtime of this name that `start` makes. `drive` runs a future on the calling
/// thread until it ends.
///
/// Exit codes: 0 after a clean stop, 1 when the worker cannot start, 2 for bad flags or configuration.
pub fn main<R: Host>(
    name: &'static str,
    start: impl FnOnce() -> io::Result<R>,
    drive: impl FnOnce(&R, Driven<'_>),
) -> ExitCode {
    set_signals();
    share_heap();
    let version = Version { version: VERSION, commit: option_env!("OZ_WORKER_COMMIT"), runtime: name };
    match plan(&version) {
        Ok(Plan::Serve(prepared)) => serve(*prepared, version, start, drive),
        Ok(Plan::Print(text)) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(refusal) => refuse(&refusal),
    }
}

fn plan(version: &Version) -> Result<Plan, Refusal> {
    let variables = |name: &str| std::env::var_os(name);
    let variables = TextVariables::new(&variables);
    let env = |name: &str| variables.get(name);
    let invocation = from_args(std::env::args_os().skip(1).collect(), &env, &|path| std::fs::read(path), version);
    let prepared = match invocation {
        Ok(Invocation::Print(text)) => return Ok(Plan::Print(text)),
        Ok(Invocation::Run(settings)) => prepare(*settings, &env).map(|prepared| (prepared, false)),
        Ok(Invocation::Check(settings)) => prepare(*settings, &env).map(|prepared| (prepared, true)),
        Err(refusal) => Err(refusal),
    };
    // First of all: what is said of a variable that seems to be unset would be wrong.
    variables.all_text()?;
    let (prepared, is_check) = prepared?;
    if is_check {
        return prepared.check(&env).map(Plan::Print);
    }
    Ok(Plan::Serve(Box::new(prepared)))
}

/// Reads what the environment says beside the settings.
fn prepare(settings: Settings, env: &dyn Fn(&str) -> Option<String>) -> Result<Prepared, Refusal> {
    let target = Target::new(&settings.dial_url(), settings.api_key.clone(), env);
    let target = target.ok_or_else(|| Refusal::configuration(vec!["--web-socket-url cannot be dialled".to_owned()]))?;
    Ok(Prepared { settings, telemetry: TelemetrySettings::read(env), target })
}

impl Prepared {
    /// What would run. Whatever a worker would say of its variables once it runs is said here, in the same words.
    fn check(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Refusal> {
        if let Some(error @ LinkError::Dial(DialError::Tls(TlsError::NoRoots))) = self.target.problem() {
            // Nothing that the operator has written is wrong: something of this machine is missing.
            return Err(Refusal { lines: vec![error.to_string()], exit_code: 1 });
        }
        let problems = self.telemetry.problems().map(|problem| problem.to_string());
        let problems: Vec<_> =
            self.target.problem().map(|error| error.to_string()).into_iter().chain(problems).collect();
        if !problems.is_empty() {
            return Err(Refusal::configuration(problems));
        }
        let metrics = env("OTEL_METRICS_EXPORTER").filter(|exporters| !exporters.trim().is_empty());
        let metrics = metrics.as_deref().unwrap_or("otlp (the default of OTEL_METRICS_EXPORTER)");
        check::report(&self.settings, &HostFiles, std::env::var_os("PATH").as_deref(), metrics)
    }
}

fn refuse(refusal: &Refusal) -> ExitCode {
    for line in &refusal.lines {
        let _ = writeln!(io::stderr(), "oz-agent-worker: {line}");
    }
    ExitCode::from(refusal.exit_code)
}

/// Runs the worker until it is asked to stop.
fn serve<R: Host>(
    prepared: Prepared,
    version: Version,
    start: impl FnOnce() -> io::Result<R>,
    drive: impl FnOnce(&R, Driven<'_>),
) -> ExitCode {
    let Prepared { settings, telemetry, target } = prepared;
    // A copy of this process, so before it has any thread.
    let kept = if settings.backend.runs_here() { start_keeper(&owner(&settings.worker_id)) } else { Ok(()) };
    if let Err(error) = logs::init(settings.log_level, settings.log_format) {
        let _ = writeln!(io::stderr(), "oz-agent-worker: cannot start the log: {error}");
        return ExitCode::FAILURE;
    }
    let worker_id = settings.worker_id.as_str();
    let backend = settings.backend.name();
    info!(version = VERSION, runtime = version.runtime, worker_id, backend, "oz-agent-worker starts");
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    if let Err(error) = kept {
        warn!("if this worker is killed, its tasks go on until the next one starts: {error}");
    }
    let ended = start().map_err(|error| format!("cannot start the runtime: {error}")).and_then(|runtime| {
        let identity = Identity {
            version: VERSION.to_owned(),
            worker_id: settings.worker_id.clone(),
            backend: settings.backend.name().to_owned(),
            max_concurrent_tasks: settings.max_concurrent_tasks,
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            status_page: settings.status_page,
        };
        let mut telemetry = Telemetry::builder(identity).settings(telemetry);
        if let Some((host, port)) = &settings.health_address {
            telemetry = telemetry.health(host, *port);
        }
        let (mut result, mut started) = (Ok(()), None);
        let start = || {
            let (recorder, telemetry) = telemetry.start();
            started = Some(telemetry);
            recorder
        };
        drive(&runtime, Box::pin(async { result = work(runtime.clone(), settings, target, start).await }));
        if let Some(telemetry) = started {
            telemetry.shutdown(FLUSH_LIMIT);
        }
        result
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

/// Prepares the backend, and works until the worker is asked to stop. `telemetry` starts what tells of it.
async fn work<R: Host>(
    runtime: R,
    settings: Settings,
    target: Target,
    telemetry: impl FnOnce() -> Recorder,
) -> Result<(), String> {
    let mut signals = runtime.stop_signals().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let link = Link::new(runtime.clone(), target);
    let config = config(&settings);
    let common = Common {
        runtime: runtime.clone(),
        owner: owner(&settings.worker_id),
        worker_id: settings.worker_id,
        server_root_url: settings.server_root_url,
        cleanup: settings.cleanup,
        cancel_grace_period: settings.cancel_grace_period,
        environment: settings.environment.iter().map(|(name, value)| (name, value.expose())).collect(),
        host_env: std::env::vars_os().collect(),
    };
    let mut preparing = Box::pin(settings.backend.prepare(common));
    // What that asks a lane for first is done while telemetry starts.
    let prepared = poll_once(&mut preparing).await;
    let recorder = telemetry();
    let prepared = async {
        Some(match prepared {
            Some(prepared) => prepared,
            None => preparing.await,
        })
    };
    let asked = async {
        let signal = std::future::poll_fn(|cx| signals.poll_next(cx)).await;
        info!(signal, "stopped before the backend was ready");
        None
    };
    runtime.spawn(beat(runtime.clone(), recorder.heartbeat("the thread that runs tasks")));
    let Some(backend) = prepared.or(asked).await else { return Ok(()) };
    let backend = backend?;
    // Known before the first dial: what an earlier worker started holds slots, and can be cancelled.
    let claimed = backend.earlier().into_iter().map(claimed);
    let worker = Worker::restored(config, fastrand::u64(..), runtime.now(), claimed);
    RunLoop::new(runtime, link, backend, recorder, signals).run(worker).await;
    Ok(())
}

/// What an earlier worker would have recorded of a task that its backend still knows, and how long ago.
fn claimed(earlier: Earlier) -> (Duration, Record) {
    let age = earlier.age();
    let Earlier { task_id, execution_id, .. } = earlier;
    (age, Record::Claimed { task_id, execution_id })
}

/// Says for as long as the worker lives that tasks run.
async fn beat<R: Host>(runtime: R, heartbeat: Heartbeat) {
    heartbeat.alive(BEAT);
    runtime.sleep_until(runtime.now().plus(BEAT)).await;
    // By now it is connected, if it can be, and will not need for hours what only the start needs.
    give_back_code();
    loop {
        // What the last tasks took to start and to end, and nobody uses.
        give_back_heap();
        heartbeat.alive(BEAT);
        runtime.sleep_until(runtime.now().plus(BEAT)).await;
    }
}

fn config(settings: &Settings) -> Config {
    let mut agent = AgentSettings {
        server_root_url: settings.server_root_url.clone(),
        session_sharing_server_url: settings.session_sharing_server_url.clone(),
        idle_on_complete: settings.idle_on_complete.clone(),
        environment: settings.environment.clone(),
        ..AgentSettings::default()
    };
    settings.backend.adjust(&mut agent);
    Config {
        worker_id: settings.worker_id.clone(),
        max_concurrent_tasks: settings.max_concurrent_tasks,
        drain_timeout: settings.drain_timeout,
        stop_timeout: settings.cancel_grace_period + TEARDOWN_LIMIT,
        stops_tasks_on_shutdown: settings.backend.stops_tasks(),
        after_kill: settings.backend.after_kill(),
        // There is no journal yet.
        journal: false,
        agent,
    }
}
