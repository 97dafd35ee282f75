//! Backend `docker`: a container per task. It can be configured; it cannot run yet.

mod settings;

pub use settings::{DockerSettings, VolumeError, check_volume};
