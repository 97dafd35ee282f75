//! A place where an engine can be, in the forms in which the docker client takes one.

use std::fmt;
use std::path::PathBuf;

use oz_worker_net::tls::Tls;
use oz_worker_net::url::{Url, UrlError};

/// Where an engine listens that nobody configured.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The ports of an engine, plain and with TLS (IANA).
const PORTS: [u16; 2] = [2375, 2376];
const SCHEMES: &[&str] = &["http", "https"];

#[derive(Debug)]
pub enum Place {
    Unix(PathBuf),
    /// Its scheme says whether TLS is spoken. Its path stands before that of every call.
    Url(Box<(Url, Tls)>),
    Ssh(SshHost),
}

/// A host whose engine is reached by the program `ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshHost {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
}

/// What is wrong with a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostFlaw {
    #[error("write unix:///PATH, tcp://HOST:PORT, http(s)://HOST:PORT or ssh://[USER@]HOST")]
    Scheme,
    #[error("it {0}")]
    Url(UrlError),
    #[error("it must not hold a user name or password")]
    Credentials,
    #[error("it is ssh://[USER@]HOST[:PORT], without anything else")]
    Ssh,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Url(place) => write!(f, "{}://{}", place.0.scheme(), place.0.authority()),
            Self::Ssh(place) => write!(f, "ssh://{}", place.host),
        }
    }
}

impl Place {
    /// Reads a host; `has_tls` says what `tcp://` means.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, has_tls: bool) -> Result<Self, HostFlaw> {
        let (scheme, rest) = text.split_once("://").ok_or(HostFlaw::Scheme)?;
        let web = |scheme: &str, port: u16| {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
            let port = if has_port { String::new() } else { format!(":{port}") };
            let url = Url::parse(&format!("{scheme}://{authority}{port}{path}"), SCHEMES).map_err(HostFlaw::Url)?;
            if url.user_info().is_some() {
                return Err(HostFlaw::Credentials);
            }
            Ok(Self::Url(Box::new((url, Tls::default()))))
        };
        let [plain, secure] = PORTS;
        match scheme.to_ascii_lowercase().as_str() {
            "unix" if rest.is_empty() => Ok(Self::Unix(DEFAULT_SOCKET.into())),
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "tcp" | "http" if !has_tls => web("http", plain),
            "tcp" | "http" | "https" => web("https", secure),
            "ssh" => ssh_host(rest).map(Self::Ssh).ok_or(HostFlaw::Ssh),
            _ => Err(HostFlaw::Scheme),
        }
    }
}

fn ssh_host(rest: &str) -> Option<SshHost> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, place) = match rest.split_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse).transpose().ok()?;
    // Nothing that `ssh` could take for an option or that a shell at the other end could.
    let plain = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'%');
        !text.is_empty() && !text.starts_with('-') && text.bytes().all(fits)
    };
    let user = user.map(str::to_owned);
    (plain(host) && user.as_deref().is_none_or(plain)).then(|| SshHost { user, host: host.to_owned(), port })
}
