//! Backend `kubernetes`: a Job per task. It can be configured; it cannot run yet.
//!
//! What can be decided without a cluster is a function over what was read: [`names`], [`template`], [`job`], [`preflight`],
//! [`scripts`], [`objects`], [`pulls`]; how a task ended and what a
//! watch means are state machines, [`verdict`] and [`watch`].

pub mod credentials;
pub mod job;
pub mod kubeconfig;
pub mod names;
pub mod objects;
pub mod preflight;
pub mod pulls;
mod quantity;
pub mod scripts;
mod settings;
pub mod template;
pub mod verdict;
pub mod watch;

pub use crate::untyped::Untyped;
pub use settings::{KubernetesSettings, PullPolicy, UnknownPullPolicy};
