//! Processes and files of this Linux host: how tasks are started, found again and ended, whatever they did to hide.
//!
//! Nothing here is asynchronous. What may take long says so, and a runtime that can await the readability of a file
//! descriptor has all it needs: [`Child`] is one (see its documentation). Every `unsafe` line of the project is in this
//! crate.

mod cgroup;
mod code;
mod files;
mod heap;
mod hold;
mod keeper;
mod leftovers;
mod owner;
mod proc;
mod process;
mod removal;
mod shared;
mod signals;
mod spawn;
mod tag;
mod tree;

pub use code::give_back_code;
pub use files::HostFiles;
pub use heap::{give_back_heap, share_heap};
pub use keeper::start_keeper;
pub use owner::owner;
pub use proc::TOKEN_VARIABLE;
pub use process::{Child, Processes};
pub use shared::Options;
pub use signals::{ignores_hangup, set_signals};
pub use spawn::StartError;
pub use tree::Tree;
