//! Who we are to the cluster at this moment: read anew every minute, before it expires, and when the API server refuses it.
//! Once for all who wait, and nothing of it fails a task.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_lock::Mutex;
use http::{HeaderName, HeaderValue};
use oz_worker_contract::helper::{self, Answer, HelperError};
use oz_worker_contract::program::{ProgramError, find_program};
use oz_worker_core::secret::Secret;
use oz_worker_core::time::Instant;
use oz_worker_net::proxy::ProxyError;
use oz_worker_net::tls::{ClientCertificate, PemError, Tls, certificates};
use oz_worker_net::url::{UrlHost, UserInfo};
use oz_worker_net::{Destination, Remote};
use oz_worker_runtime::{Command, Environment, Exit, Files, Host, Lane, Machine, Pipes};
use oz_worker_text::line::{beginning, quoted};
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use super::access::{Access, Authority, Credential, Material, Plugin};

/// How old what was read of files may become. A rotated token is refused some minutes after it was replaced.
const FRESH: Duration = Duration::from_secs(60);
/// How soon after a failure it is tried again, and how soon something that was refused is read anew.
const PAUSE: Duration = Duration::from_secs(5);
/// How long before they expire a plugin is asked for other credentials; at most half of their time.
const EARLY: Duration = Duration::from_secs(30);
/// How long a plugin may take, and the most it may print.
const PLUGIN_LIMIT: Duration = Duration::from_secs(30);
const MOST_PRINTED: u64 = 1 << 20;
/// The largest file of a certificate, key or token.
const LARGEST_FILE: u64 = 1 << 20;
/// How often it is said that there are no good credentials.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// The longest line of a plugin's that is repeated, in characters.
const LONGEST_TEXT: usize = 300;

/// Why there are no credentials. No text of it holds one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("{what} {source}")]
    Pem { what: &'static str, source: PemError },
    #[error("the token holds a character that cannot be sent")]
    Token,
    #[error("exec plugin {}: {problem}", quoted(.command))]
    Plugin { command: String, problem: String },
}

/// What is shown to the API server.
#[derive(Clone)]
pub struct Pass {
    pub destination: Arc<Destination>,
    /// The value of `Authorization`.
    pub authorization: Option<Secret>,
    /// Which one it is.
    pub number: u64,
}

/// Credentials, and what they are made of.
pub struct Credentials<R> {
    runtime: R,
    env: Environment,
    access: Arc<Access>,
    /// Who we act as.
    pub impersonation: Vec<(HeaderName, HeaderValue)>,
    state: Mutex<State>,
}

struct State {
    pass: Option<Pass>,
    /// When it was read.
    read: Instant,
    /// Until when it is used without another look.
    fresh_until: Instant,
    number: u64,
    /// What went wrong last, and until when that is the answer.
    failed: Option<(Instant, CredentialError)>,
    complaint: Complaint,
}

/// Says that something fails when it begins, once a minute while it lasts, and when it is over.
#[derive(Default)]
struct Complaint {
    said: Option<Instant>,
}

impl Complaint {
    fn fails(&mut self, now: Instant, problem: &dyn Display) {
        if self.said.is_none_or(|said| now.since(said) >= COMPLAINT_INTERVAL) {
            self.said = Some(now);
            warn!("no good credentials for the cluster: {problem}");
        }
    }

    fn works(&mut self) {
        if self.said.take().is_some() {
            info!("the credentials for the cluster are good again");
        }
    }
}

/// What was read, and how long it may be used.
struct Read {
    tls: Tls,
    authorization: Option<Secret>,
    lasts: Duration,
}

