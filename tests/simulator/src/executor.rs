//! One thread, virtual time, and the order of everything drawn from the seed.
//!
//! Whatever is ready may run next, and which of it does is drawn. Time stands still while anything is ready; then it jumps
//! to the next timer. A machine that is suspended runs nothing, while time goes on for everybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_task::{Runnable, Task};
use fastrand::Rng;

/// How often something may run before time must go on: more is a loop that waits for nothing.
const MOST_STEPS: u32 = 2_000_000;

/// The computer on which something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine(pub usize);

/// Where the server and whoever directs the run are: never suspended.
pub const OUTSIDE: Machine = Machine(0);

/// Why a run cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuck {
    /// Everything waits, and no timer is set.
    Deadlock,
    /// Something runs again and again without time going on.
    Livelock,
    /// The run went on for longer than it may.
    TooLong,
}

/// The executor. A clone is another handle to the same.
#[derive(Clone)]
pub struct Executor(Arc<Shared>);

struct Shared {
    random: Mutex<Rng>,
    time: Mutex<Time>,
    ready: Mutex<Vec<(Machine, Runnable)>>,
    /// Every task that was spawned; dropped, a task is cancelled.
    tasks: Mutex<Vec<(Machine, Task<()>)>>,
    /// What is being killed: nothing starts there.
    dying: Mutex<Option<Machine>>,
    suspended: Mutex<Suspended>,
    /// Where what runs at the moment is.
    running: AtomicUsize,
}

struct Time {
    now: Duration,
    timers: BTreeMap<(Duration, u64), Waker>,
    serial: u64,
}

#[derive(Default)]
struct Suspended {
    now: BTreeSet<Machine>,
    /// The last suspend of each machine, from and until when.
    last: BTreeMap<Machine, (Duration, Duration)>,
}

