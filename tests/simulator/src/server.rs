//! The server: takes dials, well or badly, and speaks the real bytes of HTTP and WebSocket.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_tungstenite::WebSocketStream;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::engine::{MISSING, SIDECARS, TASK_IMAGES};
use crate::executor::{Executor, OUTSIDE};
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::network::{Cut, Cutter, Stream};
use crate::watch::Watch;

/// After how much silence the server gives a connection up.
const PATIENCE: Duration = Duration::from_secs(90);
/// Asks whether everything that the worker sent again has arrived.
const SETTLED: &[u8] = b"settled";

/// The server. A clone is another handle to the same.
#[derive(Clone)]
pub struct Server {
    executor: Executor,
    journal: Journal,
    watch: Watch,
    state: Arc<Mutex<State>>,
}

struct State {
    ledger: Ledger,
    /// Whether a proxy stands before it.
    proxy: bool,
    faulty: bool,
    closing: bool,
    /// Closed when the faults are over.
    healed: (Sender<()>, Receiver<()>),
    session: Option<Session>,
    sessions: u64,
    /// The tasks that were assigned a second time on this connection.
    repeated: BTreeSet<String>,
    /// The tasks that were assigned at all on this connection, and the messages that came on it.
    assigned: BTreeSet<String>,
    heard: BTreeSet<String>,
    /// The code that the worker closed with, if it did.
    close_code: Option<u16>,
    answered: Answered,
}

/// What is waited for.
type Answered = Vec<(String, String, Sender<()>)>;

#[derive(Clone)]
struct Session {
    number: u64,
    orders: Sender<Message>,
    cutter: Cutter,
    /// Until when nothing is read.
    deaf_until: Arc<Mutex<Duration>>,
}

impl Server {
    /// A server that takes what comes through `accepted`, with or without a proxy before it.
    pub fn start(
        executor: &Executor,
        journal: &Journal,
        watch: &Watch,
        ledger: Ledger,
        proxy: bool,
        accepted: Receiver<Stream>,
    ) -> Self {
        let state = State {
            ledger,
            proxy,
            faulty: false,
            closing: false,
            healed: async_channel::bounded(1),
            session: None,
            sessions: 0,
            repeated: BTreeSet::new(),
            assigned: BTreeSet::new(),
            heard: BTreeSet::new(),
            close_code: None,
            answered: Vec::new(),
        };
        let server = Self {
            executor: executor.clone(),
            journal: journal.clone(),
            watch: watch.clone(),
            state: Arc::new(Mutex::new(state)),
        };
        let own = server.clone();
        executor.spawn(OUTSIDE, async move {
            while let Ok(stream) = accepted.recv().await {
                let server = own.clone();
                own.executor.spawn(OUTSIDE, async move { server.serve(stream).await });
            }
        });
        server
    }

    /// Whether it closes every connection from now on as soon as that is established.
    pub fn set_closing(&self, closing: bool) {
        self.state().closing = closing;
    }

    /// Whether it answers dials badly from now on, by chance.
    pub fn set_faulty(&self, faulty: bool) {
        self.state().faulty = faulty;
    }