impl<R: Host> Credentials<R> {
    /// Nothing was read yet. `env` is the worker's own environment.
    ///
    /// # Errors
    /// A variable names a proxy that cannot be used.
    pub fn new(runtime: R, env: Environment, mut access: Access) -> Result<Self, ProxyError> {
        let impersonation = access
            .impersonation
            .iter()
            .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)));
        let impersonation = impersonation.collect();
        if access.proxy.is_none() {
            let text = |name: &str| env.get(name).map(|value| value.to_string_lossy().into_owned());
            access.proxy = oz_worker_net::proxy::for_url(&text, &access.server)?;
        }
        let now = runtime.now();
        let complaint = Complaint::default();
        let state = State { pass: None, read: now, fresh_until: now, number: 0, failed: None, complaint };
        Ok(Self { runtime, env, access: Arc::new(access), impersonation, state: Mutex::new(state) })
    }

    /// What is to be shown now.
    ///
    /// # Errors
    /// When there is none, and none from before.
    pub async fn pass(&self) -> Result<Pass, CredentialError> {
        let mut state = self.state.lock().await;
        let now = self.runtime.now();
        if let Some(pass) = state.pass.clone().filter(|_| now < state.fresh_until) {
            return Ok(pass);
        }
        if let Some((_, error)) = state.failed.as_ref().filter(|(until, _)| now < *until) {
            return state.pass.clone().ok_or_else(|| error.clone());
        }
        let read = self.read().await;
        let now = self.runtime.now();
        match read {
            Ok(Read { tls, authorization, lasts }) => {
                state.number += 1;
                let remote = Remote {
                    url: self.access.server.clone(),
                    proxy: self.access.proxy.clone(),
                    tls: Arc::new(tls),
                    http2: false,
                };
                let destination = Arc::new(Destination::Host(Box::new(remote)));
                let pass = Pass { destination, authorization, number: state.number };
                (state.pass, state.failed) = (Some(pass.clone()), None);
                (state.read, state.fresh_until) = (now, now.plus(lasts));
                Ok(pass)
            }
            Err(error) => {
                state.complaint.fails(now, &error);
                state.failed = Some((now.plus(PAUSE), error.clone()));
                // What was good until now may still be.
                state.pass.clone().ok_or(error)
            }
        }
    }

    /// The API server refused it, or could not be trusted with it: what it is made of may have been replaced, and is read
    /// anew.
    pub async fn refused(&self, pass: &Pass, problem: &(dyn Display + Sync)) {
        let mut state = self.state.lock().await;
        if state.number == pass.number {
            let now = self.runtime.now();
            state.complaint.fails(now, problem);
            state.fresh_until = state.fresh_until.min(now.max(state.read.plus(PAUSE)));
        }
    }

    /// The API server took them.
    pub async fn accepted(&self) {
        let mut state = self.state.lock().await;
        if state.failed.is_none() {
            state.complaint.works();
        }
    }

    async fn read(&self) -> Result<Read, CredentialError> {
        let access = Arc::clone(&self.access);
        let of_files = move |machine: &R::Machine| files(&access, machine.files());
        let mut read = self.runtime.on(Lane::Dial, of_files).await?;
        if let Credential::Plugin(plugin) = &self.access.credential {
            let found = self.plugin(plugin).await.map_err(|error| CredentialError::Plugin {
                command: plugin.command.clone(),
                problem: error.to_string(),
            })?;
            read.lasts = found.lasts;
            read.authorization = found.token.map(|token| bearer(&token));
            if let Some(client) = found.client {
                read.tls.client = Some(client);
            }
        }
        Ok(read)
    }

    async fn plugin(&self, plugin: &Plugin) -> Result<Found, PluginError> {
        let (name, path) = (plugin.command.clone(), self.env.get("PATH").map(ToOwned::to_owned));
        let program = self.runtime.on(Lane::Dial, move |machine| find_program(machine.files(), &name, path.as_deref()));
        let mut env = self.env.clone();
        env.extend(plugin.env.iter().map(|(name, value)| (name, value.expose())));
        let mut spec = json!({"interactive": false});
        if let (Some(cluster), Some(spec)) = (&plugin.cluster, spec.as_object_mut()) {
            spec.insert("cluster".into(), cluster.clone());
        }
        let asked = json!({"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec});
        env.set("KUBERNETES_EXEC_INFO", asked.to_string());
        let command = Command {
            program: program.await?,
            args: plugin.args.iter().map(Into::into).collect(),
            env,
            cwd: Some("/".into()),
            input: false,
            // What it says about errors never mixes with its answer.
            output: Pipes::Apart,
        };
        let Answer { exit, output, errors } =
            helper::ask(&self.runtime, command, b"", MOST_PRINTED, PLUGIN_LIMIT).await?;
        if exit != Exit::Code(0) {
            return Err(PluginError::Failed { exit, said: first_line(&errors) });
        }
        read_plugin(&output, SystemTime::now())
    }
}

/// Why a plugin gave no credentials.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error("it {exit}{}{said}", if said.is_empty() { "" } else { ": " })]
    Failed { exit: Exit, said: String },
    #[error("it printed no ExecCredential with a status")]
    Form,
    #[error("it printed neither a token nor a certificate with its key")]
    Nothing,
    #[error("its certificate {0}")]
    Pem(#[from] PemError),
}

/// What a plugin gave.
struct Found {
    token: Option<Secret>,
    client: Option<ClientCertificate>,
    lasts: Duration,
}

fn read_plugin(printed: &[u8], now: SystemTime) -> Result<Found, PluginError> {
    #[derive(Deserialize)]
    struct ExecCredential {
        status: Status,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        client_certificate_data: Option<String>,
        #[serde(default)]
        client_key_data: Option<String>,
        #[serde(default)]
        expiration_timestamp: Option<String>,
    }
    let ExecCredential { status } = serde_json::from_slice(printed).map_err(|_| PluginError::Form)?;
    let expires = status.expiration_timestamp.and_then(|text| humantime::parse_rfc3339(&text).ok());
    let lasts = match expires.map(|expires| expires.duration_since(now).unwrap_or_default()) {
        Some(left) => left.saturating_sub(EARLY).max(left / 2),
        // It lasts until it is refused.
        None => Duration::MAX,
    };
    let token = status.token.filter(|token| !token.is_empty()).map(Secret::from);
    let client = match (status.client_certificate_data, status.client_key_data) {
        (Some(certificate), Some(key)) => Some(ClientCertificate::from_pem(certificate.as_bytes(), key.as_bytes())?),
        _ => None,
    };
    if token.is_none() && client.is_none() {
        return Err(PluginError::Nothing);
    }
    Ok(Found { token, client, lasts })
}

fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    beginning(text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default(), LONGEST_TEXT)
}

