//! A worker that is killed, and the one that goes on from its records.

use oz_worker_core::record::Record;
use oz_worker_core::{AfterKill, Frame, Input, Notice, Outcome, Output, RunId, Worker};

use super::{Duration, Instant, Setup, Step, World, config, law};

/// Plays `steps` to a worker that records what it does, kills it, and looks at the one that is made from its records. Of those
/// that are not safe, some of the last are lost.
pub fn kill(setup: &Setup, steps: &[Step], lost: u8) {
    let mut world = World::new(setup, true);
    for step in steps {
        world.step(step);
    }
    let records = &world.watch.records;
    let kept = records.len() - usize::from(lost) % (world.watch.unsafe_records() + 1);
    let mut restored = Restored::new(setup, world.now, &records[..kept]);
    restored.reports();
    restored.finds_what_was_dispatched();
    restored.starts_nothing_again();
    restored.ends_what_it_took_up();
    // Until here it did what the laws foretell of any worker; and so does the first one, if it goes on.
    world.settle();
    world.leave();
}

struct Restored<'a> {
    worker: Worker,
    now: Instant,
    after_kill: AfterKill,
    records: &'a [Record],
    /// The tasks that were taken up.
    resumed: Vec<(String, RunId)>,
    outputs: Vec<Output>,
}

impl<'a> Restored<'a> {
    fn new(setup: &Setup, now: Instant, records: &'a [Record]) -> Self {
        let mut config = config(setup, true);
        // Nothing is rejected for lack of a slot: then it would prove little that nothing is started.
        config.max_concurrent_tasks = 0;
        let read = records.iter().map(|record| (Duration::ZERO, Record::decode(&record.encode()).unwrap()));
        let after_kill = config.after_kill;
        let mut worker = Worker::restored(config, setup.seed, now, read);
        let outputs: Vec<Output> = core::iter::from_fn(|| worker.poll_output()).collect();
        let resumed = outputs.iter().filter_map(|output| match output {
            Output::ResumeTask { run, task_id, .. } => Some((task_id.clone(), *run)),
            _ => None,
        });
        Self { resumed: resumed.collect(), worker, now, after_kill, records, outputs }
    }

    fn handle(&mut self, input: Input<'_>) -> Vec<Output> {
        self.worker.handle(self.now, input);
        // Every record is safe at once.
        self.worker.handle(self.now, Input::Durable(u64::MAX));
        let outputs: Vec<Output> = core::iter::from_fn(|| self.worker.poll_output()).collect();
        for output in &outputs {
            law!("a claimed task is never started again", !matches!(output, Output::StartTask { .. }), "{output:?}");
        }
        outputs
    }

