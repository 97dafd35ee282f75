//! Calls to an engine: one connection each, bounded in bytes, and in time by progress. The version of its API is negotiated,
//! and negotiated again when the engine becomes another under a running worker.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_io::AsyncRead;
use futures_lite::FutureExt;
use http::{HeaderValue, Method, StatusCode, header};
use oz_worker_contract::turns::Turns;
use oz_worker_core::time::Instant;
use oz_worker_net::{Answer, AnswerError, Destination, HttpClient, Payload, dial, secret_value};
use oz_worker_runtime::Host;
use oz_worker_text::line::one_line;
use serde::de::DeserializeOwned;

use super::calls::{Call, LONG_SILENCE, SILENCE};
use super::error::EngineError;
use super::line::{Line, Said, Ssh};
use super::reply::{Reply, within};

/// The newest version of the API that this worker speaks. Nothing that it uses came later than 1.41; engines exist whose
/// oldest is 1.44 (Engine 29).
const NEWEST: Version = Version { major: 1, minor: 44 };
/// How long a call is repeated while the engine cannot be reached: it may be restarted meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// The first and the longest wait before a call is repeated.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// How many look at something at once: an engine answers few at a time, and each answer takes memory.
const MOST_LOOKS: usize = 16;
/// What a call that lasts reads into, in bytes. An engine's head has some 400; a proxy's headers come on top.
const LASTING_BUFFER: usize = 4 << 10;
/// How long what `ssh` says about its end may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// An engine that can be called.
pub struct Engine<R: Host> {
    runtime: R,
    destination: Destination,
    /// The program that leads there, when no socket does.
    ssh: Option<Ssh>,
    /// What stands before the path of every call.
    prefix: String,
    version: Mutex<Option<Version>>,
    /// Whether the last call was answered.
    answers: AtomicBool,
    is_podman: AtomicBool,
    numbers: AtomicU64,
    looks: Turns<()>,
}

