//! The one connection to the server: dialled, written in batches, read frame by frame.
//!
//! It decides nothing. Frames wait here while the socket takes no more. When many do, nothing is read either, so that a
//! server that does not read cannot fill the memory.

mod dial;
mod end;
mod error;
mod refusal;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_tungstenite::WebSocketStream;
use futures_core::Stream;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use futures_sink::Sink;
use oz_worker_core::Frame;
use oz_worker_net::{Duplex, Moved, Wire};
use oz_worker_runtime::Runtime;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Error, Message, Utf8Bytes};

pub use dial::{Target, check_handshake};
pub use end::LinkEnd;
pub use error::LinkError;
pub use refusal::refusal;

/// After how many frames read what is written meanwhile is flushed, even though more can be read.
const FRAMES_PER_FLUSH: u32 = 64;
/// How many bytes of messages may wait for the socket before nothing more is read: enough to answer a burst of twenty
/// thousand assignments to a server that writes all of them before it reads.
const LARGEST_BACKLOG: usize = 4 << 20;
/// How long a connection that breaks the rules is still read after its Close, so that the server can read that.
const LINGER: Duration = Duration::from_secs(2);

type Socket<R> = WebSocketStream<Wire<<R as Runtime>::Stream>>;
type Dialing<R> = Pin<Box<dyn Future<Output = Result<Socket<R>, LinkError>> + Send>>;

#[derive(Debug)]
pub enum LinkEvent {
    Connected,
    DialFailed(LinkError),
    Disconnected(LinkEnd),
    Text(Utf8Bytes),
    /// A binary frame of this size.
    Binary(usize),
    /// A Ping; it is answered already.
    Ping,
    Pong(Bytes),
    /// Bytes came that are no whole frame yet.
    Received,
    /// The socket took some more of what had to wait.
    Taken,
    /// Everything that was sent is written.
    Written,
}

/// The connection, or the lack of one.
pub struct Link<R: Runtime> {
    runtime: R,
    target: Arc<Target>,
    state: State<R>,
}

enum State<R: Runtime> {
    Down,
    Dialing(Dialing<R>),
    Up(Box<Up<R>>),
}

struct Up<R: Runtime> {
    socket: Socket<R>,
    /// What the socket did not take yet.
    waiting: VecDeque<Message>,
    /// The bytes of those.
    backlog: usize,
    /// Whether something was handed to the socket since it was last flushed.
    unflushed: bool,
    /// Whether something was handed to the socket since [`LinkEvent::Written`] was last given.
    owes_written: bool,
    read_since_flush: u32,
    /// How many bytes had moved when that was last told.
    told: Moved,
}

impl<R: Runtime> Link<R> {
    /// A link to `target`, not connected.
    pub fn new(runtime: R, target: Target) -> Self {
        Self { runtime, target: Arc::new(target), state: State::Down }
    }

    pub fn dial(&mut self) {
        self.state = State::Dialing(Box::pin(dial::dial(self.runtime.clone(), Arc::clone(&self.target))));
    }

    /// Gives up the connection or the dial.
    pub fn drop_connection(&mut self) {
        self.state = State::Down;
    }

    /// Sends a frame behind those before it; without a connection it is lost.
    pub fn send(&mut self, frame: Frame) {
        if let State::Up(up) = &mut self.state {
            up.push(match frame {
                Frame::Text(text) => Message::text(text),
                Frame::Ping(payload) => Message::Ping(Bytes::copy_from_slice(&payload)),
            });
        }
    }

    /// Sends a Close with code 1000 behind everything else.
    pub fn close(&mut self) {
        if let State::Up(up) = &mut self.state {
            up.push(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })));
        }
    }

    /// Writes what can be written at once, without waiting.
    pub fn write_now(&mut self) {
        if let State::Up(up) = &mut self.state {
            // Whether it worked is seen by the next poll, which wakes the right task.
            let cx = &mut Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(())) = up.poll_write(cx) {
                let _ = up.poll_flush(cx);
            }
        }
    }

    /// What happens next on the connection; never ready while there is neither a connection nor a dial.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        match &mut self.state {
            State::Down => Poll::Pending,
            State::Dialing(dialing) => {
                let Poll::Ready(result) = dialing.as_mut().poll(cx) else { return Poll::Pending };
                Poll::Ready(match result {
                    Ok(socket) => {
                        self.state = State::Up(Box::new(Up::new(socket)));
                        LinkEvent::Connected
                    }
                    Err(error) => {
                        self.state = State::Down;
                        LinkEvent::DialFailed(error)
                    }
                })
            }
            State::Up(up) => {
                let Poll::Ready(result) = up.poll(cx) else { return Poll::Pending };
                Poll::Ready(result.unwrap_or_else(|error| self.end(error)))
            }
        }
    }

    /// The connection is over. One that broke the rules hears of it first.
    fn end(&mut self, end: LinkEnd) -> LinkEvent {
        let State::Up(up) = std::mem::replace(&mut self.state, State::Down) else { return LinkEvent::Written };
        if let Some(code) = end.answer() {
            let runtime = self.runtime.clone();
            let limit = runtime.sleep_until(runtime.now().plus(LINGER));
            self.runtime.spawn(async move { say_close(up.socket, code).or(limit).await });
        }
        LinkEvent::Disconnected(end)
    }
}

