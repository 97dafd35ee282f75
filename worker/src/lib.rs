//! The program, written once for every runtime: it acts on what [`oz_worker_core`] decides.
//!
//! [`main`] is the whole of it over a [`Host`](oz_worker_runtime::Host); a binary is that plus a runtime. Inside,
//! [`settings`] says what the operator wants, [`run`] is the loop in which the core's inputs and outputs meet, [`link`] is
//! the connection, [`logs`] is what a person reads. What running a task means is in `oz_worker_backends`.

#![forbid(unsafe_code)]

pub mod link;
pub mod logs;
pub mod run;
pub mod settings;
mod start;

pub use start::main;