    /// The faults are over: what hangs is answered or closed.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faulty = false;
        state.healed.0.close();
        state.healed = async_channel::bounded(1);
        if let Some(session) = &state.session {
            *session.deaf_until.lock().unwrap() = Duration::ZERO;
        }
    }

    pub fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.state().ledger)
    }

    /// The code of the worker's last Close.
    pub fn close_code(&self) -> Option<u16> {
        self.state().close_code
    }

    /// Whether there is a connection, and the worker has answered on it.
    pub fn is_settled(&self) -> bool {
        let state = self.state();
        state.session.is_some() && state.ledger.is_settled()
    }

    /// Assigns an execution of a task, now or as soon as there is a connection.
    pub fn assign(&self, task: &str, execution: &str, sound: bool) {
        let mut state = self.state();
        state.ledger.assigned(task, execution, sound);
        self.journal.note(|| format!("server: assigns {execution} of {task}"));
        state.send_assignment(task, execution);
    }

    /// Assigns a new execution with a variable of so many bytes.
    pub fn assign_large(&self, task: &str, size: usize) {
        let mut state = self.state();
        state.ledger.assigned(task, task, true);
        state.assigned.insert(task.to_owned());
        let text = assignment(task, task, true).to_string();
        state.send(Message::text(
            text.replace("\"EXECUTION\"", &format!("\"LARGE\":\"{}\",\"EXECUTION\"", "x".repeat(size))),
        ));
    }

    /// Assigns an active execution once more, perhaps so that it cannot be understood.
    pub fn assign_again(&self, task: &str, execution: &str, sound: bool) {
        self.journal.note(|| format!("server: assigns {execution} of {task} again, sound: {sound}"));
        let mut state = self.state();
        state.repeated.insert(task.to_owned());
        state.assigned.insert(task.to_owned());
        state.ledger.assigned(task, execution, true);
        state.send(assignment(task, execution, sound));
    }

    /// Whether a message about this task may still be the answer to an assignment that was repeated.
    pub fn was_repeated(&self, task: &str) -> bool {
        self.state().repeated.contains(task)
    }

    pub fn cancel(&self, task: &str) {
        let mut state = self.state();
        if state.session.is_some() {
            state.ledger.cancelled(task);
            self.journal.note(|| format!("server: cancels {task}"));
            state.send(Message::text(json!({"type": "task_cancellation", "data": {"task_id": task}}).to_string()));
        }
    }

    pub fn send(&self, message: Message) {
        self.journal.note(|| format!("server: sends {} bytes of something else", message.len()));
        self.state().send(message);
    }

    /// Closes the connection as WebSocket has it.
    pub fn close(&self) {
        self.journal.note(|| "server: closes".to_owned());
        let reason = "maintenance".into();
        self.state().send(Message::Close(Some(CloseFrame { code: CloseCode::Restart, reason })));
    }

    pub fn cut(&self, cut: Cut) {
        let session = self.state().session.clone();
        if let Some(session) = session {
            session.cutter.cut(cut);
        }
    }

    /// The worker at the other end was killed. What of it is still under way counts as lost.
    pub fn lost(&self) {
        self.state().session = None;
    }

    /// Reads nothing for a while.
    pub fn turn_deaf(&self, length: Duration) {
        let state = self.state();
        if let Some(session) = &state.session {
            self.journal.note(|| format!("server: reads nothing for {length:?}"));
            *session.deaf_until.lock().unwrap() = self.executor.now() + length;
        }
    }

    /// Ends when this execution was claimed or rejected.
    pub fn answered(&self, task: &str, execution: &str) -> impl Future<Output = ()> + Send + 'static {
        let mut state = self.state();
        let (sender, receiver) = async_channel::bounded(1);
        if state.ledger.is_answered(task, execution) {
            sender.close();
        }
        state.answered.push((task.to_owned(), execution.to_owned(), sender));
        async move {
            let _ = receiver.recv().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn serve(&self, stream: Stream) {
        let proxy = self.state().proxy;
        let tunnel = if proxy { self.open_tunnel(stream).await } else { Some(stream) };
        let Some(mut stream) = tunnel else { return };
        let cutter = stream.cutter();
        let Some((request, rest)) = read_head(&mut stream).await else { return };
        if !request.contains("worker_id=w1") || header(&request, "authorization") != Some("Bearer key") {
            self.watch.violate(format!("not a worker's dial: {request}"));
        }
        let (upgrade, accept) = upgrade(&request);
        let bad = match self.draw() {
            0..4 => refusal("401 Unauthorized"),
            4..8 => refusal("503 Service Unavailable"),
            8..11 => refusal("302 Found\r\nLocation: https://elsewhere"),
            11..14 => "SSH-2.0-OpenSSH_9\r\n".to_owned(),
            14..17 => upgrade.replace(&accept, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            17..20 => format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(20_000)),
            20..24 => String::new(),
            24..28 => return self.hang().await,
            _ => {
                if stream.write_all(upgrade.as_bytes()).await.is_ok() && !self.state().closing {
                    let socket = WebSocketStream::from_partially_read(stream, rest, Role::Server, None).await;
                    self.talk(socket, cutter).await;
                }
                return;
            }
        };
        self.answer_badly(stream, &bad).await;
    }

    /// What a proxy does before, well or badly.
    async fn open_tunnel(&self, mut stream: Stream) -> Option<Stream> {
        let (request, rest) = read_head(&mut stream).await?;
        let is_asked = request.starts_with("CONNECT oz.example:80 HTTP/1.1\r\n");
        if !is_asked || header(&request, "proxy-authorization") != Some("Basic dTpw") || !rest.is_empty() {
            self.watch.violate(format!("not what a proxy is asked: {request}"));
        }
        let bad = match self.draw() {
            0..3 => refusal("407 Proxy Authentication Required"),
            3..6 => refusal("502 Bad Gateway"),
            6..8 => "SSH-2.0-OpenSSH_9\r\n".to_owned(),
            8..10 => String::new(),
            10..12 => {
                self.hang().await;
                return None;
            }
            _ => {
                let opened = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
                return opened.is_ok().then_some(stream);
            }
        };
        self.answer_badly(stream, &bad).await;
        None
    }

    /// How a dial goes: below 100, and ever lower the worse, only while there are faults.
    fn draw(&self) -> u32 {
        let faulty = self.state().faulty;
        if faulty { self.executor.random(|random| random.u32(..100)) } else { 100 }
    }

    /// Leaves a dial unanswered until the faults are over.
    async fn hang(&self) {
        let healed = self.state().healed.1.clone();
        self.journal.note(|| "server: leaves a dial hanging".to_owned());
        let _ = healed.recv().await;
    }

    /// Answers a dial with what is no upgrade, and closes.
    async fn answer_badly(&self, mut stream: Stream, answer: &str) {
        self.journal.note(|| format!("server: answers a dial badly: {:.40}", answer.escape_debug()));
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.close().await;
        // Reads on for a moment: closing with unread bytes would reset the connection.
        let mut scratch = [0; 512];
        let reading = async { while stream.read(&mut scratch).await.is_ok_and(|length| length > 0) {} };
        reading.or(self.executor.sleep(Duration::from_secs(5))).await;
    }

    /// One session, from the upgrade to its end.
    async fn talk(&self, socket: WebSocketStream<Stream>, cutter: Cutter) {
        let (orders, ordered) = async_channel::unbounded();
        let deaf_until = Arc::new(Mutex::new(Duration::ZERO));
        let session = Session { number: 0, orders, cutter, deaf_until: Arc::clone(&deaf_until) };
        let number = self.state().establish(session);
        self.journal.note(|| format!("server: session {number}"));
        let (mut sender, mut receiver) = socket.split();
        let writing = async move {
            while let Ok(message) = ordered.recv().await {
                if sender.send(message).await.is_err() {
                    break;
                }
            }
        };
        let own = self.clone();
        let reading = async move {
            loop {
                let (deaf, healed) = (*deaf_until.lock().unwrap(), own.state().healed.1.clone());
                own.executor.sleep_until(deaf).or(async { healed.recv().await.unwrap_or_default() }).await;
                let silence = async {
                    own.executor.sleep(PATIENCE).await;
                    None
                };
                match receiver.next().or(silence).await {
                    Some(Ok(message)) => own.hear(number, message),
                    Some(Err(error)) => break own.journal.note(|| format!("server: session {number}: {error}")),
                    None => break own.journal.note(|| format!("server: session {number} is over")),
                }
            }
        };
        // Who cannot write any more still reads; who cannot read any more is done.
        let writing = async {
            writing.await;
            self.executor.sleep(PATIENCE).await;
        };
        reading.or(writing).await;
        let mut state = self.state();
        state.session.take_if(|session| session.number == number);
    }

    fn hear(&self, number: u64, message: Message) {
        let mut state = self.state();
        if state.session.as_ref().is_none_or(|session| session.number != number) {
            // The worker has another connection by now: this one was given up.
            return;
        }
        match message {
            Message::Text(text) => {
                self.journal.note(|| format!("server: hears {text}"));
                let heard = state.ledger.heard(&text, |task| self.watch.claimed(task));
                // Only what was assigned on this connection can be answered on it more than once, or has two executions.
                let is_of = |task: &str| text.contains(&format!("\"{task}\""));
                let is_new = state.heard.insert(text.to_string());
                let is_asked = || state.assigned.iter().any(|task| is_of(task)) || state.ledger.several().any(is_of);
                if !is_new && !is_asked() {
                    self.watch.violate(format!("sent twice on one connection: {text}"));
                }
                let State { answered, ledger, .. } = &mut *state;
                answered.retain(|(task, execution, done)| !ledger.is_answered(task, execution) || !done.close());
                drop(state);
                heard.unwrap_or_else(|wrong| self.watch.violate(wrong));
            }
            Message::Pong(payload) if payload == SETTLED => {
                state.ledger.settle();
                state.assign_unanswered(true);
            }
            Message::Close(frame) => state.close_code = frame.map(|frame| frame.code.into()),
            _ => {}
        }
    }
}

