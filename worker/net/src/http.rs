//! HTTP/1.1 as a client, one exchange after another on a connection that the caller has: bounded heads, bodies as streams,
//! and the connection itself back after an upgrade.
//!
//! Nothing runs beside the caller: whoever waits for an answer or reads its body drives the connection, and whoever drops
//! them ends it.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_io::AsyncRead;
use futures_lite::future::poll_once;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};

use crate::payload::Payload;
use crate::socket::{Duplex, Socket};
use crate::tls::TlsFault;

/// The largest head of an answer that is read. Real ones have a few hundred bytes.
pub const LARGEST_HEAD: usize = 16 << 10;
/// The most header lines of an answer.
const MOST_HEADERS: usize = 100;
/// How much is read at once of what is waited for for long.
const PIECE: usize = 128;

/// A connection on which requests can be sent, one after the other.
pub struct HttpClient<S: Duplex> {
    sender: SendRequest<Payload>,
    /// On the heap: each future that it goes through would hold the room for it twice.
    connection: Box<Connection<Socket<S>, Payload>>,
    /// How many bytes of the answer came.
    received: Arc<AtomicUsize>,
    /// Whether the connection was driven to its end, and how it ended.
    ended: Option<Result<(), hyper::Error>>,
}

/// An answer whose body is still to be read.
pub struct Answer<S: Duplex> {
    pub head: Parts,
    /// The body, with the connection that it comes on.
    pub body: Body<S>,
}

/// The body of an answer: a stream of bytes, which is dropped when enough was read of it.
pub struct Body<S: Duplex> {
    incoming: Incoming,
    client: HttpClient<S>,
    /// What was received and not read yet.
    chunk: Bytes,
    /// Whether the whole of it was received.
    whole: bool,
    /// Whether it ends with the connection: neither a length nor a coding says where (RFC 9112, section 6.3).
    is_bare: bool,
}

/// What is still to come of an answer that lasts.
pub struct Rest<S: Duplex> {
    coming: Coming<S>,
    /// How many bytes it may have.
    most: usize,
}

enum Coming<S: Duplex> {
    Framed(Box<Body<S>>),
    Bare {
        stream: S,
        /// What came already.
        read: Vec<u8>,
    },
}

/// Why there is no answer, or not the whole of one.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection broke, or TLS did.
    #[error("{0}")]
    Broken(TlsFault),
    /// Nothing came at all.
    #[error("the connection was closed without an answer")]
    Empty,
    /// The connection ended before the answer did.
    #[error("the connection was closed in the middle of the answer")]
    Truncated,
    /// The head is larger than [`LARGEST_HEAD`].
    #[error("the answer's header is larger than 16 KiB")]
    HeadTooLarge,
    /// It is not HTTP/1, or no head that is read: one with more than 100 lines.
    #[error("the answer is not HTTP/1 with at most 100 header lines: are scheme and port right?")]
    NotHttp,
    /// The body is larger than its reader takes: this many bytes.
    #[error("the answer is larger than {0} bytes")]
    BodyTooLarge(usize),
}

impl<S: Duplex> HttpClient<S> {
    /// A client on a connection of which nothing was used yet.
    ///
    /// # Errors
    /// [`AnswerError::Broken`].
    pub async fn new(stream: S) -> Result<Self, AnswerError> {
        Self::over(stream, |builder| builder.max_buf_size(LARGEST_HEAD)).await
    }

    /// The same for an exchange that lasts: it holds so many bytes to read into meanwhile, and takes no larger head.
    ///
    /// # Errors
    /// [`AnswerError::Broken`].
    pub async fn lasting(stream: S, buffer: usize) -> Result<Self, AnswerError> {
        Self::over(stream, |builder| builder.read_buf_exact_size(Some(buffer))).await
    }

    async fn over(stream: S, buffered: impl FnOnce(&mut Builder) -> &mut Builder) -> Result<Self, AnswerError> {
        let mut builder = Builder::new();
        // Some proxies compare names letter by letter.
        buffered(builder.title_case_headers(true).max_headers(MOST_HEADERS));
        let received = Arc::default();
        let socket = Socket::new(stream, Arc::clone(&received));
        let (sender, connection) = Box::pin(builder.handshake(socket)).await.map_err(|error| read(&error, 0))?;
        Ok(Self { sender, connection: Box::new(connection), received, ended: None })
    }

    /// Sends a request, and gives the answer as soon as its head is there.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub async fn send(mut self, request: Request<Payload>) -> Result<Answer<S>, AnswerError> {
        match self.exchange(request).await {
            Ok(answer) => {
                let (head, incoming) = answer.into_parts();
                let ends = [CONTENT_LENGTH, TRANSFER_ENCODING];
                let is_bare = !ends.iter().any(|name| head.headers.contains_key(name));
                let body = Body { incoming, client: self, chunk: Bytes::new(), whole: false, is_bare };
                Ok(Answer { head, body })
            }
            // Why the connection ended is known to it; to the exchange it is a cancellation.
            Err(error) => {
                let error = self.ended.take().and_then(Result::err).unwrap_or(error);
                Err(read(&error, self.received.load(Ordering::Relaxed)))
            }
        }
    }

    async fn exchange(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, hyper::Error> {
        self.received.store(0, Ordering::Relaxed);
        let Self { sender, connection, ended, .. } = self;
        let mut exchange = pin!(async {
            sender.ready().await?;
            sender.send_request(request).await
        });
        poll_fn(|cx| {
            poll_connection(connection, ended, cx);
            exchange.as_mut().poll(cx)
        })
        .await
    }
}