/// How long something is still tried again.
pub struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Waits before the next try. False: there is to be none.
    pub async fn has_more<R: Host>(&mut self, engine: &Engine<R>) -> bool {
        if engine.runtime.now() >= self.until {
            return false;
        }
        engine.pause(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES[1]);
        true
    }
}

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl<R: Host> Engine<R> {
    pub fn new(runtime: R, destination: Destination, ssh: Option<Ssh>) -> Self {
        let prefix = match &destination {
            Destination::Host(remote) => remote.url.path_and_query().path().trim_end_matches('/').to_owned(),
            Destination::Unix(_) => String::new(),
        };
        let (version, numbers) = (Mutex::new(None), AtomicU64::new(1));
        let (answers, is_podman) = (AtomicBool::new(true), AtomicBool::new(false));
        let looks = Turns::new(MOST_LOOKS);
        Self { runtime, destination, ssh, prefix, version, answers, is_podman, numbers, looks }
    }

    pub const fn runtime(&self) -> &R {
        &self.runtime
    }

    /// Whether the last call was answered.
    pub fn answers(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// Whether it is Podman that speaks Docker's API.
    pub fn is_podman(&self) -> bool {
        self.is_podman.load(Ordering::Relaxed)
    }

    /// Calls until there is an answer, for as long as an engine may take to be restarted. Only for calls that may be made
    /// twice.
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, EngineError> {
        let answer = self.ask_raw(call).await?;
        serde_json::from_slice(&answer).map_err(|_| EngineError::Form)
    }

    /// The same for an answer without content.
    pub async fn tell(&self, call: &Call) -> Result<(), EngineError> {
        self.ask_raw(call).await.map(drop)
    }

    async fn ask_raw(&self, call: &Call) -> Result<Vec<u8>, EngineError> {
        let mut patience = self.patience();
        loop {
            match self.once(call).await {
                Err(error) if error.is_passing() && patience.has_more(self).await => {}
                result => return result,
            }
        }
    }

    /// For as long as an engine may take to be restarted, from now on.
    pub fn patience(&self) -> Patience {
        Patience { until: self.runtime.now().plus(PATIENCE), pause: PAUSES[0] }
    }

    /// A number that no other call gives.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits about so long.
    pub async fn pause(&self, about: Duration) {
        let pause = about.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.runtime.sleep_until(self.runtime.now().plus(pause)).await;
    }

    /// Calls once; who only looks at something when it is his turn.
    pub async fn once(&self, call: &Call) -> Result<Vec<u8>, EngineError> {
        if call.method != Method::GET {
            return self.at_once(call).await;
        }
        let turn = self.looks.next(&self.runtime, PATIENCE).await.ok_or(EngineError::Silent(PATIENCE))?;
        let answer = self.at_once(call).await;
        if !matches!(answer, Err(EngineError::Silent(_))) {
            turn.is_answered(self.runtime.now());
        }
        answer
    }

    async fn at_once(&self, call: &Call) -> Result<Vec<u8>, EngineError> {
        Box::pin(async { self.open(call).await?.whole().await }).await
    }

    /// Calls once, and gives the answer as soon as it begins.
    pub async fn open(&self, call: &Call) -> Result<Reply<R>, EngineError> {
        let payload = || match &call.body {
            Some(body) => Payload::from(body.to_string()),
            None => Payload::default(),
        };
        match self.versioned(call, payload()).await {
            Err(error) if error.is_version() => {
                *self.known() = None;
                self.versioned(call, payload()).await
            }
            result => result,
        }
    }

    /// Sends a tar archive as the body of a call, for as long as pieces of it are taken.
    pub async fn upload(
        &self,
        path: &str,
        archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<(), EngineError> {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: archive, taken: Arc::clone(&taken) };
        let call = Call::put(path).silence(None);
        let sent = async { self.versioned(&call, Payload::stream(counted)).await?.whole().await.map(drop) };
        let stuck = async {
            let mut before = u64::MAX;
            loop {
                let now = taken.load(Ordering::Relaxed);
                if now == before {
                    return Err(EngineError::Silent(LONG_SILENCE));
                }
                before = now;
                self.runtime.sleep_until(self.runtime.now().plus(LONG_SILENCE)).await;
            }
        };
        sent.or(stuck).await
    }

    async fn versioned(&self, call: &Call, payload: Payload) -> Result<Reply<R>, EngineError> {
        let version = self.version().await?;
        let path = format!("{}/v{}.{}{}", self.prefix, version.major, version.minor, call.path);
        self.send(call, &path, payload).await
    }

    async fn version(&self) -> Result<Version, EngineError> {
        if let Some(version) = *self.known() {
            return Ok(version);
        }
        let ping = Call::get("/_ping");
        let path = format!("{}/_ping", self.prefix);
        let (answer, _) = Box::pin(self.exchange(&ping, &path, Payload::default())).await?;
        let newest = answer.head.headers.get("api-version").and_then(|value| value.to_str().ok());
        let newest = newest.and_then(Version::parse).ok_or(EngineError::NoVersion)?;
        let version = newest.min(NEWEST);
        self.is_podman.store(answer.head.headers.contains_key("libpod-api-version"), Ordering::Relaxed);
        *self.known() = Some(version);
        Ok(version)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Version>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, call: &Call, path: &str, payload: Payload) -> Result<Reply<R>, EngineError> {
        // On the heap: what is needed for an exchange is needed for the time of one, and not for that of a task.
        let (answer, _) = Box::pin(self.exchange(call, path, payload)).await?;
        let status = answer.status();
        let reply = Reply::new(answer.body, self.runtime.clone(), call.silence);
        // 304: it was so already.
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(reply);
        }
        Err(reply.refusal(status).await)
    }

    async fn exchange(
        &self,
        call: &Call,
        path: &str,
        payload: Payload,
    ) -> Result<(Answer<Line<R>>, Option<Said>), EngineError> {
        let path = path.parse().map_err(|_| EngineError::Form)?;
        let mut request = self.destination.request(call.method.clone(), path, payload);
        if call.is_lasting {
            // Its answer ends with the connection: while it is waited for nothing else is to be kept.
            *request.version_mut() = http::Version::HTTP_10;
        }
        let headers = request.headers_mut();
        if call.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        } else if call.method == Method::PUT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
        }
        if let Some(value) = call.registry_auth.as_ref().and_then(secret_value) {
            headers.insert("x-registry-auth", value);
        }
        let exchanged = within(&self.runtime, call.silence, async {
            let (line, said) = within(&self.runtime, Some(SILENCE), self.connect()).await?;
            let answered = async {
                let client = if call.is_lasting {
                    HttpClient::lasting(line, LASTING_BUFFER).await?
                } else {
                    HttpClient::new(line).await?
                };
                client.send(request).await
            };
            match answered.await {
                Ok(answer) => Ok((answer, said)),
                Err(error) => {
                    if said.is_some() {
                        // It has ended, and what it said last is on its way.
                        self.runtime.sleep_until(self.runtime.now().plus(LAST_WORDS)).await;
                    }
                    Err(explained(error, said))
                }
            }
        });
        let result = exchanged.await;
        self.answers.store(result.is_ok(), Ordering::Relaxed);
        result
    }

    async fn connect(&self) -> Result<(Line<R>, Option<Said>), EngineError> {
        match &self.ssh {
            Some(ssh) => {
                let (line, said) = ssh.start(&self.runtime).await.map_err(EngineError::Ssh)?;
                Ok((line, Some(said)))
            }
            None => Ok((Line::Socket(dial(&self.runtime, &self.destination).await?), None)),
        }
    }
}

/// What `ssh` said says more than that its end came.
fn explained(error: AnswerError, said: Option<Said>) -> EngineError {
    let said = said.map(|said| said.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default();
    let text = String::from_utf8_lossy(&said);
    let text = one_line(text.lines().next_back().unwrap_or_default());
    if text.is_empty() { error.into() } else { EngineError::SshSaid(text) }
}

/// Counts what is read.
struct Counted<S> {
    inner: S,
    taken: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        to: &mut [u8],
    ) -> std::task::Poll<io::Result<usize>> {
        let counted = self.get_mut();
        let read = std::pin::Pin::new(&mut counted.inner).poll_read(cx, to);
        if let std::task::Poll::Ready(Ok(length)) = &read {
            counted.taken.fetch_add(*length as u64, Ordering::Relaxed);
        }
        read
    }
}
