//! Why there is no connection to the server.

use oz_worker_net::proxy::ProxyError;
use oz_worker_net::tls::TlsFault;
use oz_worker_net::url::UrlHost;
use oz_worker_net::{AnswerError, DialError};

use crate::settings::secret::ApiKeyError;

/// Why a dial did not lead to a session. No text of it holds the API key.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no usable API key.
    #[error("{0}")]
    ApiKey(#[from] ApiKeyError),
    #[error("{0}")]
    ProxyVariable(#[from] ProxyError),
    /// There is no connection.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The connection broke before there was an answer.
    #[error("the connection to {host} broke: {source}")]
    Broken {
        host: UrlHost,
        /// What the operating system or TLS said.
        source: TlsFault,
    },
    /// The server's answer could not be read.
    #[error("{host} did not answer as a WebSocket server: {source}")]
    Answer { host: UrlHost, source: AnswerError },
    #[error("the API key was refused (HTTP {status}): check --api-key, --api-key-file or WARP_API_KEY{body}")]
    KeyRefused {
        /// 401 or 403.
        status: u16,
        /// What the server says, ready to be shown.
        body: String,
    },
    /// The server answered with something else than 101.
    #[error("{host} answered HTTP {status}{location}{body}")]
    Refused {
        host: UrlHost,
        status: u16,
        /// Where a redirect points, ready to be shown.
        location: String,
        /// What the server says, ready to be shown.
        body: String,
    },
    /// The server says 101 but what follows is not its part of the handshake.
    #[error("{host} answered HTTP 101 but not the WebSocket handshake ({what})")]
    Handshake { host: UrlHost, what: &'static str },
}

impl LinkError {
    /// No answer of `host` to the upgrade request.
    pub(super) fn unanswered(host: &UrlHost, source: AnswerError) -> Self {
        let host = host.clone();
        match source {
            AnswerError::Broken(source) => Self::Broken { host, source },
            source => Self::Answer { host, source },
        }
    }
}
