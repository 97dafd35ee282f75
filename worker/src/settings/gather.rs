//! Flags over environment over file over defaults: which of them each setting comes from.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oz_worker_backends::BackendSettings;
use oz_worker_backends::docker::check_volume;
use oz_worker_core::secret::Variables;
use oz_worker_net::proxy::is_loopback;
use oz_worker_net::url::Url;
use oz_worker_text::duration;
use oz_worker_text::line::quoted;
use oz_worker_text::suggest::hint;
use oz_worker_text::variable::Variable;

use super::file::{self, File};
use super::flags::{Flags, last};
use super::secret::ApiKey;
use super::worker_id::check_worker_id;
use super::{CANCEL_GRACE_PERIOD, LogFormat, LogLevel, SERVER_ROOT_URL, Settings, WEB_SOCKET_URL, by_name, url};

/// The settings that `flags`, `env` and the file named by a flag, read with `read`, amount to.
///
/// # Errors
/// One line for every problem that could be found.
pub fn settings(
    flags: &Flags,
    env: &dyn Fn(&str) -> Option<String>,
    read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Settings, Vec<String>> {
    let mut gathering = Gathering { flags, env, problems: Vec::new(), warnings: Vec::new(), file_is_good: true };
    let file = match last(&flags.config_file).map(|path| file::read(&gathering.path(path), read)) {
        None => File::default(),
        Some(Ok(file)) => file,
        Some(Err(lines)) => {
            gathering.problems = lines;
            gathering.file_is_good = false;
            File::default()
        }
    };
    match gathering.settings(file) {
        Some(settings) if gathering.problems.is_empty() => Ok(Settings { warnings: gathering.warnings, ..settings }),
        _ => Err(gathering.problems),
    }
}

/// Notes what is wrong instead of stopping at it.
struct Gathering<'a> {
    flags: &'a Flags,
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
    warnings: Vec<String>,
    /// Whether something that the file does not say is really not there.
    file_is_good: bool,
}

