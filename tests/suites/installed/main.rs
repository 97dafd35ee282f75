//! What operators install, on the real thing. It starts engines of containers and whole systems, which nobody
//! wants of `cargo test`, so it runs when it is asked for:
//! `cargo test -p oz-worker-tests --test installed -- --ignored --nocapture --test-threads=1`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
// Metrics are floating-point numbers that count: they are compared as whole numbers are.
#![allow(clippy::float_cmp)]

mod cluster;
mod image;
mod unit;