fn poll_connection<S: Duplex>(
    connection: &mut Connection<Socket<S>, Payload>,
    ended: &mut Option<Result<(), hyper::Error>>,
    cx: &mut Context<'_>,
) {
    if ended.is_none()
        && let Poll::Ready(result) = connection.poll_without_shutdown(cx)
    {
        *ended = Some(result);
    }
}

impl<S: Duplex> Answer<S> {
    /// The connection itself, and what came on it behind the head. Only of an answer after which it is no longer HTTP: 101,
    /// or the success of a CONNECT.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub async fn into_stream(self) -> Result<(S, Bytes), AnswerError> {
        let Body { incoming, mut client, .. } = self.body;
        drop(incoming);
        let HttpClient { connection, ended, .. } = &mut client;
        poll_fn(|cx| {
            poll_connection(connection, ended, cx);
            if ended.is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if let Some(Err(error)) = client.ended {
            return Err(read(&error, 1));
        }
        let parts = client.connection.into_parts();
        Ok((parts.io.into_inner(), parts.read_buf))
    }

    pub const fn status(&self) -> StatusCode {
        self.head.status
    }
}

impl<S: Duplex> Body<S> {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`AnswerError`].
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, AnswerError>> {
        if !self.chunk.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.chunk))));
        }
        loop {
            poll_connection(&mut self.client.connection, &mut self.client.ended, cx);
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                // Trailers are of no use here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Ok(Some(data))),
                    _ => {}
                },
                Some(Err(error)) => return Poll::Ready(Err(read(&error, 1))),
                None => {
                    self.whole = true;
                    // It may be over now: so said the head of the answer.
                    poll_connection(&mut self.client.connection, &mut self.client.ended, cx);
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    /// Waits for the next piece; `None` at the end.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, AnswerError> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The whole of it.
    ///
    /// # Errors
    /// [`AnswerError`], also when it has more than `most` bytes.
    pub async fn read_whole(&mut self, most: usize) -> Result<Vec<u8>, AnswerError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if chunk.len() > most - whole.len() {
                return Err(AnswerError::BodyTooLarge(most));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    /// What is still to come, for whoever waits for long: of a body that ends with its connection, as those of HTTP/1.0 do,
    /// nothing but that is kept meanwhile.
    ///
    /// # Errors
    /// [`AnswerError`], also when more than `most` bytes of it are here already.
    pub async fn into_rest(mut self, most: usize) -> Result<Rest<S>, AnswerError> {
        if !self.is_bare {
            return Ok(Rest { coming: Coming::Framed(Box::new(self)), most });
        }
        let mut read = Vec::new();
        while let Some(chunk) = poll_once(self.chunk()).await.transpose()?.flatten() {
            if chunk.len() > most - read.len() {
                return Err(AnswerError::BodyTooLarge(most));
            }
            read.extend_from_slice(&chunk);
        }
        let parts = self.client.connection.into_parts();
        read.extend_from_slice(&parts.read_buf);
        Ok(Rest { coming: Coming::Bare { stream: parts.io.into_inner(), read }, most })
    }

    /// The connection for the next request, if the body was read to its end and the other side lets it stay open.
    pub fn into_client(self) -> Option<HttpClient<S>> {
        let is_whole = self.whole || (self.chunk.is_empty() && self.incoming.is_end_stream());
        (is_whole && self.client.ended.is_none()).then_some(self.client)
    }
}

impl<S: Duplex> Rest<S> {
    /// Waits for the whole of it.
    ///
    /// # Errors
    /// [`AnswerError`], also when it has more bytes than it may.
    pub async fn read_whole(self) -> Result<Vec<u8>, AnswerError> {
        let Self { coming, most } = self;
        let (mut stream, mut read) = match coming {
            Coming::Framed(mut body) => return body.read_whole(most).await,
            Coming::Bare { stream, read } => (stream, read),
        };
        while read.len() <= most {
            let coming = poll_fn(|cx| {
                // Not a part of what waits.
                let mut piece = [0; PIECE];
                let length = ready!(Pin::new(&mut stream).poll_read(cx, &mut piece))?;
                read.extend_from_slice(piece.get(..length).unwrap_or_default());
                Poll::Ready(io::Result::Ok(length))
            });
            if coming.await.map_err(|error| AnswerError::Broken((&error).into()))? == 0 {
                return Ok(read);
            }
        }
        Err(AnswerError::BodyTooLarge(most))
    }
}

impl<S: Duplex> AsyncRead for Body<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let body = self.get_mut();
        let mut chunk = match ready!(body.poll_chunk(cx)) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Poll::Ready(Ok(0)),
            Err(AnswerError::Broken(TlsFault::Io(error))) => return Poll::Ready(Err(error)),
            Err(error) => return Poll::Ready(Err(io::Error::other(error))),
        };
        let length = chunk.len().min(to.len());
        for (to, from) in to.iter_mut().zip(chunk.split_to(length)) {
            *to = from;
        }
        body.chunk = chunk;
        Poll::Ready(Ok(length))
    }
}

/// Whether a header that holds a list names `token`, whatever its case.
pub fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// What an error of hyper amounts to. Its text is not shown: it is for programmers.
fn read(error: &hyper::Error, received: usize) -> AnswerError {
    let broken = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let is_end = broken.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    if is_end || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        if received > 0 { AnswerError::Truncated } else { AnswerError::Empty }
    } else if let Some(error) = broken {
        AnswerError::Broken(error.into())
    } else if error.is_parse() && received >= LARGEST_HEAD {
        AnswerError::HeadTooLarge
    } else {
        AnswerError::NotHttp
    }
}
