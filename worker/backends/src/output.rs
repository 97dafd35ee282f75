//! What a task writes, cut into lines for the log. Nothing is held for a task that is silent.

use oz_worker_telemetry::TaskTrace;

use crate::logs::{About, MAX_LINE, OutputBudget, has_room, output_end, output_line};

/// The output of one task.
#[derive(Debug)]
pub(super) struct TaskOutput {
    task_id: Box<str>,
    trace: TaskTrace,
    budget: OutputBudget,
    /// The beginning of a line whose end has not come yet, at most [`MAX_LINE`] bytes of it.
    begun: Vec<u8>,
    /// How many more bytes of that line came and were thrown away.
    cut: u64,
}

impl TaskOutput {
    /// The output of a task that has not written anything.
    pub(super) fn new(task_id: &str, trace: &TaskTrace) -> Self {
        Self { task_id: task_id.into(), trace: trace.clone(), budget: OutputBudget::new(), begun: Vec::new(), cut: 0 }
    }

    /// Logs every line that is complete now, as long as the log has room for it, and gives how many bytes that took. With
    /// `lossy` it takes all, and the log counts what it has no room for.
    pub(super) fn write(&mut self, bytes: &[u8], lossy: bool) -> usize {
        let mut taken = 0;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !lossy && !has_room(&self.budget) {
                break;
            }
            taken += piece.len();
            match piece.strip_suffix(b"\n") {
                Some(line) if self.begun.is_empty() && self.cut == 0 => self.log(line, 0),
                Some(rest) => {
                    self.begin(rest);
                    self.end_line();
                }
                None => self.begin(piece),
            }
        }
        taken
    }

    /// Logs what stands after the last line break: no more is to come.
    pub(super) fn finish(&mut self) {
        if !self.begun.is_empty() {
            self.end_line();
        }
        output_end(&self.budget, self.about());
    }

    fn begin(&mut self, piece: &[u8]) {
        let (kept, cut) = piece.split_at(piece.len().min(MAX_LINE - self.begun.len()));
        self.begun.extend_from_slice(kept);
        self.cut += cut.len() as u64;
    }

    fn end_line(&mut self) {
        let (line, cut) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.cut));
        self.log(&line, cut);
    }

    fn log(&self, line: &[u8], cut: u64) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        output_line(&self.budget, self.about(), line, cut);
    }

    fn about(&self) -> About<'_> {
        About { task_id: &self.task_id, trace_id: self.trace.id() }
    }
}
