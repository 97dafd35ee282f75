//! The playground: a local control plane and a real worker tell their story in the terminal.
//!
//! Every step sends something and waits for what must follow; a step that does not go as told ends the story with one line.

use std::{
    str::FromStr,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Instant,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    BOUND,
    agent::Agent,
    binary::{BuildError, worker_binary},
    connection::Received,
    control_plane::{ControlPlane, Event, SendError, http},
    message::Assignment,
    worker::{Launch, Worker},
};

mod containers;
mod narrator;

pub use containers::EngineError;
use containers::Images;
pub use narrator::Narrator;

/// What the server calls the agent's sidecar. The worker has its own word for it.
const SIDECAR: &str = "the-agent";

/// Tasks at once: small enough that the story can run out of slots.
const SLOTS: &str = "2";

/// A task for the person at the terminal.
const SAMPLE: &str =
    r#"{"task_id": "mine", "task": {"id": "mine"}, "env_vars": {"SCRIPT": "echo hello; exit 7"}SIDECAR}"#;

/// What runs the tasks of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Processes of this machine.
    #[default]
    Direct,
    /// Containers, on the engine that the docker client reaches.
    Docker,
}

impl FromStr for Stage {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "direct" => Ok(Self::Direct),
            "docker" => Ok(Self::Docker),
            _ => Err("the playground has the backends direct and docker"),
        }
    }
}

/// What the story waits for.
#[derive(Debug)]
pub enum News {
    /// Something happened between control plane and worker.
    Event(Event),
    /// The person at the terminal has seen enough.
    Interrupted,
}

