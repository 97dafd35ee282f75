//! What is checked while it happens: the worker's log, its processes and its metrics, held against each other.

mod hearing;
mod listener;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_channel::Sender;
use oz_worker_runtime::Lane;

use crate::journal::Journal;
use crate::machine::LATE;
use crate::process::Kind;
use listener::Line;
pub use listener::Listener;

/// `docs/protocol.md`: the first step of the backoff, and the last.
const FIRST_STEP: Duration = Duration::from_secs(1);
const LAST_STEP: Duration = Duration::from_secs(60);
/// `docs/protocol.md`: the longest wait after a good connection, and how long one lasts that is good without a message.
const SOON: Duration = Duration::from_millis(500);
const LASTING: Duration = Duration::from_secs(60);

/// Knows what really became of each execution.
pub trait Judge: Send + Sync {
    /// What is wrong with an end that a worker tells: `reason` is that of a failure, `cancelled`, or empty of a success.
    fn judge(&self, execution: &str, reason: &str, exit_code: i64) -> Option<String>;

    /// A worker has claimed it.
    fn claimed(&self, _execution: &str) {}
}

/// Collects what is wrong. A clone is another handle to the same.
#[derive(Clone)]
pub struct Watch {
    journal: Journal,
    facts: Arc<Mutex<Facts>>,
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
#[derive(Default)]
struct Facts {
    limit: usize,
    violations: Vec<String>,
    lines: usize,
    stopping: bool,
    /// The execution of each task that was claimed last.
    claimed: BTreeMap<String, String>,
    /// Every execution that was ever claimed, by whichever worker.
    ever_claimed: BTreeSet<String>,
    executions: BTreeSet<String>,
    /// The executions whose agent or dispatch command was started.
    started: BTreeSet<String>,
    /// The tasks between claim and end.
    active: BTreeSet<String>,
    /// The executions of which the worker said, as it left, that the server may not have received how they ended.
    unheard: BTreeSet<String>,
    /// Since when each task of them waits to be begun.
    waiting: BTreeMap<String, Duration>,
    /// The tasks that were asked to stop, and whether all are.
    asked_to_stop: BTreeSet<String>,
    all_asked_to_stop: bool,
    /// The tasks whose agent had exited 0 by then: nothing that follows can change that.
    succeeded: BTreeSet<String>,
    /// The lanes of which something was ever held up.
    held_up: BTreeSet<Lane>,
    /// The living processes of trees, and their tasks.
    alive: BTreeMap<u64, String>,
    /// The tasks whose processes did not die, as the log says.
    immortal: BTreeSet<String>,
    /// What each series must show, by what the log tells.
    counted: BTreeMap<String, u64>,
    connected: bool,
    /// Since when there was the last connection, and whether the log tells of a message on it.
    connected_since: Duration,
    heard_message: bool,
    /// The least and the most that the step of the backoff can be, and since when the worker waits.
    step: (Duration, Duration),
    waits_since: Option<Duration>,
    /// Whether it waits after a good connection; `None` when that hangs on a moment.
    was_good: Option<bool>,
    series: Option<usize>,
    /// How many tasks of an earlier worker were taken up.
    taken_up: u32,
    /// How many executions ran under workers that were killed.
    past_runs: usize,
    /// Who knows what became of tasks that run elsewhere.
    truths: Option<Arc<dyn Judge>>,
    /// Who waits for a line that begins so.
    awaited: Vec<(String, Sender<()>)>,
}

impl Watch {
    /// Nothing is wrong yet. `limit` is `--max-concurrent-tasks`.
    pub fn new(journal: &Journal, limit: usize) -> Self {
        let facts = Facts { limit, step: (FIRST_STEP, FIRST_STEP), ..Facts::default() };
        Self { journal: journal.clone(), facts: Arc::new(Mutex::new(facts)) }
    }

    /// Something that must never happen.
    pub fn violate(&self, what: String) {
        self.journal.note(|| format!("VIOLATION: {what}"));
        self.facts().violations.push(what);
    }

