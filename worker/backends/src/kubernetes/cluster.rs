//! Calls to the API server: one connection each, bounded in bytes and time, with the credentials of the moment. A retry says
//! which failures it is for.

use std::future::Future;
use std::time::Duration;

use futures_lite::FutureExt;
use http::{HeaderValue, Method, header};
use oz_worker_core::time::Instant;
use oz_worker_net::{Answer, AnswerError, Body, DialError, HttpClient, Payload, Wire, dial, secret_value};
use oz_worker_runtime::Host;
use oz_worker_text::line::beginning;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::credentials::{CredentialError, Credentials};
use crate::query::escaped;

/// How long one call may take. An API server answers within a minute itself; a webhook may take 30 s of it.
const CALL_LIMIT: Duration = Duration::from_secs(65);
/// How long a call is repeated that fails by what passes, and how long one whose credentials are refused.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const CREDENTIAL_PATIENCE: Duration = Duration::from_secs(600);
/// The first and the longest wait before a call is repeated, and the longest that the server may ask for.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The largest answer that is read whole.
const LARGEST_ANSWER: usize = 16 << 20;
/// What a patch of some fields is called.
const MERGE_PATCH: &str = "application/merge-patch+json";
/// The longest text of the server's that is repeated, in characters.
const LONGEST_TEXT: usize = 600;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    Credentials(#[from] CredentialError),
    #[error("{0}")]
    Dial(Box<DialError>),
    #[error("{0}")]
    Answer(#[from] AnswerError),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the answer is not what an API server says")]
    Form,
    #[error("{message} (HTTP {status})")]
    Status { status: u16, reason: String, message: String, retry_after: Option<Duration> },
}

impl ApiError {
    /// Whether it may be another time, and for how long that is worth a try.
    fn patience(&self) -> Option<Duration> {
        match self {
            _ if self.is_about_credentials() => Some(CREDENTIAL_PATIENCE),
            Self::Dial(_) | Self::Answer(_) | Self::Silent(_) | Self::Status { status: 429 | 500.., .. } => {
                Some(PATIENCE)
            }
            Self::Form | Self::Credentials(_) | Self::Status { .. } => None,
        }
    }

    /// Whether the server may have done it all the same.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Answer(_) | Self::Silent(_) | Self::Status { status: 500.., .. })
    }

    /// Whether it is only that we are not known to the server, or it is not to us.
    pub fn is_about_credentials(&self) -> bool {
        match self {
            Self::Credentials(_) | Self::Status { status: 401, .. } => true,
            Self::Dial(error) => error.is_about_trust(),
            _ => false,
        }
    }

    /// Whether the server says that it cannot do it now.
    pub const fn is_refusal_for_now(&self) -> bool {
        matches!(self, Self::Status { status: 429 | 500.., .. })
    }

    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    pub const fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status { status: 403, .. })
    }

    /// Whether the object is another by now, or was changed since it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { status: 409, .. }) && !self.is_taken()
    }

    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Status { status: 409, reason, .. } if reason == "AlreadyExists")
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// One call.
pub struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None }
    }

    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, path: path.into(), body: Some(body) }
    }

    /// Changes the fields that `changes` has (RFC 7396).
    pub fn patch(path: impl Into<String>, changes: Value) -> Self {
        Self { method: Method::PATCH, path: path.into(), body: Some(changes) }
    }

    pub fn delete(path: impl Into<String>, options: Value) -> Self {
        Self { method: Method::DELETE, path: path.into(), body: Some(options) }
    }
}

/// An answer whose body is still to be read.
pub struct Opened<R: Host> {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub body: Body<Wire<R::Stream>>,
}

/// A cluster that can be called.
pub struct Cluster<R: Host> {
    runtime: R,
    credentials: Credentials<R>,
    /// What stands before the path of every call.
    prefix: String,
    namespace: String,
}

impl<R: Host> Cluster<R> {
    pub const fn new(runtime: R, credentials: Credentials<R>, prefix: String, namespace: String) -> Self {
        Self { runtime, credentials, prefix, namespace }
    }

    pub const fn runtime(&self) -> &R {
        &self.runtime
    }

    pub fn jobs(&self) -> String {
        format!("/apis/batch/v1/namespaces/{}/jobs", escaped(&self.namespace))
    }

    pub fn job(&self, name: &str) -> String {
        format!("{}/{name}", self.jobs())
    }

    pub fn core(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", escaped(&self.namespace))
    }

    /// Calls until there is an answer, for as long as what passes may take. Only for calls that may be made twice.
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let mut tries = Tries::new(self.runtime.now());
        loop {
            let error = match self.once(call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match tries.next(self.runtime.now(), &error) {
                Some(at) => self.runtime.sleep_until(at).await,
                None => return Err(error),
            }
        }
    }

