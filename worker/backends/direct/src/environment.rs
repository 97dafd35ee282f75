//! What the processes of a task are given: the agent's command, the scripts', and the variables that setup writes. Pure.

use std::io;
use std::path::{Path, PathBuf};

use oz_worker_contract::machine::SHELL;
use oz_worker_core::agent::TaskSpec;
use oz_worker_runtime::{Command, Environment, Files, Pipes};

use super::Place;
use super::dotenv::{self, Variables};

/// What the agent gets from the worker's own environment.
const PASSED_ON: [&str; 3] = ["HOME", "TMPDIR", "PATH"];
/// The largest file of variables that a setup command may write.
const LARGEST_FILE: u64 = 1 << 20;

/// All that the agent has but what setup writes: of the worker's environment only what it needs to find itself.
pub(super) fn of_agent(host: &Environment, spec: &TaskSpec, place: &Place) -> Environment {
    let mut env: Environment = host.iter().filter(|(name, _)| PASSED_ON.iter().any(|passed| name == passed)).collect();
    env.extend(spec.env.iter().map(|(name, value)| (name, value.expose())));
    add_own(&mut env, place, spec.harness.as_deref());
    env
}

/// The agent.
pub(super) fn agent(
    oz: &Path,
    host: &Environment,
    from_setup: &Environment,
    spec: &TaskSpec,
    place: &Place,
) -> Command {
    let mut env = of_agent(host, spec, place);
    env.extend(from_setup.iter());
    add_own(&mut env, place, spec.harness.as_deref());
    Command {
        program: oz.to_owned(),
        args: spec.args.iter().map(|arg| arg.expose().into()).collect(),
        env,
        cwd: Some(place.cwd.clone()),
        input: false,
        output: Pipes::Merged,
    }
}

/// A setup or teardown command: the operator's own, so it gets the worker's environment.
pub(super) fn script(script: &str, host: &Environment, spec: &TaskSpec, place: &Place) -> Command {
    let mut env = host.clone();
    env.extend(spec.env.iter().map(|(name, value)| (name, value.expose())));
    add_own(&mut env, place, spec.harness.as_deref());
    env.set("OZ_WORKSPACE_ROOT", &place.cwd);
    env.set("OZ_WORKER_BACKEND", "direct");
    env.set("OZ_RUN_ID", &spec.task_id);
    env.set("OZ_ENVIRONMENT_FILE", file(place));
    Command {
        program: SHELL.into(),
        args: vec!["-c".into(), script.into()],
        env,
        cwd: Some(place.cwd.clone()),
        input: false,
        output: Pipes::Merged,
    }
}

/// The variables that keep what a task does away from the operator's own settings; nothing overrides them.
fn add_own(env: &mut Environment, place: &Place, harness: Option<&str>) {
    let own = place.own.path();
    env.set("GIT_CONFIG_GLOBAL", own.join(".gitconfig"));
    match harness {
        Some("claude") => env.set("CLAUDE_CONFIG_DIR", own.join(".claude")),
        Some("codex") => env.set("CODEX_HOME", own.join(".codex")),
        _ => {}
    }
}

/// Where a setup command writes variables.
pub(super) fn file(place: &Place) -> PathBuf {
    place.own.path().join(".oz-env")
}

/// Makes the file that a setup command may write, empty. What an earlier run left there is removed first: it may be a link.
pub(super) fn make_file(files: &impl Files, place: &Place) -> io::Result<()> {
    files.make_empty(&file(place))
}

/// What a setup command wrote; nothing when there is no file any more. `known` is what else the agent has.
pub(super) fn read_file(files: &impl Files, path: &Path, known: &Environment) -> Result<Variables, String> {
    let shown = path.display();
    let bytes = files
        .read(path, LARGEST_FILE)
        .map_err(|error| format!("cannot read {shown}, which the setup command wrote: {error}"))?
        .unwrap_or_default();
    Ok(dotenv::read(&bytes, known))
}
