//! x
#![no_std]
extern crate alloc;
pub mod metrics;
pub mod time;
