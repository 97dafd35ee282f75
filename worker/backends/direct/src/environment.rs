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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use oz_worker_core::agent::InstanceShape;
    use oz_worker_host::{HostFiles, owner};

    use super::*;
    use crate::workspaces::Workspaces;

    /// A task's place, gone afterwards.
    fn at_a_place(name: &str, test: impl FnOnce(&Place, &str)) {
        let root = std::env::temp_dir().join(format!("oz-worker-environment-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let own = Workspaces::new(root.clone(), owner("worker")).create(&HostFiles, "T1").unwrap();
        let path = own.path().to_str().unwrap().to_owned();
        test(&Place { own, cwd: "/target".into() }, &path);
        let _ = fs::remove_dir_all(&root);
    }

    fn spec(harness: Option<&str>) -> TaskSpec {
        TaskSpec {
            task_id: "T1".into(),
            execution_id: None,
            title: String::new(),
            harness: harness.map(str::to_owned),
            args: vec!["agent".into(), "run".into()],
            env: [("A", "task"), ("GIT_CONFIG_GLOBAL", "/elsewhere")].into_iter().collect(),
            image: String::new(),
            sidecars: Vec::new(),
            shape: InstanceShape::default(),
            task: "{}".into(),
        }
    }

    fn host() -> Environment {
        [("HOME", "/root"), ("PATH", "/bin"), ("TMPDIR", "/t"), ("OZ_API_KEY", "canary"), ("A", "host")]
            .into_iter()
            .collect()
    }

    /// The variables that count, in order of their names, with the place's own directory as `OWN`.
    fn shown(env: &Environment, own: &str) -> Vec<String> {
        let last: BTreeMap<_, _> =
            env.iter().map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap())).collect();
        last.into_iter().map(|(name, value)| format!("{name}={value}").replace(own, "OWN")).collect()
    }

    #[test]
    fn an_agent_finds_itself_and_knows_nothing_else_of_the_worker() {
        at_a_place("agent", |place, own| {
            let usual = ["A=task", "GIT_CONFIG_GLOBAL=OWN/.gitconfig", "HOME=/root", "PATH=/bin", "TMPDIR=/t"];
            assert_eq!(shown(&of_agent(&host(), &spec(None), place), own), usual);
            // What setup writes wins over the task's variables, and over none of those that keep it apart.
            let setup = [("A", "setup"), ("CODEX_HOME", "/elsewhere")].into_iter().collect();
            let agent = agent(Path::new("/bin/oz"), &host(), &setup, &spec(Some("codex")), place);
            let expected = [
                "A=setup",
                "CODEX_HOME=OWN/.codex",
                "GIT_CONFIG_GLOBAL=OWN/.gitconfig",
                "HOME=/root",
                "PATH=/bin",
                "TMPDIR=/t",
            ];
            assert_eq!(shown(&agent.env, own), expected);
            assert_eq!((agent.program.to_str(), agent.args), (Some("/bin/oz"), vec!["agent".into(), "run".into()]));
            assert_eq!(agent.cwd.as_deref(), Some(Path::new("/target")));
            let claude = of_agent(&host(), &spec(Some("claude")), place);
            assert!(shown(&claude, own).contains(&"CLAUDE_CONFIG_DIR=OWN/.claude".to_owned()));
        });
    }

    #[test]
    fn a_script_is_the_operators_own_and_is_told_whose_task_it_is_for() {
        at_a_place("script", |place, own| {
            let command = script("make", &host(), &spec(None), place);
            assert_eq!((command.program.to_str(), command.args), (Some(SHELL), vec!["-c".into(), "make".into()]));
            let expected = [
                "A=task",
                "GIT_CONFIG_GLOBAL=OWN/.gitconfig",
                "HOME=/root",
                "OZ_API_KEY=canary",
                "OZ_ENVIRONMENT_FILE=OWN/.oz-env",
                "OZ_RUN_ID=T1",
                "OZ_WORKER_BACKEND=direct",
                "OZ_WORKSPACE_ROOT=/target",
                "PATH=/bin",
                "TMPDIR=/t",
            ];
            assert_eq!(shown(&command.env, own), expected);
        });
    }

    #[test]
    fn what_setup_writes_is_read_from_a_file_that_was_empty_before() {
        at_a_place("file", |place, _| {
            let read = || read_file(&HostFiles, &file(place), &Environment::default());
            fs::write(file(place), "LEFT=1").unwrap();
            make_file(&HostFiles, place).unwrap();
            assert_eq!(read(), Ok(Variables::default()));
            fs::write(file(place), "A=1\nB").unwrap();
            let variables = read().unwrap();
            assert_eq!((shown(&variables.set, "-"), variables.unreadable), (vec!["A=1".to_owned()], vec![2]));
            fs::remove_file(file(place)).unwrap();
            assert_eq!(read(), Ok(Variables::default()));
            fs::write(file(place), vec![b'x'; usize::try_from(LARGEST_FILE).unwrap() + 1]).unwrap();
            let error = read().unwrap_err();
            assert!(error.contains("which the setup command wrote"), "{error}");
        });
    }
}
