//! Backend `kubernetes`: a Job per task. It can be configured; it cannot run yet.

mod quantity;
mod settings;

pub use settings::{KubernetesSettings, PullPolicy, UnknownPullPolicy, Untyped};
