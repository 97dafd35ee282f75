//! The event of a Prometheus: a target of the test's own, which knows that it was scraped.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use tiny_http::{Response, Server};

/// A target that has nothing to show and counts its scrapes.
pub(super) struct Ticks {
    server: Arc<Server>,
    scrapes: Arc<Scrapes>,
}

#[derive(Default)]
struct Scrapes {
    count: Mutex<u64>,
    one_more: Condvar,
}

impl Scrapes {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticks {
    pub(super) fn start() -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("a free port on 127.0.0.1"));
        let ticks = Self { server, scrapes: Arc::default() };
        let (server, scrapes) = (Arc::clone(&ticks.server), Arc::clone(&ticks.scrapes));
        thread::spawn(move || {
            while let Ok(request) = server.recv() {
                // Whoever scrapes may have gone meanwhile.
                let _ = request.respond(Response::from_string(""));
                *scrapes.lock() += 1;
                scrapes.one_more.notify_all();
            }
        });
        ticks
    }

    pub(super) fn address(&self) -> String {
        self.server.server_addr().to_string()
    }

    /// How often it was scraped so far.
    pub(super) fn count(&self) -> u64 {
        *self.scrapes.lock()
    }

    /// Waits until it was scraped more often than this; false when it was not before `deadline`.
    pub(super) fn wait_beyond(&self, seen: u64, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.scrapes.one_more.wait_timeout_while(self.scrapes.lock(), left, |count| *count <= seen);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.server.unblock();
    }
}
