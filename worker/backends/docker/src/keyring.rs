//! The credentials of a registry as they are now: asked anew at every pull, of the docker client's files and its helpers.

use std::path::PathBuf;
use std::time::Duration;

use oz_worker_contract::helper::{self, Answer};
use oz_worker_contract::program::find_program;
use oz_worker_core::secret::Secret;
use oz_worker_runtime::{Command, Environment, Exit, Host, Lane, Machine, Pipes};
use oz_worker_text::line::quoted;

use super::credentials::{self, AuthFile, Credentials, Source, read_helper};
use super::endpoint::{auth_file, config_dir};

/// How long a helper may take. It may have to ask a service for a fresh token.
const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// The most that a helper may print, in bytes. A token has some 2 KiB.
const MOST_PRINTED: u64 = 64 << 10;

/// Where credentials come from.
pub struct Keyring<R> {
    runtime: R,
    /// The worker's own environment.
    env: Environment,
}

/// What is shown to a registry, and what the operator should know about how that came to be.
#[derive(Debug, Default)]
pub struct Shown {
    /// The value of `X-Registry-Auth`; none is shown when there is none.
    pub header: Option<Secret>,
    /// Why the credentials that are configured could not be had, in words.
    pub problem: Option<String>,
}

/// Where the credentials come from, and the program to ask when a helper has them.
struct Found {
    source: Source,
    program: Option<PathBuf>,
    problem: Option<String>,
}

impl<R: Host> Keyring<R> {
    pub const fn new(runtime: R, env: Environment) -> Self {
        Self { runtime, env }
    }

    /// What is to be shown to the registry with this key.
    pub async fn shown(&self, registry: &str) -> Shown {
        let Found { source, program, problem } = self.find(registry).await;
        let (credentials, problem) = match source {
            Source::Anonymous => (None, problem),
            Source::Known(credentials) => (Some(credentials), problem),
            Source::Helper { name, server } => {
                let answer = match program {
                    Some(program) => self.ask(program, &server).await,
                    None => Err(problem.unwrap_or_default()),
                };
                let of =
                    |problem| format!("docker-credential-{name} has no credentials for {}: {problem}", quoted(&server));
                answer.map_or_else(|problem| (None, Some(of(problem))), |credentials| (credentials, None))
            }
        };
        Shown { header: credentials.map(|credentials| credentials::header(&credentials, registry)), problem }
    }

    async fn find(&self, registry: &str) -> Found {
        let (env, registry) = (self.env.clone(), registry.to_owned());
        let look = move |machine: &R::Machine| {
            let text = |name: &str| env.get(name).map(|value| value.to_string_lossy().into_owned());
            let mut problem = None;
            let variable = text("DOCKER_AUTH_CONFIG").filter(|json| !json.trim().is_empty());
            let variable = variable.and_then(|json| {
                let read = AuthFile::parse(json.as_bytes());
                read.map_err(|error| problem = Some(format!("DOCKER_AUTH_CONFIG {error}"))).ok()
            });
            let file = auth_file(config_dir(&text).as_deref(), machine.files());
            let file = file.map_err(|error| problem = Some(error.to_string())).ok().flatten();
            let source = credentials::choose(&registry, variable.as_ref(), file.as_ref());
            let mut program = None;
            if let Source::Helper { name, .. } = &source {
                match find_program(machine.files(), &format!("docker-credential-{name}"), env.get("PATH")) {
                    Ok(path) => program = Some(path),
                    Err(error) => problem = Some(error.to_string()),
                }
            }
            Found { source, program, problem }
        };
        self.runtime.on(Lane::Start, look).await
    }

    /// Asks a helper. None: it knows nothing of the server.
    async fn ask(&self, program: PathBuf, server: &str) -> Result<Option<Credentials>, String> {
        let command = Command {
            program,
            args: vec!["get".into()],
            env: self.env.clone(),
            cwd: Some("/".into()),
            input: true,
            // What it says about errors never mixes with its answer.
            output: Pipes::Apart,
        };
        let answer = helper::ask(&self.runtime, command, server.as_bytes(), MOST_PRINTED, HELPER_LIMIT).await;
        let Answer { exit, output, .. } = answer.map_err(|error| error.to_string())?;
        let is_success = exit == Exit::Code(0);
        read_helper(is_success, &output)
            .map_err(|error| if is_success { format!("it {error}") } else { format!("it {exit}") })
    }
}