impl State {
    fn establish(&mut self, session: Session) -> u64 {
        self.sessions += 1;
        self.close_code = None;
        self.repeated.clear();
        self.assigned.clear();
        self.heard.clear();
        self.ledger.connected();
        self.session = Some(Session { number: self.sessions, ..session });
        self.send(Message::Ping(SETTLED.into()));
        self.assign_unanswered(false);
        self.sessions
    }

    /// Assigns once more what was not answered on the connection before. A task that has an older execution waits until
    /// what is sent again of that has arrived: the worker lets it go when it takes the new one.
    fn assign_unanswered(&mut self, has_older: bool) {
        let unanswered = self.ledger.unanswered();
        let again = unanswered.filter(|(task, _)| self.ledger.several().any(|several| several == *task) == has_older);
        let again: Vec<_> = again.map(|(task, execution)| (task.to_owned(), execution.to_owned())).collect();
        for (task, execution) in again {
            self.send_assignment(&task, &execution);
            self.repeated.insert(task);
        }
    }

    fn send_assignment(&mut self, task: &str, execution: &str) {
        self.assigned.insert(task.to_owned());
        self.send(assignment(task, execution, !task.starts_with('M')));
    }

    fn send(&mut self, message: Message) {
        if let Some(session) = &self.session {
            let _ = session.orders.try_send(message);
        }
    }
}

