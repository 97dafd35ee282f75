//! The queries of the product's monitoring page, word for word.

/// Workers available.
pub const WORKERS_AVAILABLE: &str = "sum(oz_worker_connected)";
/// Workers that run at least one task.
pub const WORKERS_ACTIVE: &str = "count(oz_worker_tasks_active > 0)";
/// Fleet saturation.
pub const SATURATION: &str = "sum(oz_worker_tasks_active) / sum(oz_worker_tasks_max_concurrent > 0)";
/// Task success rate.
pub const SUCCESS_RATE: &str = r#"sum(rate(oz_worker_tasks_completed_total{result="succeeded"}[5m]))
/ sum(rate(oz_worker_tasks_completed_total[5m]))"#;
/// Task duration, 95th percentile.
pub const DURATION_P95: &str =
    "histogram_quantile(0.95, sum by (le) (rate(oz_worker_task_duration_seconds_bucket[5m])))";
/// Failure rate.
pub const FAILURE_RATE: &str = r#"sum(rate(oz_worker_tasks_completed_total{result="failed"}[5m]))"#;
/// Reconnect storms, with the threshold.
pub const RECONNECT_STORMS: &str = "sum(rate(oz_worker_websocket_reconnects_total[5m])) > 0.1";
