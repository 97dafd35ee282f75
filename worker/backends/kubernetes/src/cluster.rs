//! Calls to the API server: bounded in bytes, in time and in number, with the credentials of the moment. A connection
//! is for one call, and for the next in line when somebody waits.

use std::future::Future;
use std::time::Duration;

use futures_lite::FutureExt;
use http::{HeaderValue, Method, Request, header};
use oz_worker_contract::query::escaped;
use oz_worker_contract::turns::{Turn, Turns};
use oz_worker_net::{Answer, AnswerError, Body, HttpClient, Payload, Wire, dial, secret_value};
use oz_worker_runtime::Host;
use oz_worker_text::line::beginning;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::credentials::{Credentials, Pass};
use super::error::{ApiError, PATIENCE, Tries};

/// How long one call may take once it has its turn. An API server answers within a minute itself; a webhook may take 30 s of it.
const CALL_LIMIT: Duration = Duration::from_secs(65);
/// The largest answer that is read whole.
const LARGEST_ANSWER: usize = 16 << 20;
/// What a patch of some fields is called.
const MERGE_PATCH: &str = "application/merge-patch+json";
/// The longest text of the server's that is repeated, in characters.
const LONGEST_TEXT: usize = 600;
/// How many calls of one kind are under way at most. API servers do a few hundred of all their clients' at once
/// (`--max-requests-inflight`), a busy one some tens of a second.
const MOST_CALLS: usize = 32;
/// How many logs are read at once: each may be up to a mebibyte.
const MOST_LOGS: usize = 8;

/// What a call does. Each kind has a line of its own, so that nothing waits for what hangs elsewhere: a creation for a webhook,
/// a log for the node that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Create,
    /// Of objects: the API server knows them itself.
    Read,
    /// And to mark: what follows the end of a task.
    Delete,
    Log,
}

/// One call.
pub struct Call {
    method: Method,
    path: String,
    body: Option<String>,
    /// Of which kind's line it waits for its turn, if it does.
    kind: Option<Kind>,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, kind: Some(Kind::Read) }
    }

    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        Self { method: Method::POST, path: path.into(), body: Some(body.to_string()), kind: Some(Kind::Create) }
    }

    /// Changes the fields that `changes` has (RFC 7396).
    pub fn patch(path: impl Into<String>, changes: &Value) -> Self {
        Self { method: Method::PATCH, kind: Some(Kind::Delete), ..Self::post(path, changes) }
    }

    pub fn delete(path: impl Into<String>, options: &Value) -> Self {
        Self { method: Method::DELETE, kind: Some(Kind::Delete), ..Self::post(path, options) }
    }

    /// Without waiting for a turn: whoever makes it sees to it that there are few of its kind.
    pub fn at_once(self) -> Self {
        Self { kind: None, ..self }
    }
}

/// An answer whose body is still to be read.
pub struct Opened<R: Host> {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub body: Body<Wire<R::Stream>>,
    /// Until the body was read.
    turn: Option<CallTurn<R>>,
    /// With which credentials it was asked for.
    pass: u64,
}

/// The turn of a call.
pub type CallTurn<R> = Turn<Box<Connection<R>>>;

/// A connection on which the next in line can call, if it has the same credentials.
pub struct Connection<R: Host> {
    client: HttpClient<Wire<R::Stream>>,
    pass: u64,
}

impl<R: Host> Opened<R> {
    /// It was read: the connection is for the next in line.
    fn hand_on(self) {
        let Self { body, turn, pass, .. } = self;
        if let (Some(mut turn), Some(client)) = (turn, body.into_client()) {
            turn.hand_on(Box::new(Connection { client, pass }));
        }
    }
}

/// A cluster that can be called.
pub struct Cluster<R: Host> {
    runtime: R,
    credentials: Credentials<R>,
    /// What stands before the path of every call.
    prefix: String,
    namespace: String,
    lines: Lines<R>,
}

struct Lines<R: Host> {
    creations: Turns<Box<Connection<R>>>,
    reads: Turns<Box<Connection<R>>>,
    deletions: Turns<Box<Connection<R>>>,
    logs: Turns<Box<Connection<R>>>,
}

impl<R: Host> Lines<R> {
    fn new() -> Self {
        let [creations, reads, deletions] = [MOST_CALLS; 3].map(Turns::new);
        Self { creations, reads, deletions, logs: Turns::new(MOST_LOGS) }
    }

    const fn of(&self, kind: Kind) -> &Turns<Box<Connection<R>>> {
        match kind {
            Kind::Create => &self.creations,
            Kind::Read => &self.reads,
            Kind::Delete => &self.deletions,
            Kind::Log => &self.logs,
        }
    }
}