    fn violate_all(&self, wrong: Vec<String>) {
        for wrong in wrong {
            self.violate(wrong);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.facts().violations.clone()
    }

    /// The number of lines that the worker logged.
    pub fn lines(&self) -> usize {
        self.facts().lines
    }

    /// Ends when the worker writes a line that begins so.
    pub fn line(&self, beginning: &str) -> impl Future<Output = ()> + Send + 'static {
        let (came, waits) = async_channel::bounded(1);
        self.facts().awaited.push((beginning.to_owned(), came));
        async move {
            let _ = waits.recv().await;
        }
    }

    pub fn runs(&self) -> usize {
        let facts = self.facts();
        facts.past_runs + facts.started.len()
    }

    /// Tasks run elsewhere, and this knows what becomes of them.
    pub fn judge_by(&self, truths: impl Judge + 'static) {
        self.facts().truths = Some(Arc::new(truths));
    }

    /// Whether the worker was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.facts().stopping
    }

    /// The worker is gone, and another one begins. It knows nothing but what it is told.
    pub fn restarts(&self) {
        let mut facts = self.facts();
        let old = std::mem::take(&mut *facts);
        *facts = Facts {
            limit: old.limit,
            step: (FIRST_STEP, FIRST_STEP),
            violations: old.violations,
            lines: old.lines,
            claimed: old.claimed,
            ever_claimed: old.ever_claimed,
            held_up: old.held_up,
            unheard: old.unheard,
            awaited: old.awaited,
            past_runs: old.past_runs + old.started.len(),
            truths: old.truths,
            ..Facts::default()
        };
    }

    /// Whether any worker claimed an execution.
    pub fn was_claimed(&self, execution: &str) -> bool {
        self.facts().ever_claimed.contains(execution)
    }

    /// The execution of a task that was claimed last.
    pub fn claimed(&self, task: &str) -> Option<String> {
        self.facts().claimed.get(task).cloned()
    }

    /// A dial begins at `now`; the machine may have slept since `slept`.
    pub fn dials(&self, now: Duration, slept: Option<Duration>) {
        let mut facts = self.facts();
        let Some(since) = facts.waits_since.take() else { return };
        let (step, waited) = (facts.step, now.checked_sub(since).unwrap_or_default());
        // A worker that slept heard nothing for longer than it could notice: how long it had heard something is not known.
        let is_unknown = !facts.heard_message && slept.is_some_and(|woke| woke >= facts.connected_since);
        let was_good = facts.was_good.filter(|was_good| !(*was_good && is_unknown));
        let ((least, most), next) = (step, |step: Duration| LAST_STEP.min(step * 2));
        facts.step = match was_good {
            Some(true) => (FIRST_STEP, FIRST_STEP),
            Some(false) => (next(least), next(most)),
            None => (FIRST_STEP, next(most)),
        };
        // A timer that was slept over may keep the next one waiting for as long as it is late itself.
        let is_exempt = facts.stopping || slept.is_some_and(|woke| woke.saturating_add(LATE) >= since);
        drop(facts);
        // Half the step to all of it, by a clock that is a little wrong; the key is read and a name looked up first.
        let first = Duration::ZERO;
        let (shortest, longest) = match was_good {
            Some(true) => (first, SOON),
            Some(false) => (least.mul_f64(0.499), most),
            None => (first, most),
        };
        let longest = longest.mul_f64(1.001) + Duration::from_millis(60);
        if !is_exempt && !(shortest..=longest).contains(&waited) {
            self.violate(format!(
                "dialled after {waited:?}, at a step of {step:?}, after a good connection: {was_good:?}"
            ));
        }
    }

    /// Something on a lane is held up for longer than usual.
    pub fn held_up(&self, lane: Lane) {
        self.facts().held_up.insert(lane);
    }

    /// Whether anything on a lane ever was.
    pub fn was_held_up(&self, lane: Lane) -> bool {
        self.facts().held_up.contains(&lane)
    }

    /// The machine is asked to start a process of a task, and may refuse.
    pub fn begun(&self, task: &str) {
        self.facts().waiting.remove(task);
    }

    /// Whether a dial is under way.
    pub fn is_dialling(&self) -> bool {
        let facts = self.facts();
        !facts.connected && facts.waits_since.is_none()
    }

