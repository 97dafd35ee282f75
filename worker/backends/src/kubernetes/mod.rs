//! Backend `kubernetes`: a Job per task. It can be configured; it cannot run yet.

mod quantity;
mod settings;

pub use crate::untyped::Untyped;
pub use settings::{KubernetesSettings, PullPolicy, UnknownPullPolicy};