fn bearer(token: &Secret) -> Secret {
    Secret::from(format!("Bearer {}", token.expose()))
}

/// What stands in files and in the kubeconfig itself.
fn files(access: &Access, files: &impl Files) -> Result<Read, CredentialError> {
    let read = |path: &PathBuf| {
        let problem = |problem: String| CredentialError::File { path: path.clone(), problem };
        let read = files.read(path, LARGEST_FILE).map_err(|error| problem(error.to_string()))?;
        read.ok_or_else(|| problem("there is no such file".into()))
    };
    let bytes = |material: &Material| match material {
        Material::Here(bytes) => Ok(bytes.clone()),
        Material::File(path) => read(path),
    };
    let mut tls = Tls { unverified: access.authority == Authority::Anybody, ..Tls::default() };
    if let Authority::These(material) = &access.authority {
        let roots = certificates(&bytes(material)?);
        tls.roots = Some(roots.map_err(|source| CredentialError::Pem { what: "the certificate authority", source })?);
    }
    tls.server_name = access.server_name.as_ref().map(|name| match name.parse() {
        Ok(address) => UrlHost::Address(address),
        Err(_) => UrlHost::Name(name.to_ascii_lowercase()),
    });
    if let Some((certificate, key)) = &access.client {
        let client = ClientCertificate::from_pem(&bytes(certificate)?, &bytes(key)?);
        tls.client = Some(client.map_err(|source| CredentialError::Pem { what: "the client certificate", source })?);
    }
    let authorization = match &access.credential {
        Credential::Nothing | Credential::Plugin(_) => None,
        Credential::Token(token) => Some(bearer(token)),
        Credential::TokenFile(path) => {
            let token = String::from_utf8(read(path)?).map_err(|_| CredentialError::Token)?;
            Some(bearer(&token.trim().into()))
        }
        Credential::Basic { user, password } => {
            Some(UserInfo { user: user.clone(), password: password.clone() }.basic())
        }
    };
    if authorization.as_ref().is_some_and(|value| HeaderValue::from_str(value.expose()).is_err()) {
        return Err(CredentialError::Token);
    }
    Ok(Read { tls, authorization, lasts: FRESH })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_prints_is_used_until_shortly_before_it_expires() {
        let now = humantime::parse_rfc3339("2026-01-01T00:00:00Z").expect("a moment");
        let read = |status: &str| read_plugin(format!("{{\"status\":{status}}}").as_bytes(), now);
        for (status, lasts) in [
            (r#"{"token":"t"}"#, Duration::MAX),
            (r#"{"token":"t","expirationTimestamp":"2026-01-01T01:00:00Z"}"#, Duration::from_secs(3570)),
            (r#"{"token":"t","expirationTimestamp":"2026-01-01T00:00:20Z"}"#, Duration::from_secs(10)),
            (r#"{"token":"t","expirationTimestamp":"2025-01-01T00:00:00Z"}"#, Duration::ZERO),
        ] {
            let found = read(status).map_err(|error| error.to_string()).expect(status);
            assert_eq!((found.token, found.lasts), (Some("t".into()), lasts), "{status}");
        }
        for status in ["{}", r#"{"token":""}"#, "null", r#"{"token":7}"#, r#"{"clientCertificateData":"c"}"#] {
            assert!(read(status).is_err(), "{status}");
        }
        let error = read(r#"{"clientCertificateData":"canary","clientKeyData":"canary"}"#).err().map(|e| e.to_string());
        assert!(error.is_some_and(|error| !error.contains("canary")));
    }

    #[test]
    fn a_failing_plugin_is_shown_by_its_first_line() {
        let said = first_line(b"\n  token expired: run login \x1b[1m\nstack\n");
        let error = PluginError::Failed { exit: Exit::Code(1), said }.to_string();
        assert_eq!(error, format!("it {}: token expired: run login \\u{{1b}}[1m", Exit::Code(1)));
    }
}
