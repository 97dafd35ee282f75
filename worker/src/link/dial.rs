//! One dial: the API key, the connection, the upgrade to WebSocket. Bounded in everything it reads; its time is bounded by
//! the core.

use std::sync::Arc;
use std::time::Duration;

use async_tungstenite::WebSocketStream;
use futures_lite::{AsyncReadExt, FutureExt};
use oz_worker_core::secret::Secret;
use oz_worker_net::proxy::ProxyError;
use oz_worker_net::tls::Tls;
use oz_worker_net::url::{Url, UrlHost};
use oz_worker_net::{
    Answer, Body, Destination, Duplex, HttpClient, Payload, Wire, dial as connect, lists, secret_value,
};
use oz_worker_runtime::{Lane, Runtime};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::uri::PathAndQuery;
use tungstenite::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tungstenite::protocol::{Role, WebSocketConfig};

use super::error::LinkError;
use super::refusal::{SHOWN, refusal};
use crate::settings::secret::{ApiKey, ApiKeyError};

/// The largest frame and message: `docs/protocol.md`.
pub(super) const LARGEST_FRAME: usize = 16 << 20;
/// How long the body of a refusal may take to come.
const BODY_LIMIT: Duration = Duration::from_secs(2);

/// Where the server is and how to sign in.
#[derive(Debug)]
pub struct Target {
    host: UrlHost,
    /// Path and query of the upgrade request.
    path: PathAndQuery,
    api_key: ApiKey,
    /// A proxy variable that cannot be used fails every dial: without its proxy a dial could go where the operator does not
    /// want it.
    destination: Result<Destination, ProxyError>,
    /// With what TLS is spoken there, if it is.
    tls: Option<Arc<Tls>>,
}

impl Target {
    /// The target of `url` (`ws://` or `wss://`), signed in with `api_key`, through the proxy that the variables of `env`
    /// name; `None` when it is not such a URL, which the settings have checked.
    pub fn new(url: &str, api_key: ApiKey, env: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let url = Url::parse(url, &["ws", "wss"]).ok()?;
        let (host, path, tls) = (url.host().clone(), url.path_and_query().clone(), Arc::new(Tls::default()));
        let spoken = url.is_secure().then(|| Arc::clone(&tls));
        Some(Self { host, path, api_key, destination: Destination::new(url, &env, tls), tls: spoken })
    }

    /// What would be said of each dial, when the environment's proxies or certificates cannot be used. Reads files, and connects
    /// to nothing.
    pub fn problem(&self) -> Option<LinkError> {
        if let Err(error) = &self.destination {
            return Some(error.clone().into());
        }
        let error = self.tls.as_ref()?.client_config().err()?;
        Some(LinkError::Dial(error.into()))
    }
}

/// Dials `target`.
///
/// # Errors
/// [`LinkError`]; no text of it holds the API key.
pub(super) async fn dial<R: Runtime>(
    runtime: R,
    target: Arc<Target>,
) -> Result<WebSocketStream<Wire<R::Stream>>, LinkError> {
    let reading = Arc::clone(&target);
    let api_key = runtime.unblock(Lane::Dial, move || reading.api_key.read()).await?;
    let destination = target.destination.as_ref().map_err(ProxyError::clone)?;
    let wire = connect(&runtime, destination).await?;
    let (answer, key) = ask(wire, &target, destination, &api_key).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body = beginning(&runtime, answer.body).await;
        return Err(refusal(&target.host, &api_key, answer.head.status, &answer.head.headers, &body));
    }
    check_handshake(&answer.head.headers, &key)
        .map_err(|what| LinkError::Handshake { host: target.host.clone(), what })?;
    let stream = answer.into_stream().await;
    let (wire, rest) = stream.map_err(|source| LinkError::unanswered(&target.host, source))?;
    let config = WebSocketConfig::default()
        // Enough to take a burst in few reads, small enough for a worker that idles for hours.
        .read_buffer_size(16 << 10)
        .write_buffer_size(16 << 10)
        .max_message_size(Some(LARGEST_FRAME))
        .max_frame_size(Some(LARGEST_FRAME));
    Ok(WebSocketStream::from_partially_read(wire, rest.into(), Role::Client, Some(config)).await)
}

/// Asks for the upgrade to WebSocket (RFC 6455, section 4); gives the answer and the key that it must prove to know.
async fn ask<S: Duplex>(
    stream: S,
    target: &Target,
    destination: &Destination,
    api_key: &Secret,
) -> Result<(Answer<S>, String), LinkError> {
    let bearer = Secret::from(format!("Bearer {}", api_key.expose()));
    let bearer = secret_value(&bearer).ok_or(ApiKeyError::IllFormed)?;
    let key = generate_key();
    let mut request = destination.request(Method::GET, target.path.clone(), Payload::default());
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    // Base64 can stand in a header.
    headers.extend(HeaderValue::from_str(&key).ok().map(|key| (header::SEC_WEBSOCKET_KEY, key)));
    headers.insert(header::AUTHORIZATION, bearer);
    let answer = async { HttpClient::new(stream).await?.send(request).await };
    let answer = answer.await.map_err(|source| LinkError::unanswered(&target.host, source))?;
    Ok((answer, key))
}

/// Whether an answer with status 101 completes the handshake that was asked for with `key`.
///
/// # Errors
/// What is missing.
pub fn check_handshake(headers: &HeaderMap, key: &str) -> Result<(), &'static str> {
    if !headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err("no Upgrade: websocket");
    }
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return Err("no Connection: Upgrade");
    }
    let accept = derive_accept_key(key.as_bytes());
    if headers.get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes) != Some(accept.as_bytes()) {
        return Err("Sec-WebSocket-Accept does not match");
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) || headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Err("it chose an extension or subprotocol that was not offered");
    }
    Ok(())
}

/// The beginning of a refusal's body: as much as is shown, as far as it comes soon.
async fn beginning<R: Runtime>(runtime: &R, body: Body<Wire<R::Stream>>) -> Vec<u8> {
    let mut shown = Vec::new();
    let mut body = body.take(SHOWN as u64);
    let reading = async {
        // What came until it broke is what is shown.
        let _ = body.read_to_end(&mut shown).await;
    };
    reading.or(runtime.sleep_until(runtime.now().plus(BODY_LIMIT))).await;
    shown
}
