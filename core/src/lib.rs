//! x
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod agent;
pub mod assignment;
mod backoff;
pub mod message;
pub mod metrics;
mod notice;
mod outbox;
pub mod time;
mod worker;

pub use notice::{BadFrame, Notice};
pub use worker::{Config, Failure, Frame, Input, Outcome, Output, RunId, TaskEnd, Worker};
