//! Turns the worker's metric events into OpenTelemetry instruments and its tasks into spans, and serves or pushes them.
//!
//! Telemetry cannot hurt the worker. [`TelemetryBuilder::start`] never fails: whatever is wrong is a line in the log.
//! [`Recorder::record`] is a memory write into series that exist from the start (`docs/metrics.md`); exporting happens on
//! threads of this crate, at most one per exporter; [`Telemetry::shutdown`] returns in time whatever a collector does.
//!
//! ```no_run
//! use std::time::Duration;
//! use oz_worker_core::metrics::MetricEvent;
//! use oz_worker_telemetry::{Identity, Telemetry, TelemetrySettings};
//!
//! let identity = Identity {
//!     version: "1.0.0".to_owned(),
//!     worker_id: "w1".to_owned(),
//!     backend: "direct".to_owned(),
//!     max_concurrent_tasks: 4,
//!     host_name: "build-7".to_owned(),
//!     status_page: true,
//! };
//! let settings = TelemetrySettings::read(|name| std::env::var(name).ok());
//! let (recorder, telemetry) = Telemetry::builder(identity).settings(settings).health("localhost", 8080).start();
//! recorder.record(MetricEvent::Connected);
//! telemetry.shutdown(Duration::from_secs(5));
//! ```

#![forbid(unsafe_code)]

mod builder;
mod client;
mod console;
mod endpoint;
mod health;
mod http;
mod identity;
mod instruments;
mod last_export;
mod listen;
mod metric_export;
mod oldest;
mod otlp;
mod page;
mod problem;
mod pulse;
mod recorder;
mod resource;
mod scrape;
mod server;
mod settings;
mod signal;
mod span_export;
mod status;
mod step;
mod task_trace;
mod telemetry;
mod traces;

pub use crate::builder::TelemetryBuilder;
pub use crate::identity::Identity;
pub use crate::pulse::Heartbeat;
pub use crate::recorder::Recorder;
pub use crate::settings::TelemetrySettings;
pub use crate::step::TaskStep;
pub use crate::task_trace::TaskTrace;
pub use crate::telemetry::Telemetry;