    /// Calls once.
    pub async fn once<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        // On the heap: what is needed for an exchange is needed for the time of one, and not for that of a task.
        let answered = Box::pin(async {
            let mut opened = self.open(call).await?;
            let text = opened.body.read_whole(LARGEST_ANSWER).await?;
            refused(&opened, &text)?;
            serde_json::from_slice(&text).map_err(|_| ApiError::Form)
        });
        self.within(CALL_LIMIT, answered).await
    }

    /// Calls once, and gives the answer as soon as it begins, whatever its status is.
    pub async fn open(&self, call: &Call) -> Result<Opened<R>, ApiError> {
        let begun = Box::pin(async {
            let pass = self.credentials.pass().await?;
            let path = format!("{}{}", self.prefix, call.path).parse().map_err(|_| ApiError::Form)?;
            let payload = call.body.as_ref().map_or_else(Payload::default, |body| Payload::from(body.to_string()));
            let mut request = pass.destination.request(call.method.clone(), path, payload);
            let headers = request.headers_mut();
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            if call.body.is_some() {
                let kind = if call.method == Method::PATCH { MERGE_PATCH } else { "application/json" };
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            if let Some(value) = pass.authorization.as_ref().and_then(secret_value) {
                headers.insert(header::AUTHORIZATION, value);
            }
            for (name, value) in &self.credentials.impersonation {
                headers.append(name, value.clone());
            }
            let wire = match dial(&self.runtime, &pass.destination).await {
                Ok(wire) => wire,
                Err(error) => {
                    if error.is_about_trust() {
                        self.credentials.refused(&pass, &error).await;
                    }
                    return Err(ApiError::Dial(Box::new(error)));
                }
            };
            let Answer { head, body } = HttpClient::new(wire).await?.send(request).await?;
            let status = head.status.as_u16();
            if status == 401 {
                self.credentials.refused(&pass, &"the API server refuses them (401)").await;
            } else {
                self.credentials.accepted().await;
            }
            let asked = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = asked.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
            Ok(Opened { status, retry_after, body })
        });
        self.within(CALL_LIMIT, begun).await
    }

    /// What `future` comes to, unless it takes longer than that.
    pub async fn within<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let late = async {
            self.runtime.sleep_until(self.runtime.now().plus(limit)).await;
            Err(ApiError::Silent(limit))
        };
        future.or(late).await
    }
}

/// The error that an answer is.
pub fn refused<R: Host>(opened: &Opened<R>, text: &[u8]) -> Result<(), ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        reason: String,
        message: String,
    }
    if (200..300).contains(&opened.status) {
        return Ok(());
    }
    let said: Status = serde_json::from_slice(text).unwrap_or_default();
    let message = if said.message.is_empty() { String::from_utf8_lossy(text).into_owned() } else { said.message };
    Err(ApiError::Status {
        status: opened.status,
        reason: said.reason,
        message: beginning(message.trim(), LONGEST_TEXT),
        retry_after: opened.retry_after,
    })
}

/// When a call is repeated.
pub struct Tries {
    begun: Instant,
    pause: Duration,
}

impl Tries {
    pub const fn new(now: Instant) -> Self {
        Self { begun: now, pause: PAUSES[0] }
    }

    /// When to try again after this. None: no more.
    pub fn next(&mut self, now: Instant, error: &ApiError) -> Option<Instant> {
        let patience = error.patience()?;
        if now.since(self.begun) >= patience {
            return None;
        }
        let wait = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(PAUSES[1]);
        Some(now.plus(error.retry_after().map_or(wait, |asked| asked.min(LONGEST_WAIT).max(wait))))
    }
}

#[cfg(test)]
mod tests {
    use oz_worker_net::tls::{CertificateFlaw, TlsError, TlsFault};
    use oz_worker_net::url::UrlHost;

    use super::*;

    #[test]
    fn what_passes_is_tried_for_two_minutes_and_as_the_server_asks() {
        let status = |status, retry_after| ApiError::Status {
            status,
            reason: String::new(),
            message: String::new(),
            retry_after,
        };
        let at = |seconds| Instant::new(Duration::from_secs(seconds));
        let next = |now, error: &ApiError| Tries::new(at(0)).next(at(now), error);
        for passing in [status(500, None), status(503, None), status(429, None), ApiError::Silent(CALL_LIMIT)] {
            assert!(next(119, &passing).is_some_and(|then| then > at(119) && then < at(120)));
            assert_eq!(next(120, &passing), None);
        }
        assert_eq!(next(0, &status(429, Some(Duration::from_secs(7)))), Some(at(7)));
        let handshake = |source| {
            let host = UrlHost::Name("k".into());
            ApiError::Dial(Box::new(DialError::Handshake { host, source }))
        };
        let broken = handshake(TlsFault::Io(std::io::ErrorKind::ConnectionReset.into()));
        assert!(!broken.is_about_credentials() && next(119, &broken).is_some() && next(120, &broken).is_none());
        // Both sides of an authority that is being replaced.
        let unknown = handshake(TlsFault::Certificate(CertificateFlaw::UnknownIssuer));
        let unusable = ApiError::Dial(Box::new(TlsError::Client.into()));
        for replaced in [status(401, None), unknown, unusable] {
            assert!(replaced.is_about_credentials(), "{replaced}");
            assert!(next(599, &replaced).is_some() && next(600, &replaced).is_none());
        }
        for lasting in [status(403, None), status(404, None), status(409, None), status(422, None), ApiError::Form] {
            assert_eq!(next(0, &lasting), None);
        }
    }
}
