//! What a worker may be called.

/// Why a text cannot be the worker's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ids that begin with \"warp\" are reserved; choose another")]
pub struct ReservedWorkerId;

/// Checks a worker id that is not blank.
///
/// # Errors
/// When the server keeps such ids for itself.
pub fn check_worker_id(id: &str) -> Result<(), ReservedWorkerId> {
    if id.starts_with("warp") { Err(ReservedWorkerId) } else { Ok(()) }
}
