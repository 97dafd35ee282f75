//! The Helm chart, its alerts and its dashboard, each held against the real tool. Of no runtime, so that they run once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
// Metrics are floating-point numbers that count: they are compared as whole numbers are.
#![allow(clippy::float_cmp)]

mod alerts;
mod dashboard;
mod packaging;
mod rendering;
#[path = "../scene.rs"]
#[allow(dead_code, reason = "the suites of the worker use all of it")]
mod scene;
mod values;
