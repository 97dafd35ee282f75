//! The Helm chart, its alerts and its dashboard, each held against the real tool. Of no runtime, so that they run once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod alerts;
mod dashboard;
mod packaging;
mod rendering;
mod values;
