//! What a bug in a backend leaves of a task, on async-std.

#[path = "../../worker/backends/tests/panics/mod.rs"]
mod panics;

use oz_worker_reactor::OnReactor;
use oz_worker_runtime_async_std::AsyncStd;

fn runtime() -> OnReactor<AsyncStd> {
    OnReactor::new(AsyncStd::new())
}
