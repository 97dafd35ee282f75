//! Backend `kubernetes`: a Job per task. It can be configured; it cannot run yet.
//!
//! What can be decided without a cluster is a function over what was read: [`names`], [`template`], [`job`], [`preflight`],
//! [`scripts`].

pub mod job;
pub mod names;
pub mod preflight;
mod quantity;
pub mod scripts;
mod settings;
pub mod template;

pub use crate::untyped::Untyped;
pub use settings::{KubernetesSettings, PullPolicy, UnknownPullPolicy};
