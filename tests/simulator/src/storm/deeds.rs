//! What is done to a worker while anything may break: its server assigns, cancels and talks nonsense; its machine sleeps, its network
//! is out.

use std::time::Duration;

use oz_worker_runtime::Lane;
use tungstenite::Message;

use super::Storm;
use crate::pair::Pair;
use crate::scene::{MACHINE, ROOT, Scene};
use crate::server::Server;

fn owned((task, execution): (&str, &str)) -> (String, String) {
    (task.to_owned(), execution.to_owned())
}

impl Storm {
    fn execution(&mut self) -> String {
        self.executions += 1;
        format!("E{}", self.executions)
    }

    pub(super) fn assign_new(&mut self) -> (String, String) {
        let server = self.anyone().server.clone();
        self.assign_new_to(&server)
    }

    pub(super) fn assign_new_to(&mut self, server: &Server) -> (String, String) {
        self.tasks += 1;
        let (task, execution) = (format!("T{}", self.tasks), self.execution());
        if self.scene.executor.chance(2) {
            // Somebody made a directory of that name.
            self.scene.machine.disk.put(&format!("{ROOT}/{task}"));
        }
        server.assign(&task, &execution, true);
        (task, execution)
    }

    pub(super) fn assign_malformed(&mut self) {
        self.tasks += 1;
        let (task, execution) = (format!("M{}", self.tasks), self.execution());
        self.scene.server.assign(&task, &execution, false);
    }

    /// The same execution of an active task.
    pub(super) fn assign_again(&mut self) {
        let server = &self.scene.server;
        let active: Vec<_> = server.ledger(|ledger| {
            // An older execution is never assigned again once there is a newer one.
            let is_last = |(task, _): &(&str, &str)| ledger.unanswered().all(|(waiting, _)| waiting != *task);
            ledger.active().filter(is_last).map(owned).collect()
        });
        if let Some((task, execution)) = self.scene.executor.random(|random| random.choice(active)) {
            server.assign_again(&task, &execution, self.scene.executor.chance(70));
        }
    }

    /// A new execution of a task that is active or over. Only while nobody can take what is under way for an answer to it.
    pub(super) fn assign_anew(&mut self) {
        let server = self.scene.server.clone();
        if !server.is_settled() {
            return;
        }
        let tasks: Vec<String> = server.ledger(|ledger| {
            let active = ledger.active().map(|(task, _)| task);
            active.chain(ledger.over()).map(Into::into).collect()
        });
        let Some(task) = self.scene.executor.random(|random| random.choice(tasks)) else { return };
        let unanswered = server.ledger(|ledger| ledger.unanswered().any(|(waiting, _)| waiting == task));
        if task.starts_with('M') || unanswered || server.was_repeated(&task) {
            return;
        }
        let execution = self.execution();
        server.assign(&task, &execution, true);
    }

    pub(super) fn cancel(&mut self) {
        let number = self.scene.executor.random(|random| random.u32(..=self.tasks));
        self.cancel_task(&format!("T{number}"));
    }

    /// Every worker of the id hears of it: the server need not know which of them has the task.
    pub(super) fn cancel_task(&self, task: &str) {
        self.scene.server.cancel(task);
        if let Some(Pair { second, .. }) = &self.pair {
            second.server.cancel(task);
        }
    }

    pub(super) fn send_nonsense(&self) {
        let nonsense = [
            Message::text("{}"),
            Message::text("not JSON"),
            Message::text(r#"{"type":"task_paused","data":{}}"#),
            Message::text(r#"{"type":"task_assignment","data":{"task":{}}}"#),
            Message::text(r#"{"type":"task_cancellation","data":null}"#),
            Message::binary(vec![0; 100]),
        ];
        if let Some(message) = self.scene.executor.random(|random| random.choice(nonsense)) {
            self.scene.server.send(message);
        }
    }

    pub(super) fn outage(&self) {
        let length = self.scene.executor.duration(Duration::from_secs(1), Duration::from_secs(3600));
        self.scene.journal.note(|| format!("network: outage of {length:?}"));
        self.scene.network.set_outage(true);
        let own = self.scene.clone();
        self.scene.executor.spawn(crate::executor::OUTSIDE, async move {
            own.executor.sleep(length).await;
            own.network.set_outage(false);
        });
    }

    /// A file system that does not answer, also when everything else is well again: nothing but what needs it may suffer.
    pub(super) fn hold_up(&self) {
        let Scene { executor, machine, .. } = &self.scene;
        let seconds = |longest| executor.duration(Duration::from_secs(1), Duration::from_secs(longest));
        let (lane, length) = match executor.random(|random| random.u32(..3)) {
            // Who asks an engine or a cluster needs that lane at its own start.
            0 if !self.scene.runs_elsewhere() => (Lane::Start, seconds(3 * 3600)),
            1 => (Lane::Finish, seconds(60)),
            _ => (Lane::Remove, seconds(30 * 24 * 3600)),
        };
        machine.lanes.hold_up(lane, length);
    }

    pub(super) fn suspend(&self) {
        let length = self.scene.executor.duration(Duration::from_secs(1), Duration::from_secs(6 * 3600));
        self.scene.journal.note(|| format!("host: suspended for {length:?}"));
        self.scene.executor.suspend(MACHINE);
        let own = self.scene.clone();
        self.scene.executor.spawn(crate::executor::OUTSIDE, async move {
            own.executor.sleep(length).await;
            own.executor.resume(MACHINE);
            own.watch.woke(own.executor.now());
        });
    }
}
