//! Everything that looks at `oz-agent-worker` from outside: the harness of the end-to-end suites, the local control
//! plane, and the playground.
//!
//! The harness plays the worker's surroundings and never links the worker: a [`server::Server`] that a test scripts
//! frame by frame, an [`agent::Agent`] that stands in for `oz`, and a [`worker::Launch`] that starts the real binary.
//! All of it is blocking, on plain threads: what a test reads top to bottom is what happens.
//!
//! ```no_run
//! use oz_worker_tests::{agent::Agent, message::Assignment, server::Server, worker::Launch};
//!
//! let server = Server::start();
//! let agent = Agent::new();
//! let worker = Launch::direct(&server, &agent).start();
//! let mut session = server.accept();
//! session.send(&Assignment::new("T1").run("exit 3"));
//! assert_eq!(session.recv()["type"], "task_claimed");
//! assert_eq!(session.recv()["data"]["exit_code"], 3);
//! drop(worker);
//! ```
//!
//! A harness method that cannot keep its promise panics with what it saw so far: a failing test should explain itself.
//! Nothing here sleeps to wait; every wait is for an event and has the generous bound [`BOUND`].

use std::time::Duration;

pub mod agent;
pub mod between;
pub mod binary;
pub mod chart;
pub mod connection;
pub mod control_plane;
mod log;
pub mod message;
pub mod metrics;
pub mod page;
pub mod peers;
pub mod playground;
pub mod process;
pub mod proxy;
pub mod server;
pub mod spans;
pub mod tls;
pub mod worker;

/// How long anything that should happen at once may take on a busy machine before it counts as not happening.
pub const BOUND: Duration = Duration::from_secs(20);