impl Gathering<'_> {
    /// `None` when something without a default is missing or wrong; a problem is noted then.
    fn settings(&mut self, file: File) -> Option<Settings> {
        let flags = self.flags;
        let api_key = self.api_key();
        let worker_id = self.worker_id(file.worker_id);
        let web_socket_url = self.url("--web-socket-url", &flags.web_socket_url, &["ws", "wss"]);
        self.warn_of_plain_text(web_socket_url.as_deref());
        let server_root_url = self.url("--server-root-url", &flags.server_root_url, &["http", "https"]);
        let session_sharing_server_url = self.url(
            "--session-sharing-server-url",
            &flags.session_sharing_server_url,
            &["ws", "wss", "http", "https"],
        );
        let log_level = self.parsed("--log-level", &flags.log_level, |text| by_name(text, &LogLevel::NAMES));
        let log_format = self.parsed("--log-format", &flags.log_format, |text| by_name(text, &LogFormat::NAMES));
        let status_page =
            self.parsed("--status-page", &flags.status_page, |text| by_name(text, &[("on", true), ("off", false)]));
        let health_address = self.parsed("--health-address", &flags.health_address, host_and_port);
        let max_concurrent_tasks = self.parsed("--max-concurrent-tasks", &flags.max_concurrent_tasks, |text| {
            text.parse().map_err(|_| format!("must be a whole number from 0 to {}", u32::MAX))
        });
        let idle_on_complete = self.parsed("--idle-on-complete", &flags.idle_on_complete, |text| {
            duration::parse(text).map(|_| text.to_owned())
        });
        let drain_timeout = self.parsed("--drain-timeout", &flags.drain_timeout, duration::parse);
        let cancel_grace_period = self.parsed("--cancel-grace-period", &flags.cancel_grace_period, duration::parse);
        let environment = self.flag_variables();
        let backend = self.backend(file.backend, file.environment);
        let (backend, file_environment) = backend?;
        let mut variables = Variables::default();
        for Variable { name, value } in file_environment.into_iter().chain(environment) {
            let value = value.or_else(|| (self.env)(&name)).unwrap_or_default();
            variables.set(name, value);
        }
        Some(Settings {
            api_key: api_key?,
            worker_id: worker_id?,
            web_socket_url: web_socket_url.unwrap_or_else(|| WEB_SOCKET_URL.to_owned()),
            server_root_url: server_root_url.unwrap_or_else(|| SERVER_ROOT_URL.to_owned()),
            session_sharing_server_url,
            log_level: log_level.unwrap_or(LogLevel::Info),
            log_format: log_format.unwrap_or(LogFormat::Text),
            status_page: status_page.unwrap_or(true),
            health_address,
            cleanup: !flags.no_cleanup && file.cleanup.unwrap_or(true),
            max_concurrent_tasks: max_concurrent_tasks.or(file.max_concurrent_tasks).unwrap_or(0),
            idle_on_complete: idle_on_complete.or(file.idle_on_complete),
            drain_timeout: drain_timeout.unwrap_or(Duration::ZERO),
            cancel_grace_period: cancel_grace_period.unwrap_or(CANCEL_GRACE_PERIOD),
            environment: variables,
            backend,
            warnings: Vec::new(),
        })
    }

    fn problem(&mut self, line: impl Into<String>) {
        self.problems.push(line.into());
    }

    /// The path that a flag names. A shell leaves the `~` of `--flag=~/file` to the program.
    fn path(&self, text: &str) -> PathBuf {
        let below = text.strip_prefix('~').filter(|below| below.is_empty() || below.starts_with('/'));
        let home = || (self.env)("HOME").filter(|home| !home.trim().is_empty());
        match below.and_then(|below| Some((home()?, below))) {
            Some((home, below)) => Path::new(&home).join(below.trim_start_matches('/')),
            None => PathBuf::from(text),
        }
    }

    /// The last value of a flag, if it passes `parse`.
    fn parsed<T, E: fmt::Display>(
        &mut self,
        flag: &str,
        values: &[String],
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = last(values)?;
        parse(text).map_err(|error| self.problem(format!("{flag}: {}: {error}", quoted(text)))).ok()
    }

    /// The URL is not repeated in an error: it may hold a password.
    fn url(&mut self, flag: &str, values: &[String], schemes: &'static [&'static str]) -> Option<String> {
        let text = last(values)?;
        match url::check(text, schemes) {
            Ok(()) => Some(text.to_owned()),
            Err(error) => {
                self.problem(format!("{flag}: {error}"));
                None
            }
        }
    }

    /// Whoever stands between could read the key: fine on one machine, and for a try.
    fn warn_of_plain_text(&mut self, url: Option<&str>) {
        let url = url.and_then(|url| Url::parse(url, &["ws", "wss"]).ok());
        if let Some(url) = url.filter(|url| !url.is_secure() && !is_loopback(url.host())) {
            self.warnings.push(format!(
                "--web-socket-url is not encrypted (ws://): the API key and all tasks can be read on the way to {}; use wss://",
                url.host()
            ));
        }
    }

    fn api_key(&mut self) -> Option<ApiKey> {
        let from_env = (self.env)("WARP_API_KEY").filter(|key| !key.trim().is_empty());
        let (source, key) = if let Some(key) = last(&self.flags.api_key) {
            ("--api-key", ApiKey::from_text(key))
        } else if let Some(path) = last(&self.flags.api_key_file) {
            let key = ApiKey::File(self.path(path));
            // Read once now, so that a wrong path is found before anything starts.
            ("--api-key-file", key.read().map(|_| key))
        } else if let Some(key) = from_env {
            ("WARP_API_KEY", ApiKey::from_text(&key))
        } else {
            self.problem("no API key: set WARP_API_KEY, or give --api-key-file PATH or --api-key KEY");
            return None;
        };
        key.map_err(|error| self.problem(format!("{source}: {error}"))).ok()
    }

    fn worker_id(&mut self, from_file: Option<String>) -> Option<String> {
        let id =
            self.parsed("--worker-id", &self.flags.worker_id, |text| check_worker_id(text).map(|()| text.to_owned()));
        let id = id.or(from_file);
        if id.is_none() && self.file_is_good && last(&self.flags.worker_id).is_none() {
            self.problem("no worker id: give --worker-id ID, or worker_id in the file");
        }
        id
    }

    fn flag_variables(&mut self) -> Vec<Variable> {
        let mut variables = Vec::new();
        for spec in &self.flags.env {
            match Variable::from_flag(spec) {
                Ok(variable) => variables.push(variable),
                Err(error) => self.problem(format!("-e: {error}; write KEY=VALUE, or KEY for the host's value")),
            }
        }
        variables
    }

    /// The backend that is to run, with the flags that are its own, and the environment that the file gives it.
    fn backend(
        &mut self,
        configured: Option<BackendSettings>,
        environment: Vec<Variable>,
    ) -> Option<(BackendSettings, Vec<Variable>)> {
        let wanted = self.parsed("--backend", &self.flags.backend, |text| {
            let names = BackendSettings::NAMES;
            names.into_iter().find(|name| *name == text).ok_or_else(|| hint(text, names))
        });
        if wanted.is_none() && last(&self.flags.backend).is_some() {
            return None;
        }
        let wanted = wanted.or(configured.as_ref().map(BackendSettings::name)).unwrap_or("docker");
        let (mut backend, environment) = match configured {
            Some(backend) if backend.name() == wanted => (backend, environment),
            other => {
                let Some(backend) = BackendSettings::unconfigured(wanted) else {
                    if self.file_is_good {
                        self.problem(
                            "--backend: command needs a dispatch_command, which only the file can give: \
                             backend: {command: {dispatch_command: …}}",
                        );
                    }
                    return None;
                };
                if let Some(other) = other {
                    let other = other.name();
                    self.warnings.push(format!(
                        "the file configures backend {other}, but --backend {wanted} was given: {wanted} runs with its \
                         defaults and nothing of {other}'s block is used"
                    ));
                }
                (backend, Vec::new())
            }
        };
        self.target_dir(&mut backend);
        self.volumes(&mut backend);
        Some((backend, environment))
    }

    fn target_dir(&mut self, backend: &mut BackendSettings) {
        let Some(directory) = last(&self.flags.target_dir) else { return };
        if !backend.set_target_dir(self.path(directory)) {
            self.problem(format!(
                "--target-dir: only backend direct has a target directory, and this is backend {}; add --backend direct, \
                 or leave it out",
                backend.name()
            ));
        }
    }

    fn volumes(&mut self, backend: &mut BackendSettings) {
        for spec in &self.flags.volumes {
            if let Err(error) = check_volume(spec.trim()) {
                self.problem(format!("-v: {}: {error}", quoted(spec)));
            }
        }
        // Not an error: a wrapper may pass the same flags whatever the backend.
        if !self.flags.volumes.is_empty() && !backend.add_volumes(&self.flags.volumes) {
            let name = backend.name();
            self.warnings.push(format!("-v has no effect: only backend docker mounts volumes, and this is {name}"));
        }
    }
}

/// `HOST:PORT`; the host of an IPv6 address stands in brackets.
fn host_and_port(text: &str) -> Result<(String, u16), &'static str> {
    let split = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    split
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or("write HOST:PORT, for example 0.0.0.0:8080")
}
