//! The worker's protocol as a pure state machine: no networking code, no clock, no threads, no environment, no `std`.
//!
//! [`Worker`] decides everything that the protocol asks of a worker (`docs/protocol.md`): when to dial, what to claim and
//! what to reject, which task to start and to stop, what the server must hear again after a lost connection, when to
//! leave. It never does any of it. Whoever drives it owns the socket, the processes and the time:
//!
//! 1. Drain [`Worker::poll_output`] and act on each [`Output`], in order, until it gives `None`.
//! 2. After an [`Output::Exit`], stop.
//! 3. Wait for whatever comes first: something happens on the connection, a task ends, a signal arrives, or the moment
//!    of [`Worker::poll_timeout`] is there.
//! 4. Hand it to [`Worker::handle`] with the present moment, and start again.
//!
//! **After every input, drain all outputs before the next one goes in.** The order of the outputs is the order on the wire
//! and of the log.
//!
//! A task has two ends. The agent's ([`Input::TaskFinished`]) decides the result, and nothing changes that afterwards; the
//! end of what follows it ([`Input::TaskEnded`]) frees the slot. What must survive a crash is given as
//! [`Output::Persist`], and what depends on a record waits for [`Input::Durable`]; [`Worker::restored`] goes on from the
//! records of a worker that was killed.
//!
//! ```
//! use core::time::Duration;
//! use oz_worker_core::agent::AgentSettings;
//! use oz_worker_core::time::Instant;
//! use oz_worker_core::{AfterKill, Config, Frame, Input, Outcome, Output, Worker};
//!
//! let config = Config {
//!     worker_id: "w1".into(),
//!     max_concurrent_tasks: 4,
//!     drain_timeout: Duration::ZERO,
//!     stop_timeout: Duration::from_secs(20),
//!     stops_tasks_on_shutdown: true,
//!     after_kill: AfterKill::Fails,
//!     journal: false,
//!     agent: AgentSettings::default(),
//! };
//! let mut worker = Worker::new(config, 42);
//! // The outside: what will happen, at which second. A real one would wait for it.
//! let assignment = r#"{"type":"task_assignment","data":{"task_id":"T1","task":{}}}"#;
//! let mut script = vec![(0, Input::Timeout), (1, Input::Connected), (2, Input::Text(assignment))].into_iter();
//! let mut sent = Vec::new();
//! let mut ended = None;
//! let mut second = 0;
//! loop {
//!     while let Some(output) = worker.poll_output() {
//!         match output {
//!             Output::Send(Frame::Text(message)) => sent.push(message),
//!             Output::StartTask { run, .. } => ended = Some(run), // ... and here it has run already.
//!             _ => {} // Dial, record a metric event, write to the log.
//!         }
//!     }
//!     if let Some(run) = ended.take() {
//!         let now = Instant::new(Duration::from_secs(second));
//!         worker.handle(now, Input::TaskFinished { task_id: "T1", run, outcome: Outcome::Completed });
//!         worker.handle(now, Input::TaskEnded { task_id: "T1", run, cleanup: vec![] });
//!         continue;
//!     }
//!     let Some((at, input)) = script.next() else { break };
//!     second = at;
//!     worker.handle(Instant::new(Duration::from_secs(second)), input);
//! }
//! assert_eq!(sent, [
//!     r#"{"type":"task_claimed","data":{"task_id":"T1","worker_id":"w1"}}"#,
//!     r#"{"type":"task_completed","data":{"task_id":"T1","message":"Task completed successfully"}}"#,
//! ]);
//! // The server has not proven yet that it knows: the end is kept, and sent again on the next connection.
//! assert_eq!(worker.unproven_ends(), 1);
//! ```
//!
//! The same inputs at the same moments give the same outputs: the one thing random, the jitter of the waits between
//! dials, is drawn from the seed that is passed in.

#![no_std]
#![forbid(unsafe_code)]
// Off where there is nothing to say that the name does not: of `task_id` or `execution_id`. What is not clear from its name is
// documented there too.
#![warn(missing_docs)]

extern crate alloc;

pub mod agent;
pub mod assignment;
mod backoff;
pub mod flaw;
pub mod message;
pub mod metrics;
mod notice;
mod outbox;
mod outcome;
mod past;
pub mod recent;
pub mod record;
pub mod secret;
pub mod time;
mod worker;

pub use notice::{BadFrame, Cause, Notice, Problem};
pub use outcome::{Failure, Outcome};
pub use worker::{AfterKill, Config, Frame, Input, Output, RunId, Worker};
