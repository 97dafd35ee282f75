//! Tasks that go on where they were woken: on the thread of a lane whose work they waited for.
//!
//! To wake the thread that runs tasks takes longer than their next step. So a task goes on here, but only when the work that
//! it waited for is over, and for one step: whatever that wakes, the task itself included, goes on where all tasks run, and
//! the lane is not held up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use async_task::Runnable;

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here { takes: Takes::Nothing, next: VecDeque::new() }) };
}

struct Here {
    takes: Takes,
    /// What is to take a step on this thread.
    next: VecDeque<Runnable>,
}

/// What goes on on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// Tasks that are new. One that is woken may have been here already, and could stay for ever.
    New,
    /// Those that are woken too: a result is being told.
    Woken,
}

/// Keeps a task that was just woken for its next step on this thread, or gives it back: it is to go on elsewhere.
#[must_use]
pub fn woken(task: Runnable) -> Option<Runnable> {
    keep(task, |takes| takes == Takes::Woken)
}

/// Keeps a new task for its first step on this thread, or gives it back: it is to begin elsewhere.
#[must_use]
pub fn spawned(task: Runnable) -> Option<Runnable> {
    keep(task, |takes| takes != Takes::Nothing)
}

fn keep(task: Runnable, is_taken: impl Fn(Takes) -> bool) -> Option<Runnable> {
    HERE.with_borrow_mut(|here| {
        if !is_taken(here.takes) {
            return Some(task);
        }
        here.next.push_back(task);
        None
    })
}

/// Tells a result; who waited for it then goes on here. A task that panics takes nothing else with it.
pub(crate) fn tell(tell: impl FnOnce()) {
    let take = |takes| HERE.with_borrow_mut(|here| here.takes = takes);
    take(Takes::Woken);
    let _ = catch_unwind(AssertUnwindSafe(tell));
    take(Takes::New);
    while let Some(task) = HERE.with_borrow_mut(|here| here.next.pop_front()) {
        let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
    }
    take(Takes::Nothing);
}
