//! [`Tasks`] on smol: the default build of the worker.
//!
//! The run loop has the calling thread for itself and waits for its connection there ([`Smol::drive`]), so that a frame
//! from the server reaches it without a change of threads. Tasks run on one thread, whatever their number: nothing that
//! blocks runs there, and a second one would be woken at every step of every task, in case there is more to do. Some steps are
//! taken elsewhere, because a thread that is awake is nearer than this one: a task's first by the run loop, and that after work
//! of a lane on the lane ([`here`]).
//!
//! The reactor has a thread to itself, async-io's own, which does nothing but wake. So timers and signals are heard whatever a
//! task does, and no two threads take turns there.

#![forbid(unsafe_code)]

mod run_loop;

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use async_task::Runnable;
use oz_worker_reactor::{Stream, Tasks, here, set_up};
use oz_worker_runtime::Address;
pub use run_loop::LoopSocket;
use run_loop::LoopThread;
use smol::Async;
use smol::channel::{Receiver, Sender, unbounded};
use smol::future::block_on;

/// Enough for the deepest future of the worker many times over.
const STACK: usize = 512 << 10;

/// Tasks on smol. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Smol {
    /// The tasks that can take a step. Not smol's executor, which alone knows where a task that was woken goes on.
    ready: Sender<Runnable>,
    run_loop: Arc<LoopThread>,
}

impl Smol {
    /// Starts the thread that runs tasks.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new() -> io::Result<Self> {
        let (ready, to_run) = unbounded();
        // Not smol's way, which waits on the reactor too: two threads that take turns there wake each other for nothing.
        let run = move || block_on(take_steps(&to_run));
        thread::Builder::new().name("oz-tasks".to_owned()).stack_size(STACK).spawn(run)?;
        Ok(Self { ready, run_loop: Arc::new(LoopThread::new()?) })
    }

    /// Makes a task of `future`. It is the caller's to take its first step.
    fn task(&self, future: impl Future<Output = ()> + Send + 'static) -> Runnable {
        let ready = self.ready.clone();
        let schedule = move |task: Runnable| {
            if let Some(task) = here::woken(task) {
                push(&ready, task);
            }
        };
        let (runnable, task) = async_task::spawn(future, schedule);
        task.detach();
        runnable
    }
}

/// Takes the steps of all tasks for as long as there can be any.
async fn take_steps(to_run: &Receiver<Runnable>) {
    while let Ok(task) = to_run.recv().await {
        step(task);
    }
}

/// A task that panics takes no other with it.
fn step(task: Runnable) {
    let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
}

fn push(ready: &Sender<Runnable>, task: Runnable) {
    // There is room without end, and who takes them lives as long as who could push.
    let _ = ready.try_send(task);
}

impl Tasks for Smol {
    type Stream = Stream<LoopSocket, Async<UnixStream>>;

    fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        self.run_loop.block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(task) = here::spawned(self.task(task)) {
            push(&self.ready, task);
        }
    }

    fn spawn_here(&self, task: impl Future<Output = ()> + Send + 'static) {
        run_loop::aside(|| step(self.task(task)));
    }

    async fn connect(&self, address: &Address) -> io::Result<Self::Stream> {
        Ok(match address {
            Address::Tcp(address) => {
                let socket = LoopSocket::connect(*address).await?;
                set_up(socket.get_ref())?;
                Stream::Tcp(socket)
            }
            Address::Unix(path) => Stream::Unix(Async::<UnixStream>::connect(path).await?),
        })
    }
}
