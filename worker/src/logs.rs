//! The log on standard error: the worker's own events and the lines that agents write, as text or as JSON.
//!
//! Nothing here can hold the worker up. A line is formatted into a queue in memory and one thread writes the queue out;
//! when whoever reads standard error is slow or stuck, lines are dropped and counted, and the count is logged as soon as
//! there is room again. No task can crowd out another one or the worker: a task's lines hold at most 64 KiB.
//!
//! Events come from the `tracing` macros, and only from this project's crates: libraries are not asked (a TLS or HTTP
//! library logs what must not be logged). Spans are not recorded; what an event is about stands in its fields.

mod format;
mod queue;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::settings::{LogFormat, LogLevel};
use format::{Parts, Style};
use oz_worker_backends::contract::output::{LONGEST_LINE, TaskLog};
use queue::{OutputBudget, Queue};

/// The crates whose events are logged begin with one of these: the libraries and the program itself.
const OUR_TARGETS: [&str; 2] = ["oz_worker", "oz_agent_worker"];

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts the log on standard error: from here on the `tracing` macros and [`task`] reach it. Colours are used
/// only on a terminal, and not when the environment variable `NO_COLOR` is set.
///
/// # Errors
/// When the log thread cannot be started, or the log was started before.
pub fn init(level: LogLevel, format: LogFormat) -> io::Result<()> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let colour = io::stderr().is_terminal() && !set("NO_COLOR") && !dumb;
    let sink = StandardError(File::from(io::stderr().as_fd().try_clone_to_owned()?));
    let logger = Logger::start(level, Style::new(format, colour), sink)?;
    let twice = || io::Error::new(io::ErrorKind::AlreadyExists, "the log was started before");
    LOGGER.set(logger.clone()).map_err(|_| twice())?;
    tracing::subscriber::set_global_default(logger).map_err(|_| twice())
}

/// Waits until everything logged so far is written, for at most `timeout`. False when that was not enough. For the end of
/// the program; blocks.
pub fn flush(timeout: Duration) -> bool {
    LOGGER.get().is_none_or(|logger| logger.queue.flush(timeout))
}

/// The log of one task: a trace id stands beside its own when tracing is on.
pub fn task(task_id: &str, trace_id: Option<&str>) -> Arc<dyn TaskLog> {
    let (task_id, trace_id) = (task_id.into(), trace_id.map(Into::into));
    Arc::new(TaskOutput { task_id, trace_id, budget: OutputBudget::new() })
}

/// The output of one task, and its share of the log.
struct TaskOutput {
    task_id: Box<str>,
    trace_id: Option<Box<str>>,
    budget: OutputBudget,
}

impl TaskOutput {
    fn label(&self) -> Label<'_> {
        Label { task_id: &self.task_id, trace_id: self.trace_id.as_deref() }
    }
}

impl TaskLog for TaskOutput {
    fn has_room(&self) -> bool {
        LOGGER.get().is_none_or(|logger| logger.queue.has_room(&self.budget))
    }

    /// Control characters are escaped and invalid UTF-8 is replaced.
    fn line(&self, line: &[u8], cut: u64) {
        if let Some(logger) = LOGGER.get() {
            logger.output(&self.budget, self.label(), line, cut);
        }
    }

    fn end(&self) {
        if let Some(logger) = LOGGER.get() {
            logger.output_end(&self.budget, self.label());
        }
    }
}

/// Which task a line is about.
#[derive(Debug, Clone, Copy)]
struct Label<'a> {
    task_id: &'a str,
    trace_id: Option<&'a str>,
}

#[derive(Clone)]
struct Logger {
    level: LogLevel,
    style: Style,
    queue: Arc<Queue>,
}

impl Logger {
    fn start(level: LogLevel, style: Style, sink: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let writer = Arc::clone(&queue);
        std::thread::Builder::new().name("oz-log".to_owned()).stack_size(128 * 1024).spawn(move || {
            writer.write_out(sink, |line, dropped| {
                let message = "log lines dropped: standard error was not read fast enough";
                let fields = format::count_field(style, "lines", dropped);
                style.event(
                    line,
                    SystemTime::now(),
                    Level::WARN,
                    &Parts { message: message.as_bytes(), fields: &fields },
                );
            });
        })?;
        Ok(Self { level, style, queue })
    }

    fn output(&self, budget: &OutputBudget, task: Label<'_>, line: &[u8], cut: u64) {
        if self.level > LogLevel::Info {
            return;
        }
        self.queue.push_output(budget, |out, dropped| {
            let now = SystemTime::now();
            self.style.dropped_output(out, now, task, dropped);
            self.style.output(out, now, task, line, cut);
        });
    }

    fn output_end(&self, budget: &OutputBudget, task: Label<'_>) {
        let dropped = budget.take_dropped();
        if dropped > 0 {
            self.queue.push(|out| self.style.dropped_output(out, SystemTime::now(), task, dropped));
        }
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= self.most_verbose()
            && OUR_TARGETS.iter().any(|prefix| metadata.target().starts_with(prefix))
    }

    /// In the order of `tracing`, where the more verbose level is the greater one.
    fn most_verbose(&self) -> Level {
        match self.level {
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Info => Level::INFO,
            LogLevel::Warn => Level::WARN,
            LogLevel::Error => Level::ERROR,
        }
    }
}

impl Subscriber for Logger {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.most_verbose()))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        // Formatted outside the queue's lock: a field's own `Debug` runs here, and could take its time.
        let write = |scratch: &mut Scratch| {
            scratch.clear();
            event.record(&mut Fields { style: self.style, scratch });
            let parts = Parts { message: &scratch.message, fields: &scratch.fields };
            self.queue.push(|out| self.style.event(out, SystemTime::now(), *event.metadata().level(), &parts));
        };
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => write(&mut scratch),
            // An event from within the `Debug` of another one's field.
            Err(_) => write(&mut Scratch::default()),
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// An event's formatted parts, kept from one event to the next so that logging does not allocate.
#[derive(Default)]
struct Scratch {
    message: Vec<u8>,
    fields: Vec<u8>,
    value: String,
}

impl Scratch {
    fn clear(&mut self) {
        // A huge event must not keep its memory for ever.
        if self.message.capacity() + self.fields.capacity() + self.value.capacity() > 3 * LONGEST_LINE {
            *self = Self::default();
        }
        self.message.clear();
        self.fields.clear();
    }
}

/// Collects an event's fields in the style of the log.
struct Fields<'a> {
    style: Style,
    scratch: &'a mut Scratch,
}

impl Fields<'_> {
    fn formatted(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        use fmt::Write;
        let mut text = std::mem::take(&mut self.scratch.value);
        text.clear();
        // Only a broken `Debug` can fail; what it wrote so far is better than nothing.
        let _ = text.write_fmt(value);
        self.record_str(field, &text);
        self.scratch.value = text;
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.scratch.message.extend_from_slice(value.as_bytes());
        } else {
            self.style.text_field(&mut self.scratch.fields, field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.formatted(field, format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.formatted(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.style.literal_field(&mut self.scratch.fields, field.name(), format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.style.literal_field(&mut self.scratch.fields, field.name(), format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.style.literal_field(&mut self.scratch.fields, field.name(), format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.style.literal_field(&mut self.scratch.fields, field.name(), format_args!("{value}"));
        } else {
            // JSON has no number for it.
            self.formatted(field, format_args!("{value}"));
        }
    }
}

/// Standard error by a descriptor of its own: a write that is stuck must not hold the lock of `std::io::stderr`, which a
/// panic message would wait for.
struct StandardError(File);

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // Whoever shares the terminal or pipe has made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