fn assignment(task: &str, execution: &str, sound: bool) -> Message {
    let definition: Value = if sound { json!({"id": task, "title": "a task"}) } else { json!("not an object") };
    // The same each time that it is assigned.
    let number: usize = execution.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_default();
    let image = if number % 23 == 7 { MISSING } else { TASK_IMAGES[number % 2] };
    let additional =
        json!({"image": SIDECARS[1 + number / 2 % 2], "mount_path": "/mnt/x", "read_write": number.is_multiple_of(5)});
    let data = json!({
        "task_id": task,
        "execution_id": execution,
        "task": definition,
        "env_vars": {"EXECUTION": execution},
        "docker_image": image,
        "sidecar_image": (!number.is_multiple_of(4)).then_some(SIDECARS[0]),
        "additional_sidecars": if number.is_multiple_of(2) { vec![additional] } else { vec![] },
    });
    Message::text(json!({"type": "task_assignment", "data": data}).to_string())
}

/// An answer of this status line.
fn refusal(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nno...")
}

/// The answer that completes the handshake of `request`, and the value in it that proves that it was read.
pub(crate) fn upgrade(request: &str) -> (String, String) {
    let key = header(request, "sec-websocket-key").unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    (upgrade, accept)
}

/// The value of a header; its name is written anyhow.
fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = request.lines().filter_map(|line| line.split_once(": "));
    headers.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
}

/// The head of the worker's request, and what came behind it.
pub(crate) async fn read_head(stream: &mut Stream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let length = stream.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&chunk[..length]);
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Some((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
    }
}