impl<R: Host> Cluster<R> {
    pub fn new(runtime: R, credentials: Credentials<R>, prefix: String, namespace: String) -> Self {
        Self { runtime, credentials, prefix, namespace, lines: Lines::new() }
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

    /// Waits until a call of this kind may be made. The limits of calls and of tries run from then on; whoever waits for less
    /// long than a line may take stops waiting.
    ///
    /// # Errors
    /// [`ApiError::NoTurn`].
    pub async fn turn(&self, kind: Kind) -> Result<CallTurn<R>, ApiError> {
        self.lines.of(kind).next(&self.runtime, PATIENCE).await.ok_or(ApiError::NoTurn(PATIENCE))
    }

    /// Calls until there is an answer, for as long as what passes may take. Only for calls that may be made twice.
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        // On the heap: what is needed for a call is needed for the time of one, and not for that of a task.
        let asked = Box::pin(async {
            let mut turn = self.turn_of(call).await?;
            let mut tries = Tries::new(self.runtime.now());
            loop {
                let error = match self.once_in(turn, call).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                match tries.next(self.runtime.now(), &error) {
                    Some(at) => self.runtime.sleep_until(at).await,
                    None => return Err(error),
                }
                turn = self.turn_of(call).await?;
            }
        });
        asked.await
    }

    /// Calls once.
    pub async fn once<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ApiError> {
        let called = Box::pin(async {
            let turn = self.turn_of(call).await?;
            self.once_in(turn, call).await
        });
        called.await
    }

    /// Calls once, and has that turn.
    pub async fn once_in<T: DeserializeOwned>(&self, turn: Option<CallTurn<R>>, call: &Call) -> Result<T, ApiError> {
        let answered = Box::pin(async {
            let mut opened = self.open_in(turn, call).await?;
            let text = opened.body.read_whole(LARGEST_ANSWER).await?;
            let refused = refused(&opened, &text);
            opened.hand_on();
            refused?;
            serde_json::from_slice(&text).map_err(|_| ApiError::Form)
        });
        self.within(CALL_LIMIT, answered).await
    }

    /// Calls once, and gives the answer as soon as it begins, whatever its status is.
    pub async fn open(&self, call: &Call) -> Result<Opened<R>, ApiError> {
        let turn = self.turn_of(call).await?;
        self.open_in(turn, call).await
    }

    async fn turn_of(&self, call: &Call) -> Result<Option<CallTurn<R>>, ApiError> {
        match call.kind {
            Some(kind) => self.turn(kind).await.map(Some),
            None => Ok(None),
        }
    }

    async fn open_in(&self, mut turn: Option<CallTurn<R>>, call: &Call) -> Result<Opened<R>, ApiError> {
        let handed = turn.as_mut().and_then(Turn::handed);
        let begun = Box::pin(async {
            let pass = self.credentials.pass().await?;
            let handed = handed.filter(|handed| handed.pass == pass.number).map(|handed| handed.client);
            let answer = match handed {
                Some(client) => match client.send(self.request(call, &pass)?).await {
                    // The server had closed it, or does so in the middle. What it may have done is not asked for twice.
                    Err(AnswerError::Empty | AnswerError::Broken(_)) if call.method != Method::POST => {
                        self.send(call, &pass).await?
                    }
                    answer => answer?,
                },
                None => self.send(call, &pass).await?,
            };
            let Answer { head, body } = answer;
            let status = head.status.as_u16();
            if status == 401 {
                self.credentials.refused(&pass, &"the API server refuses them (401)").await;
            } else {
                self.credentials.accepted().await;
            }
            let asked = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = asked.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
            Ok((status, retry_after, body, pass.number))
        });
        let begun = self.within(CALL_LIMIT, begun).await;
        if let Some(turn) = turn.as_ref().filter(|_| !matches!(begun, Err(ApiError::Silent(_)))) {
            turn.is_answered(self.runtime.now());
        }
        begun.map(|(status, retry_after, body, pass)| Opened { status, retry_after, body, turn, pass })
    }

    /// Sends a call on a connection of its own.
    async fn send(&self, call: &Call, pass: &Pass) -> Result<Answer<Wire<R::Stream>>, ApiError> {
        let request = self.request(call, pass)?;
        let wire = match dial(&self.runtime, &pass.destination).await {
            Ok(wire) => wire,
            Err(error) => {
                if error.is_about_trust() {
                    self.credentials.refused(pass, &error).await;
                }
                return Err(ApiError::Dial(Box::new(error)));
            }
        };
        Ok(HttpClient::new(wire).await?.send(request).await?)
    }

    fn request(&self, call: &Call, pass: &Pass) -> Result<Request<Payload>, ApiError> {
        let path = format!("{}{}", self.prefix, call.path).parse().map_err(|_| ApiError::Form)?;
        let payload = call.body.clone().map_or_else(Payload::default, Payload::from);
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
        Ok(request)
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
