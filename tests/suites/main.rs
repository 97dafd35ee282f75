//! End-to-end suites: the real binary against a server that is scripted frame by frame. One module is one subject.
//!
//! `cargo test -p oz-worker-tests session::` runs one suite, against the build on smol here and the one on async-std in
//! `on_async_std.rs`. `OZ_WORKER_BIN` names another worker to run them against.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
// Metrics are floating-point numbers that count: they are compared as whole numbers are.
#![allow(clippy::float_cmp)]

mod cli;
mod collector;
mod command;
mod crash;
mod daemons;
mod dials;
mod direct;
mod frames;
mod harness;
mod health;
mod health_address;
mod metrics;
mod output;
mod patience;
mod programs;
mod prometheus;
mod promises;
pub(crate) mod scene;
mod secrets;
mod session;
mod shutdown;
mod signals;
mod status_page;
mod storm;
mod stuck;
mod tasks;
mod tls;
mod traces;
mod vectors;
