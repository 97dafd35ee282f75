//! Backend `docker`: a container per task. It can be configured; it cannot run yet.

pub mod container;
pub mod credentials;
pub mod endpoint;
pub mod labels;
pub mod pull;
pub mod redaction;
pub mod reference;
pub mod registry;
mod settings;
pub mod state;
pub mod tail;

pub use settings::{DockerSettings, VolumeError, check_volume};