    /// What is said again, and in which order.
    fn reports(&mut self) {
        self.handle(Input::Timeout);
        let outputs = self.handle(Input::Connected);
        let said = texts(&outputs);
        let is_claim = |text: &&String| text.contains("task_claimed");
        let ends: Vec<&String> = said.iter().filter(|text| !is_claim(text)).collect();
        let unproven = self.unproven();
        law!("what is unproven is told again in the old order", ends.starts_with(&unproven), "{ends:?}: {unproven:?}");
        law!("claims are told before ends", said.iter().skip_while(is_claim).all(|text| !is_claim(&text)), "{said:?}");
        let unended = self.unended();
        for task in &unended {
            let claimed = said.iter().any(|text| is_claim(&text) && text.contains(&format!(r#""{task}""#)));
            law!("what was claimed is claimed", claimed, "{task}: {said:?}");
        }
        let interrupted = ends.len() - unproven.len();
        let resumed = self.resumed.len();
        law!("what has no end gets one, or is taken up", interrupted + resumed == unended.len(), "{unended:?}");
        let may_resume = self.after_kill == AfterKill::Resumes;
        law!("what can be taken up is taken up", if may_resume { interrupted == 0 } else { resumed == 0 });
        law!("what is taken up holds a slot", self.worker.active_tasks() == resumed);
        for (text, task) in ends[unproven.len()..].iter().zip(&unended) {
            let (is_cancelled, words) = (self.is_cancelled(task), "Task cancelled by user request.");
            law!("what the user cancelled is cancelled", text.contains(words) == is_cancelled, "{text}");
            let words = "the worker was killed while the task ran";
            law!("what was killed is told as such", text.contains(words) != is_cancelled, "{text}");
        }
        for (task, run) in &self.resumed {
            let is_stopped =
                |output: &&Output| matches!(output, Output::StopTask { run: stopped, .. } if stopped == run);
            let stops = self.outputs.iter().filter(is_stopped).count();
            law!("what the user cancelled is stopped", stops == usize::from(self.is_cancelled(task)), "{task}");
        }
        let cancels = self.outputs.iter().filter(|output| matches!(output, Output::CancelDispatched { .. })).count();
        let expected = if self.after_kill == AfterKill::IsCancelled { unended.len() } else { 0 };
        // The record of a claim may be safe when that of its dispatch is not.
        let torn = usize::from(matches!(self.records.last(), Some(Record::Claimed { .. })));
        law!("what was half handed over is cancelled", (cancels..=cancels + torn).contains(&expected));
    }

    fn finds_what_was_dispatched(&mut self) {
        for (place, record) in self.records.iter().enumerate() {
            let Record::Dispatched { task_id, .. } = record else { continue };
            if self.claims_after(place, task_id) {
                continue;
            }
            let outputs = self
                .handle(Input::Text(&format!(r#"{{"type":"task_cancellation","data":{{"task_id":"{task_id}"}}}}"#)));
            let cancelled = outputs.iter().any(|output| matches!(output, Output::CancelDispatched { .. }));
            law!("a cancellation finds what was dispatched", cancelled, "{task_id}");
        }
    }

    fn starts_nothing_again(&mut self) {
        for (place, record) in self.records.iter().enumerate() {
            let Record::Claimed { task_id, execution_id } = record else { continue };
            // Of a task that was assigned anew the worker knows the last execution.
            if execution_id.is_none() || self.claims_after(place, task_id) || self.is_forgotten(place, task_id) {
                continue;
            }
            let text = format!(
                r#"{{"type":"task_assignment","data":{{"task_id":"{task_id}","execution_id":"{}","task":{{}}}}}}"#,
                execution_id.as_deref().unwrap()
            );
            let outputs = self.handle(Input::Text(&text));
            let said = texts(&outputs);
            let claimed = said.first().is_some_and(|text| text.contains("task_claimed"));
            law!("an execution that is known is claimed again", claimed, "{said:?}");
            let end = self.records[place..].iter().find_map(|record| match record {
                Record::Finished { task_id: task, message, .. } if task == task_id => Some(message),
                _ => None,
            });
            law!("an end that is known is told again", end.is_none_or(|end| said.get(1) == Some(end)), "{said:?}");
        }
    }

    fn ends_what_it_took_up(&mut self) {
        for (task_id, run) in std::mem::take(&mut self.resumed) {
            let is_cancelled = self.is_cancelled(&task_id);
            let outcome = if is_cancelled { Outcome::Stopped } else { Outcome::Completed };
            self.handle(Input::TaskFinished { task_id: &task_id, run, outcome });
            let outputs = self.handle(Input::TaskEnded { task_id: &task_id, run, cleanup: Vec::new() });
            let said = texts(&outputs);
            law!("what was taken up ends once", said.len() == 1 && said[0].contains("task_completed"), "{said:?}");
            law!("what the user cancelled is cancelled", said[0].contains("CANCELLED") == is_cancelled, "{said:?}");
            let is_told = |output: &Output| matches!(output, Output::Notice(Notice::Ended { .. }));
            law!("what was taken up ends once", outputs.iter().filter(|output| is_told(output)).count() == 1);
        }
        law!("a slot is free as soon as its task has ended", self.worker.active_tasks() == 0);
    }

    fn claims_after(&self, place: usize, task: &str) -> bool {
        let is_it = |record: &Record| matches!(record, Record::Claimed { task_id, .. } if task_id == task);
        self.records[place + 1..].iter().any(is_it)
    }

    fn is_forgotten(&self, place: usize, task: &str) -> bool {
        let is_it = |record: &Record| matches!(record, Record::Forgotten { task_id } if task_id == task);
        self.records[place..].iter().any(is_it)
    }

    fn is_cancelled(&self, task: &str) -> bool {
        let about = self.records.iter().rev().find(|record| match record {
            Record::CancelAsked { task_id } | Record::Claimed { task_id, .. } => task_id == task,
            _ => false,
        });
        matches!(about, Some(Record::CancelAsked { .. }))
    }

    /// The ends that were recorded and are not known to have arrived.
    fn unproven(&self) -> Vec<&String> {
        let is_kept = |(place, record): (usize, &'a Record)| match record {
            Record::Finished { task_id, execution_id, message } => {
                let told = Record::Told { task_id: task_id.clone(), execution_id: execution_id.clone() };
                let is_told = self.records[place..].contains(&told);
                (!is_told && !self.is_forgotten(place, task_id)).then_some(message)
            }
            _ => None,
        };
        self.records.iter().enumerate().filter_map(is_kept).collect()
    }

    /// The tasks that were claimed and have no end, in the order of their claims.
    fn unended(&self) -> Vec<String> {
        let is_unended = |(place, record): (usize, &Record)| match record {
            Record::Claimed { task_id, .. } => {
                let is_end = |record: &Record| match record {
                    Record::Finished { task_id: task, .. } | Record::Dispatched { task_id: task, .. } => {
                        task == task_id
                    }
                    _ => false,
                };
                (!self.records[place..].iter().any(is_end)).then(|| task_id.clone())
            }
            _ => None,
        };
        self.records.iter().enumerate().filter_map(is_unended).collect()
    }
}

fn texts(outputs: &[Output]) -> Vec<String> {
    let texts = outputs.iter().filter_map(|output| match output {
        Output::Send(Frame::Text(text)) => Some(text.clone()),
        _ => None,
    });
    texts.collect()
}