impl Executor {
    /// An executor at time zero.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            random: Mutex::new(Rng::with_seed(seed)),
            time: Mutex::new(Time { now: Duration::ZERO, timers: BTreeMap::new(), serial: 0 }),
            ready: Mutex::default(),
            tasks: Mutex::default(),
            dying: Mutex::default(),
            suspended: Mutex::default(),
            running: AtomicUsize::new(OUTSIDE.0),
        }))
    }

    /// The true time.
    pub fn now(&self) -> Duration {
        self.0.time.lock().unwrap().now
    }

    pub fn random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.0.random.lock().unwrap())
    }

    /// Whether something that happens `percent` times in a hundred happens now.
    pub fn chance(&self, percent: u32) -> bool {
        self.random(|random| random.u32(..100) < percent)
    }

    /// A duration between these two, short ones as likely as long ones: milliseconds and hours are equally interesting.
    pub fn duration(&self, shortest: Duration, longest: Duration) -> Duration {
        let (low, high) = (shortest.as_secs_f64().max(1e-6).ln(), longest.as_secs_f64().max(1e-6).ln());
        Duration::from_secs_f64((low + self.random(Rng::f64) * (high - low)).exp())
    }

    /// Runs `future` on `machine`, beside everything else.
    pub fn spawn(&self, machine: Machine, future: impl Future<Output = ()> + Send + 'static) {
        if *self.0.dying.lock().unwrap() == Some(machine) {
            return;
        }
        let shared = Arc::downgrade(&self.0);
        let schedule = move |runnable| {
            if let Some(shared) = shared.upgrade() {
                shared.ready.lock().unwrap().push((machine, runnable));
            }
        };
        let (runnable, task) = async_task::spawn(future, schedule);
        let mut tasks = self.0.tasks.lock().unwrap();
        if tasks.len() >= 64 && tasks.len().is_power_of_two() {
            tasks.retain(|(_, task)| !task.is_finished());
        }
        tasks.push((machine, task));
        drop(tasks);
        runnable.schedule();
    }

    /// Where what runs at the moment is.
    pub fn running(&self) -> Machine {
        Machine(self.0.running.load(Ordering::Relaxed))
    }

    /// Ends after `duration` of true time.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Ends at a true time.
    pub fn sleep_until(&self, at: Duration) -> Sleep {
        Sleep { executor: self.clone(), at, timer: None }
    }

    /// Wakes `waker` at a true time.
    pub fn wake_at(&self, at: Duration, waker: Waker) {
        self.0.time.lock().unwrap().set(at, waker);
    }

    /// From now on nothing runs on `machine`.
    pub fn suspend(&self, machine: Machine) {
        let now = self.now();
        let mut suspended = self.0.suspended.lock().unwrap();
        suspended.now.insert(machine);
        suspended.last.insert(machine, (now, Duration::MAX));
    }

    /// What waits on `machine` runs again.
    pub fn resume(&self, machine: Machine) {
        let now = self.now();
        let mut suspended = self.0.suspended.lock().unwrap();
        suspended.now.remove(&machine);
        if let Some((_, until)) = suspended.last.get_mut(&machine) {
            *until = now;
        }
    }

    /// When `machine` woke up, if it slept at `moment`.
    pub fn slept_over(&self, machine: Machine, moment: Duration) -> Option<Duration> {
        let suspended = self.0.suspended.lock().unwrap();
        suspended.last.get(&machine).filter(|(from, until)| (*from..*until).contains(&moment)).map(|(_, until)| *until)
    }

    /// When `machine` woke up last, if it ever slept.
    pub fn last_woken(&self, machine: Machine) -> Option<Duration> {
        self.0.suspended.lock().unwrap().last.get(&machine).map(|(_, until)| *until)
    }

    /// Runs everything until `root` has ended; it runs [`OUTSIDE`].
    ///
    /// # Errors
    /// When it cannot end, or has not after `longest`.
    pub fn run<T: Send + 'static>(
        &self,
        longest: Duration,
        root: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Stuck> {
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        self.spawn(OUTSIDE, async move {
            let value = root.await;
            *slot.lock().unwrap() = Some(value);
        });
        let mut steps = 0;
        loop {
            if let Some(value) = result.lock().unwrap().take() {
                return Ok(value);
            }
            if let Some((machine, runnable)) = self.next() {
                self.0.running.store(machine.0, Ordering::Relaxed);
                steps += 1;
                if steps > MOST_STEPS {
                    return Err(Stuck::Livelock);
                }
                runnable.run();
            } else {
                steps = 0;
                self.advance(longest)?;
            }
        }
    }

    /// Ends everything on `machine` where it stands, as SIGKILL does. Not to be called from there.
    pub fn kill(&self, machine: Machine) {
        *self.0.dying.lock().unwrap() = Some(machine);
        let caller = self.0.running.swap(machine.0, Ordering::Relaxed);
        let mut tasks = self.0.tasks.lock().unwrap();
        let dead: Vec<_> = tasks.extract_if(.., |(on, _)| *on == machine).collect();
        drop(tasks);
        drop(dead);
        loop {
            let mut ready = self.0.ready.lock().unwrap();
            let Some(index) = ready.iter().position(|(on, _)| *on == machine) else { break };
            let (_, runnable) = ready.swap_remove(index);
            drop(ready);
            // Of a cancelled task it runs nothing but the end.
            runnable.run();
        }
        self.0.running.store(caller, Ordering::Relaxed);
        *self.0.dying.lock().unwrap() = None;
    }

    /// Ends every task where it stands. They hold the executor and the executor holds them, so nothing else would.
    pub fn close(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap());
        drop(tasks);
        while let Some((_, runnable)) = { self.0.ready.lock().unwrap().pop() } {
            // Of a cancelled task it runs nothing but the end.
            runnable.run();
        }
        let timers = std::mem::take(&mut self.0.time.lock().unwrap().timers);
        drop(timers);
    }

    fn next(&self) -> Option<(Machine, Runnable)> {
        let suspended = self.0.suspended.lock().unwrap();
        let mut ready = self.0.ready.lock().unwrap();
        let chosen = if suspended.now.is_empty() {
            (!ready.is_empty()).then(|| self.random(|random| random.usize(..ready.len())))?
        } else {
            let awake: Vec<usize> =
                (0..ready.len()).filter(|index| !suspended.now.contains(&ready[*index].0)).collect();
            (!awake.is_empty()).then(|| self.random(|random| awake[random.usize(..awake.len())]))?
        };
        Some(ready.swap_remove(chosen))
    }

    /// Goes on to the next timer, and wakes all that are set for that moment.
    fn advance(&self, longest: Duration) -> Result<(), Stuck> {
        let mut due = Vec::new();
        let mut time = self.0.time.lock().unwrap();
        let Some(((at, _), _)) = time.timers.first_key_value() else { return Err(Stuck::Deadlock) };
        time.now = (*at).max(time.now);
        if time.now > longest {
            return Err(Stuck::TooLong);
        }
        let now = time.now;
        while let Some(timer) = time.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            due.push(timer.remove());
        }
        drop(time);
        due.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl Time {
    fn set(&mut self, at: Duration, waker: Waker) -> (Duration, u64) {
        self.serial += 1;
        self.timers.insert((at, self.serial), waker);
        (at, self.serial)
    }
}

/// Ends at its time.
pub struct Sleep {
    executor: Executor,
    at: Duration,
    timer: Option<(Duration, u64)>,
}

impl Sleep {
    /// Takes the timer back.
    fn disarm(&mut self, time: &mut Time) {
        if let Some(timer) = self.timer.take() {
            time.timers.remove(&timer);
        }
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.executor.0);
        let mut time = shared.time.lock().unwrap();
        self.disarm(&mut time);
        if time.now >= self.at {
            return Poll::Ready(());
        }
        self.timer = Some(time.set(self.at, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.executor.0);
        // A waker that is dropped may drop a task, which drops its own timers: not while the lock is held.
        let waker = self.timer.take().and_then(|timer| shared.time.lock().unwrap().timers.remove(&timer));
        drop(waker);
    }
}