    /// Whether the worker left without the server's word that it had received how this execution ended: the next one tells it.
    pub fn is_unheard(&self, execution: &str) -> bool {
        self.facts().unheard.contains(execution)
    }

    /// The machine wakes up at `now`: what waited to be begun could not be while it slept.
    pub fn woke(&self, now: Duration) {
        self.facts().waiting.values_mut().for_each(|since| *since = now);
    }

    /// A task's agent has exited 0.
    pub fn succeeded(&self, task: &str) {
        let mut facts = self.facts();
        if !facts.all_asked_to_stop && !facts.asked_to_stop.contains(task) {
            facts.succeeded.insert(task.to_owned());
        }
    }

    pub fn started(&self, kind: Kind, task: &str, execution: &str) {
        let mut facts = self.facts();
        let mut wrong = Vec::new();
        if kind != Kind::Cancel && facts.claimed.get(task).map(String::as_str) != Some(execution) {
            wrong.push(format!("{kind:?} of {execution} runs although {task} was not claimed for it"));
        }
        // What a worker that leaves has given up goes on until it is killed, and a start may be under way.
        let given_up = facts.stopping && matches!(kind, Kind::Teardown | Kind::Container);
        if kind != Kind::Cancel && !given_up && !facts.active.contains(task) {
            wrong.push(format!("{kind:?} of {execution} runs although {task} holds no slot"));
        }
        if matches!(kind, Kind::Agent | Kind::Container | Kind::Dispatch) && !facts.started.insert(execution.to_owned())
        {
            wrong.push(format!("{execution} runs twice"));
        }
        drop(facts);
        self.violate_all(wrong);
    }

    /// An execution of which nothing is there any more may run once more.
    pub fn begins_anew(&self, execution: &str) {
        self.facts().started.remove(execution);
    }

    /// A process joined a task's tree.
    pub fn entered(&self, number: u64, task: &str) {
        self.facts().alive.insert(number, task.to_owned());
    }

    /// A process is gone.
    pub fn left(&self, number: u64) {
        self.facts().alive.remove(&number);
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    fn heard(&self, line: &Line, is_fine: bool) {
        let mut facts = self.facts();
        facts.lines += usize::from(!is_fine);
        let wrong = facts.hear(line, self.journal.now());
        drop(facts);
        self.violate_all(wrong);
    }

    /// Holds the metrics against the log. `shown` is every series with its value.
    pub fn check_metrics(&self, shown: &BTreeMap<String, f64>) {
        let mut facts = self.facts();
        let mut wrong = Vec::new();
        let count = shown.len();
        if *facts.series.get_or_insert(count) != count {
            wrong.push(format!("there are {count} series instead of {:?}", facts.series));
        }
        let sum = |name: &str| -> f64 {
            shown.iter().filter(|(series, _)| series.split('{').next() == Some(name)).map(|(_, value)| value).sum()
        };
        let (active, claimed) = (sum("oz_worker_tasks_active"), sum("oz_worker_tasks_claimed_total"));
        let completed = sum("oz_worker_tasks_completed_total");
        let taken_up = f64::from(facts.taken_up);
        if active < 0.0 || (active - (claimed + taken_up - completed)).abs() > 0.1 {
            wrong.push(format!("{active} active, {claimed} claimed, {taken_up} taken up, {completed} completed"));
        }
        let timed = sum("oz_worker_task_duration_seconds_count");
        if (timed - completed).abs() > 0.1 {
            wrong.push(format!("{timed} durations of {completed} completed tasks"));
        }
        for (series, value) in shown {
            let of_log = ["tasks_claimed", "tasks_completed", "task_failures", "reconnects"];
            let expected = facts.counted.get(series).copied().unwrap_or_default();
            #[allow(clippy::cast_precision_loss)] // nothing counts that far
            let differs = (value - expected as f64).abs() > 0.1;
            if differs && of_log.iter().any(|name| series.contains(name)) {
                wrong.push(format!("{series} is {value}, and the log tells {expected}"));
            }
        }
        let connected = sum("oz_worker_connected") > 0.5;
        if !facts.stopping && connected != facts.connected {
            wrong.push(format!("oz_worker_connected says {connected}, and the log {}", facts.connected));
        }
        drop(facts);
        self.violate_all(wrong);
    }
}