/// Sends a Close and then reads until the server hangs up: closing a socket with unread bytes would reset the connection,
/// and the Close could be lost with it.
async fn say_close<S: Duplex>(mut socket: WebSocketStream<S>, code: CloseCode) {
    let reason = "".into();
    if socket.close(Some(CloseFrame { code, reason })).await.is_err() {
        return;
    }
    let mut stream = socket.into_inner();
    let _ = stream.close().await;
    let mut scratch = vec![0; 16 << 10];
    while stream.read(&mut scratch).await.is_ok_and(|length| length > 0) {}
}

impl<R: Runtime> Up<R> {
    fn new(socket: Socket<R>) -> Self {
        let (waiting, told) = (VecDeque::new(), socket.get_ref().moved());
        Self { socket, waiting, backlog: 0, unflushed: false, owes_written: false, read_since_flush: 0, told }
    }

    fn push(&mut self, message: Message) {
        self.backlog += message.len();
        self.waiting.push_back(message);
    }

    /// What happens next. Bytes that move prove life, also while no frame is whole: then they are an event of their own.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<LinkEvent, LinkEnd>> {
        let polled = self.poll_frames(cx);
        let moved = self.socket.get_ref().moved();
        match &polled {
            Poll::Ready(Ok(LinkEvent::Written)) => self.told.sent = moved.sent,
            Poll::Ready(_) => self.told.received = moved.received,
            Poll::Pending if moved.received > self.told.received => {
                self.told.received = moved.received;
                return Poll::Ready(Ok(LinkEvent::Received));
            }
            Poll::Pending if moved.sent > self.told.sent => {
                self.told.sent = moved.sent;
                return Poll::Ready(Ok(LinkEvent::Taken));
            }
            Poll::Pending => {}
        }
        polled
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Result<LinkEvent, LinkEnd>> {
        let blocked = self.poll_write(cx)?.is_pending();
        if blocked && self.backlog > LARGEST_BACKLOG {
            return Poll::Pending;
        }
        if !blocked && self.unflushed && self.read_since_flush >= FRAMES_PER_FLUSH {
            self.read_since_flush = 0;
            let _ = self.poll_flush(cx)?;
        }
        if !blocked && self.owes_written && !self.unflushed {
            self.owes_written = false;
            return Poll::Ready(Ok(LinkEvent::Written));
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => {
                self.read_since_flush += 1;
                Poll::Ready(self.received(message, cx))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error.into())),
            Poll::Ready(None) => Poll::Ready(Err(LinkEnd::HungUp)),
            Poll::Pending if !blocked && self.unflushed && self.poll_flush(cx)?.is_ready() => {
                self.read_since_flush = 0;
                self.owes_written = false;
                Poll::Ready(Ok(LinkEvent::Written))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Hands everything that waits to the socket; pending while it takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.waiting.is_empty() {
            if Pin::new(&mut self.socket).poll_ready(cx)?.is_pending() {
                return Poll::Pending;
            }
            if let Some(message) = self.waiting.pop_front() {
                self.backlog -= message.len();
                self.unflushed = true;
                self.owes_written = true;
                Pin::new(&mut self.socket).start_send(message)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx)?;
        self.unflushed = flushed.is_pending();
        flushed.map(Ok)
    }

    fn received(&mut self, message: Message, cx: &mut Context<'_>) -> Result<LinkEvent, LinkEnd> {
        Ok(match message {
            Message::Text(text) => LinkEvent::Text(text),
            Message::Binary(bytes) => LinkEvent::Binary(bytes.len()),
            // A raw frame is never read, only written.
            Message::Ping(_) | Message::Frame(_) => LinkEvent::Ping,
            Message::Pong(payload) => LinkEvent::Pong(payload),
            Message::Close(frame) => {
                // The answer is queued already. A server that never hangs up is not waited for.
                let _ = self.poll_flush(cx);
                return Err(LinkEnd::Closed(frame));
            }
        })
    }
}
