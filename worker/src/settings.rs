//! What the worker is told: flags, environment variables, file and defaults, checked and put together.
//!
//! [`from_args`] reads everything and touches nothing. It returns settings that are known to be good, or a [`Refusal`]
//! with one line for every problem. A flag wins over an environment variable, that over the file, that over the default;
//! a blank value counts as none. The whole vocabulary is written down in `docs/configuration.md`.

pub mod check;
pub mod environment;
mod file;
mod flags;
mod gather;
pub mod secret;
mod url;
mod worker_id;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use flags::Parsed;
use oz_worker_backends::BackendSettings;
use oz_worker_core::secret::Variables;
use oz_worker_text::suggest::hint;
use secret::ApiKey;

/// Where the worker connects when nothing else is said (`docs/protocol.md`, Connecting).
pub const WEB_SOCKET_URL: &str = "wss://oz.warp.dev/api/v1/selfhosted/worker/ws";
/// The server that the agent talks to when nothing else is said.
pub const SERVER_ROOT_URL: &str = "https://app.warp.dev";
/// From SIGTERM to SIGKILL when nothing else is said.
pub const CANCEL_GRACE_PERIOD: Duration = Duration::from_secs(10);

/// What the program says about itself in `--version`.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    /// The version, as in the manifest.
    pub version: &'static str,
    /// The commit it was built from, where that is known.
    pub commit: Option<&'static str>,
    /// The runtime it was built on: `smol` or `async-std`.
    pub runtime: &'static str,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.unwrap_or("unknown");
        write!(f, "oz-agent-worker {} (commit {commit}, runtime {})", self.version, self.runtime)
    }
}

/// What a good command line asks for.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<Settings>),
    /// Say what would run, see [`check::report`].
    Check(Box<Settings>),
    /// Print this to standard output and exit 0.
    Print(String),
}

/// Why the program does not go on. `Display` is for standard error: one line for each independent problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .lines.join("\n"))]
pub struct Refusal {
    /// What is wrong, where, and what to do.
    pub lines: Vec<String>,
    /// 2 for bad flags or configuration, 1 when this host cannot run what they ask for.
    pub exit_code: u8,
}

impl Refusal {
    /// Bad flags or configuration.
    pub fn configuration(lines: Vec<String>) -> Self {
        Self { lines, exit_code: 2 }
    }
}

/// Everything the worker is told. `Debug` shows neither the API key nor any variable's value.
#[derive(Debug, Clone)]
pub struct Settings {
    pub api_key: ApiKey,
    /// This worker's name; neither blank nor reserved.
    pub worker_id: String,
    /// A `ws` or `wss` URL with a host; to dial it, see [`Settings::dial_url`].
    pub web_socket_url: String,
    /// Passed on to the agent.
    pub server_root_url: String,
    /// Passed on to the agent.
    pub session_sharing_server_url: Option<String>,
    /// What is logged at all.
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    /// Whether there is a page for people beside `/metrics`.
    pub status_page: bool,
    /// Host and port at which `/livez` and `/readyz` are served besides.
    pub health_address: Option<(String, u16)>,
    /// Whether what a task leaves behind is removed.
    pub cleanup: bool,
    /// How many tasks may run at once; 0 for any number.
    pub max_concurrent_tasks: u32,
    /// A duration as the operator wrote it, for the agent.
    pub idle_on_complete: Option<String>,
    /// How long running tasks may go on after the first SIGTERM.
    pub drain_timeout: Duration,
    /// From SIGTERM to SIGKILL when a task is stopped.
    pub cancel_grace_period: Duration,
    /// For every task: the file's, then those of `-e`; each name once.
    pub environment: Variables,
    pub backend: BackendSettings,
    /// What is legal but probably not meant; one line each, for the log.
    pub warnings: Vec<String>,
}

impl Settings {
    /// The URL to dial: `web_socket_url` with the parameter `worker_id` set.
    pub fn dial_url(&self) -> String {
        url::with_query_parameter(&self.web_socket_url, "worker_id", &self.worker_id)
    }
}

/// `--log-level`: what is logged, from the most to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens, the agents' output included.
    Info,
    /// What somebody should look at.
    Warn,
    /// What went wrong.
    Error,
}

impl LogLevel {
    const NAMES: [(&'static str, Self); 4] =
        [("debug", Self::Debug), ("info", Self::Info), ("warn", Self::Warn), ("error", Self::Error)];

    /// As the flag takes it.
    pub fn name(self) -> &'static str {
        name_of(self, &Self::NAMES)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One aligned line per event, for people.
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

impl LogFormat {
    const NAMES: [(&'static str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];

    /// As the flag takes it.
    pub fn name(self) -> &'static str {
        name_of(self, &Self::NAMES)
    }
}

fn name_of<T: PartialEq + Copy>(value: T, names: &[(&'static str, T)]) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

fn by_name<T: Copy>(text: &str, names: &[(&'static str, T)]) -> Result<T, String> {
    names
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, value)| *value)
        .ok_or_else(|| hint(text, names.iter().map(|(name, _)| *name)))
}

/// Reads the command line (without the program's own name), the file it names (with `read`) and the environment, and
/// checks it all. Reads files, changes nothing, connects to nothing.
///
/// # Errors
/// Every problem that could be found.
pub fn from_args(
    arguments: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<String>,
    read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    version: &Version,
) -> Result<Invocation, Refusal> {
    let flags = match flags::parse(arguments) {
        Ok(Parsed::Flags(flags)) if flags.version => return Ok(Invocation::Print(format!("{version}\n"))),
        Ok(Parsed::Flags(flags)) => flags,
        Ok(Parsed::Help) => return Ok(Invocation::Print(flags::help())),
        Err(error) => return Err(Refusal::configuration(vec![error.to_string()])),
    };
    let settings = gather::settings(&flags, env, read).map(Box::new).map_err(Refusal::configuration)?;
    Ok(if flags.check { Invocation::Check(settings) } else { Invocation::Run(settings) })
}

#[cfg(test)]
mod tests;
