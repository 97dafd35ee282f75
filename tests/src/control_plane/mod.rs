//! A control plane for one machine: enough of a server to try a worker's configuration against, without an account.
//!
//! Workers dial it over WebSocket and may bring any API key; a person assigns and cancels tasks over HTTP ([`http`]), or a
//! program does through [`ControlPlane`]. Everything that happens is an [`Event`]; [`mod@print`] makes a line of each.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    connection::{Connection, Received, Sender},
    server::{Request, Server},
};

pub mod attempt;
pub mod http;
pub mod print;

/// How long one wait for a dial or a frame lasts before it is begun again.
const WAIT: Duration = Duration::from_secs(3600);

/// Something that happened between the control plane and its workers.
#[derive(Debug, Clone)]
pub enum Event {
    Connected {
        /// The worker's id, percent-encoded as it came.
        worker: String,
        peer: String,
    },
    /// A dial that was no worker's.
    Refused {
        problem: String,
    },
    /// A message went to the worker.
    Sent {
        /// The whole envelope.
        message: Value,
    },
    Came {
        frame: Received,
    },
    /// A session is over.
    Disconnected {
        /// The worker's id.
        worker: String,
    },
}

/// Why an assignment or a cancellation did not go out.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nobody to send it to.
    #[error("no worker is connected: start one with --web-socket-url {url} and try again")]
    NoWorker {
        /// Where workers connect.
        url: String,
    },
    /// The assignment names no task.
    #[error("the assignment has no task_id (a string): {{\"task_id\": \"T1\", \"task\": {{…}}}}")]
    NoTaskId,
    /// The connection broke just now.
    #[error("the worker's connection just broke ({0}): it will be back, try again")]
    Broken(#[from] io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub task_id: String,
    /// `assigned`, `claimed`, `rejected`, `completed`, `cancelled` or `failed`.
    pub state: &'static str,
    /// The worker's words about it: a reason or a message.
    pub detail: String,
}

impl Task {
    /// As `GET /tasks` shows it.
    pub fn to_json(&self) -> Value {
        json!({"task_id": self.task_id, "state": self.state, "detail": self.detail})
    }
}

/// A running control plane. It listens until the process ends.
#[derive(Clone)]
pub struct ControlPlane {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    observe: Box<dyn Fn(&Event) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The session that was established last gets the next message.
    session: Option<Arc<Sender>>,
    /// In the order of their first assignment.
    tasks: Vec<Task>,
}