/// What ended the story before its end.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// There is no worker to play with.
    #[error("cannot build the worker: {0}")]
    Build(#[from] BuildError),
    /// The control plane found no port.
    #[error("cannot listen on 127.0.0.1: {0}")]
    Listen(#[from] std::io::Error),
    /// There are no containers to play with.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// A message could not be sent.
    #[error("{0}")]
    Send(#[from] SendError),
    /// The person at the terminal has seen enough.
    #[error("interrupted")]
    Interrupted,
    /// Something that had to happen did not.
    #[error("expected {expected}, but it did not happen within {} s{instead}", BOUND.as_secs())]
    Missing {
        expected: String,
        /// What came in its place, if that is known.
        instead: String,
    },
}

/// A story that was told to its end; the worker and the control plane still run. Dropping it ends and removes everything.
pub struct Playground {
    worker: Worker,
    // Holds the agent's program and pipes.
    _agent: Agent,
    _images: Option<Images>,
}

impl Playground {
    /// Tells the story on standard output. `news` and `events` are the two ends of one channel.
    ///
    /// # Errors
    /// At the first thing that does not go as it should.
    pub fn tell(stage: Stage, news: Sender<News>, events: Receiver<News>) -> Result<Self, StoryError> {
        let narrator = Narrator::on_stdout();
        let agent = Agent::new();
        let images = match stage {
            Stage::Direct => None,
            Stage::Docker => Some(Images::make(&agent)?),
        };
        narrator.say("Building the worker (the first time takes a minute or two) …");
        worker_binary()?;

        let plane = ControlPlane::start("127.0.0.1:0", move |event| {
            narrator.report(event);
            // The story may have been told already.
            let _ = news.send(News::Event(event.clone()));
        })?;
        let control = format!("http://{}", http::serve(plane.clone(), "127.0.0.1:0")?);
        narrator.say(&format!("A control plane listens on {}", plane.url()));

        let launch = match &images {
            None => Launch::direct_to(&plane.url(), &agent),
            Some(images) => images.launch(&plane.url(), &agent),
        };
        let worker = launch
            .worker_id("playground")
            .env("WARP_API_KEY", "any-key-will-do")
            .flags(["--max-concurrent-tasks", SLOTS])
            .with_metrics()
            .start();
        let (name, where_they_run) = match stage {
            Stage::Direct => ("direct", ""),
            Stage::Docker => ("docker", " in containers"),
        };
        narrator.say(&format!(
            "A worker starts: {name} backend, {SLOTS} tasks at once{where_they_run}, a shell script as its agent"
        ));
        worker.on_line(move |line| narrator.quote(line));

        let story = Story { narrator, plane, events, stage, agent: &agent };
        story.connected()?;
        story.success()?;
        story.failure()?;
        story.full_house()?;
        story.outage()?;
        narrator.chapter("All of it is in the metrics");
        narrator.metrics(&worker);
        narrator.chapter("Now you: assign a task, and watch it here");
        let sidecar = images.as_ref().map_or_else(String::new, |_| format!(r#", "sidecar_image": "{SIDECAR}""#));
        narrator.plain(&format!("curl -d '{}' {control}/assign", SAMPLE.replace("SIDECAR", &sidecar)));
        narrator.plain(&format!("curl {control}/tasks"));
        Ok(Self { worker, _agent: agent, _images: images })
    }

    /// Stops the worker the way an operator would, and waits for it.
    pub fn end(self) {
        self.worker.signal(Signal::TERM);
        // One that does not stop in time is killed by its drop, with all it started.
        self.worker.has_ended_within(BOUND);
    }
}

struct Story<'a> {
    narrator: Narrator,
    plane: ControlPlane,
    events: Receiver<News>,
    stage: Stage,
    agent: &'a Agent,
}

impl Story<'_> {
    fn connected(&self) -> Result<(), StoryError> {
        self.until("the worker to connect", |event| matches!(event, Event::Connected { .. }))
    }

    fn success(&self) -> Result<(), StoryError> {
        self.narrator.chapter("A task that succeeds");
        self.assign("greeting", "echo 'Hello from the agent.'; echo 'Nothing else to do.'")?;
        self.message("task_claimed", "greeting")?;
        self.message("task_completed", "greeting").map(drop)
    }

    fn failure(&self) -> Result<(), StoryError> {
        self.narrator.chapter("A task that fails: its exit code is reported");
        self.assign("broken-build", "echo 'error: this does not compile' >&2; exit 3")?;
        let end = self.message("task_failed", "broken-build")?;
        holds("exit code 3", &end, "/data/exit_code", &Value::from(3))
    }

    fn full_house(&self) -> Result<(), StoryError> {
        self.narrator.chapter(
            "Two tasks at once are all this worker takes: the third is rejected, so that another worker can have it",
        );
        for task in ["refactoring", "migration"] {
            self.assign(task, "say started; echo 'This takes a while …'; gate; echo 'Done at last.'")?;
            self.message("task_claimed", task)?;
            self.agent.wait_for(task, "started");
        }
        self.assign("one-too-many", "echo 'nobody will see this'")?;
        self.message("task_rejected", "one-too-many")?;

        self.narrator.chapter("The user cancels one of the two");
        self.plane.cancel("refactoring")?;
        let end = self.message("task_completed", "refactoring")?;
        holds("the state CANCELLED", &end, "/data/task_state", &"CANCELLED".into())
    }

    fn outage(&self) -> Result<(), StoryError> {
        self.narrator.chapter("The network fails, and the other task ends meanwhile: its result is not lost");
        self.plane.cut()?;
        self.agent.open_gate();
        self.until("the connection to be gone", |event| matches!(event, Event::Disconnected { .. }))?;
        self.connected()?;
        self.message("task_completed", "migration").map(drop)
    }

    fn assign(&self, task_id: &str, script: &str) -> Result<(), StoryError> {
        let mut assignment = Assignment::new(task_id).run(script);
        if self.stage == Stage::Docker {
            assignment = assignment.with("sidecar_image", SIDECAR.into());
        }
        self.plane.assign(assignment.into())?;
        Ok(())
    }

    /// Waits for a message of this type about this task.
    fn message(&self, kind: &str, task_id: &str) -> Result<Value, StoryError> {
        let mut found = Value::Null;
        self.until(&format!("{kind} for {task_id}"), |event| {
            let Event::Came { frame: Received::Text(text) } = event else { return false };
            let Ok(message) = serde_json::from_str::<Value>(text) else { return false };
            let says = |pointer: &str, what: &str| message.pointer(pointer).is_some_and(|value| value == what);
            let is_it = says("/type", kind) && says("/data/task_id", task_id);
            if is_it {
                found = message;
            }
            is_it
        })?;
        Ok(found)
    }

    fn until(&self, expected: &str, mut is_it: impl FnMut(&Event) -> bool) -> Result<(), StoryError> {
        let deadline = Instant::now() + BOUND;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Event(event)) if is_it(&event) => return Ok(()),
                Ok(News::Event(_)) => {}
                Ok(News::Interrupted) => return Err(StoryError::Interrupted),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let expected = expected.to_owned();
                    return Err(StoryError::Missing { expected, instead: String::new() });
                }
            }
        }
    }
}

fn holds(expected: &str, message: &Value, pointer: &str, value: &Value) -> Result<(), StoryError> {
    if message.pointer(pointer) == Some(value) {
        return Ok(());
    }
    Err(StoryError::Missing { expected: expected.to_owned(), instead: format!("; the worker sent {message}") })
}
