//! What stands between a worker and an engine: it counts the calls, and may cut what says nothing for too long.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// A socket that leads to an engine's. It lives as long as the test process.
pub struct Between {
    dir: TempDir,
    calls: Arc<AtomicUsize>,
}

impl Between {
    /// One that leads to this value of `DOCKER_HOST`, and cuts a connection on which the engine says nothing for so long.
    pub fn to(host: &str, patience: Option<Duration>) -> Self {
        let engine = PathBuf::from(host.trim_start_matches("unix://"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("one's own directory");
        let calls: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&calls);
        thread::spawn(move || {
            for worker in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::Relaxed);
                let engine = engine.clone();
                // One of the two that hangs up ends its own connection only.
                thread::spawn(move || lead(worker, &engine, patience));
            }
        });
        Self { dir, calls }
    }

    /// The value of `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("socket").display())
    }

    /// How many connections there were. A worker makes one for each call.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

fn lead(worker: UnixStream, engine: &Path, patience: Option<Duration>) -> io::Result<()> {
    let engine = UnixStream::connect(engine)?;
    let (mut asks, mut asked) = (worker.try_clone()?, engine.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asks, &mut asked);
        let _ = asked.shutdown(Shutdown::Write);
    });
    engine.set_read_timeout(patience)?;
    let (mut from, mut to) = (engine, worker);
    let mut buffer = vec![0; 64 << 10];
    let told = loop {
        match from.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(length) => to.write_all(buffer.get(..length).unwrap_or_default())?,
            Err(error) => break Err(error),
        }
    };
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
    told
}