impl ControlPlane {
    /// Listens for workers on `address`. `observe` is called for everything that happens, from several threads.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start(address: &str, observe: impl Fn(&Event) + Send + Sync + 'static) -> io::Result<Self> {
        let server = Server::listen(address)?;
        let shared =
            Shared { address: server.address(), observe: Box::new(observe), state: Mutex::new(State::default()) };
        let plane = Self { shared: Arc::new(shared) };
        let accepting = plane.clone();
        thread::spawn(move || {
            loop {
                // Its timeouts and a peer that hangs up are nobody's news; what stays is somebody to listen to.
                match server.accept_tcp(WAIT) {
                    Ok(tcp) => {
                        let plane = accepting.clone();
                        thread::spawn(move || plane.welcome(Server::head(tcp)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                    Err(error) => {
                        (accepting.shared.observe)(&Event::Refused { problem: error.to_string() });
                    }
                }
            }
        });
        Ok(plane)
    }

    /// The value for a worker's `--web-socket-url`.
    pub fn url(&self) -> String {
        format!("ws://{}{}", self.shared.address, crate::server::PATH)
    }

    /// Assigns a task: `assignment` is the `data` of a `task_assignment`, or the whole message.
    ///
    /// # Errors
    /// When it names no task, or when no worker is there to take it.
    pub fn assign(&self, assignment: Value) -> Result<String, SendError> {
        let message = if assignment.get("type").is_some() && assignment.get("data").is_some() {
            assignment
        } else {
            json!({"type": "task_assignment", "data": assignment})
        };
        let task_id = text(&message, "/data/task_id").ok_or(SendError::NoTaskId)?;
        self.send(&message, |state| state.set(&task_id, "assigned", ""))?;
        Ok(task_id)
    }

    /// Cancels a task, known here or not.
    ///
    /// # Errors
    /// When no worker is there to be told.
    pub fn cancel(&self, task_id: &str) -> Result<(), SendError> {
        self.send(&json!({"type": "task_cancellation", "data": {"task_id": task_id}}), |_| {})
    }

    /// Drops the worker's connection the way a network does: without a word.
    ///
    /// # Errors
    /// When there is none.
    pub fn cut(&self) -> Result<(), SendError> {
        let session = self.state().session.take();
        Ok(session.ok_or_else(|| SendError::NoWorker { url: self.url() })?.cut()?)
    }

    /// Every task that was assigned here, in order.
    pub fn tasks(&self) -> Vec<Task> {
        self.state().tasks.clone()
    }

    fn send(&self, message: &Value, note: impl FnOnce(&mut State)) -> Result<(), SendError> {
        let session = {
            let mut state = self.state();
            let session = state.session.clone().ok_or_else(|| SendError::NoWorker { url: self.url() })?;
            // Before the frame goes out: the answer may be faster than this thread.
            note(&mut state);
            session
        };
        self.tell(&Event::Sent { message: message.clone() });
        Ok(session.text(&message.to_string())?)
    }

    fn welcome(&self, request: io::Result<Request>) {
        let request = match request {
            Ok(request) => request,
            Err(error) => return self.tell(&Event::Refused { problem: format!("no HTTP request came: {error}") }),
        };
        if let Some(problem) = request.problem() {
            request.refuse("400 Bad Request", &format!("This is for workers, and {problem}.\n"));
            return self.tell(&Event::Refused { problem });
        }
        let worker = request.query().iter().find(|(name, _)| *name == "worker_id").map(|(_, id)| (*id).to_owned());
        let worker = worker.unwrap_or_default();
        let peer = request.peer();
        let established = request.try_upgrade().and_then(|session| Ok((Arc::new(session.sender()?), session)));
        match established {
            Ok((sender, session)) => {
                // In this order: whoever hears of the session may use it.
                self.state().session = Some(Arc::clone(&sender));
                self.tell(&Event::Connected { worker: worker.clone(), peer });
                self.listen(session);
                let mut state = self.state();
                if state.session.as_ref().is_some_and(|current| Arc::ptr_eq(current, &sender)) {
                    state.session = None;
                }
                drop(state);
                self.tell(&Event::Disconnected { worker });
            }
            Err(error) => self.tell(&Event::Refused { problem: format!("it was gone before the answer: {error}") }),
        }
    }

    fn listen(&self, mut session: Connection) {
        loop {
            let Some(frame) = session.next_until(Instant::now() + WAIT) else { continue };
            if let Received::Text(text) = &frame {
                self.state().heard(text);
            }
            let is_last = matches!(frame, Received::Close(..) | Received::End | Received::Broken(_));
            self.tell(&Event::Came { frame });
            if is_last {
                return;
            }
        }
    }

    fn tell(&self, event: &Event) {
        (self.shared.observe)(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn heard(&mut self, message: &str) {
        let Ok(message) = serde_json::from_str::<Value>(message) else { return };
        let (Some(kind), Some(task_id)) = (text(&message, "/type"), text(&message, "/data/task_id")) else { return };
        let says = |field: &str| text(&message, field).unwrap_or_default();
        match kind.as_str() {
            "task_claimed" => self.set(&task_id, "claimed", ""),
            "task_rejected" => self.set(&task_id, "rejected", &says("/data/reason")),
            "task_failed" => self.set(&task_id, "failed", &says("/data/message")),
            "task_completed" if says("/data/task_state") == "CANCELLED" => {
                self.set(&task_id, "cancelled", &says("/data/message"));
            }
            "task_completed" => self.set(&task_id, "completed", &says("/data/message")),
            _ => {}
        }
    }

    fn set(&mut self, task_id: &str, state: &'static str, detail: &str) {
        let now = Task { task_id: task_id.to_owned(), state, detail: detail.to_owned() };
        match self.tasks.iter_mut().find(|task| task.task_id == task_id) {
            Some(task) => *task = now,
            None => self.tasks.push(now),
        }
    }
}

/// The string at a JSON pointer.
fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer)?.as_str().map(str::to_owned)
}
