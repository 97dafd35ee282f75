//! The worker, written once for every runtime: it acts on what [`oz_worker_core`] decides.
//!
//! [`main`] is the whole program over a [`Runtime`]; a binary is that plus a runtime. Inside, [`settings`] says
//! what the operator wants, [`run`] is the loop in which the core's inputs and outputs meet, [`link`] is the connection,
//! [`backend`] runs tasks, [`host`] is what Linux has to offer for that, [`logs`] is what a person reads. [`reactor`] is
//! what the runtimes have in common.

pub mod backend;
pub mod host;
pub mod link;
pub mod logs;
pub mod reactor;
pub mod run;
pub mod runtime;
pub mod settings;
mod start;
mod text;

pub use runtime::Runtime;
pub use start::main;
