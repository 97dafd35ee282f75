//! Who telemetry is about.

/// Who telemetry is about, and what of it may be seen.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The worker's version: label `version`, attribute `service.version`.
    pub version: String,
    /// The worker's id: label `worker_id`, attribute `worker.id`.
    pub worker_id: String,
    /// The backend's name: label `backend`, attribute `worker.backend`.
    pub backend: String,
    /// The value of `oz_worker_tasks_max_concurrent`; 0 means unlimited.
    pub max_concurrent_tasks: u32,
    /// Attribute `host.name`; left out when empty.
    pub host_name: String,
    /// Whether the `prometheus` exporter serves a page for people at `/`.
    pub status_page: bool,
}
