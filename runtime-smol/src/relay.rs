//! Keeps the reactor with the thread of the run loop.
//!
//! `async_io::block_on` gives the reactor up to a thread of its own when an event was for somebody else and half a
//! millisecond has passed. After that a frame from the server reaches the run loop only through that thread, which costs
//! more than everything that the worker itself does between assignment and claim. So whatever wakes a task from the
//! reactor wakes the run loop too: it finds nothing to do, which costs a microsecond, and takes the reactor again.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use atomic_waker::AtomicWaker;

thread_local! {
    /// Whether this is the thread of the run loop.
    static IS_RUN_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// Runs `future` on this thread, which has the reactor from now on.
pub(crate) fn block_on<T>(run_loop: &AtomicWaker, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    IS_RUN_LOOP.set(true);
    smol::block_on(std::future::poll_fn(|cx| {
        run_loop.register(cx.waker());
        future.as_mut().poll(cx)
    }))
}

/// A task that wakes the run loop along with itself when it is woken on the run loop's thread.
pub(crate) struct Relayed<F> {
    task: F,
    run_loop: Arc<AtomicWaker>,
    /// The waker of the last poll, and what the task was given for it.
    wakers: Option<(Waker, Waker)>,
}

impl<F> Relayed<F> {
    pub(crate) const fn new(task: F, run_loop: Arc<AtomicWaker>) -> Self {
        Self { task, run_loop, wakers: None }
    }
}

impl<F: Future + Unpin> Future for Relayed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { task, run_loop, wakers } = &mut *self;
        let known = wakers.take().filter(|(given, _)| given.will_wake(cx.waker()));
        let (_, relay) = wakers.insert(known.unwrap_or_else(|| {
            let relay = Relay { task: cx.waker().clone(), run_loop: Arc::clone(run_loop) };
            (cx.waker().clone(), Arc::new(relay).into())
        }));
        Pin::new(task).poll(&mut Context::from_waker(relay))
    }
}

struct Relay {
    task: Waker,
    run_loop: Arc<AtomicWaker>,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if IS_RUN_LOOP.get() {
            self.run_loop.wake();
        }
        self.task.wake_by_ref();
    }
}
