//! Listens to the workers' logs, line by line.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::Watch;
use crate::executor::Machine;

/// One line of the worker's log.
#[derive(Default)]
pub(super) struct Line {
    pub(super) message: String,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    pub(super) fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name, text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name(), value.to_owned()));
    }
}

/// Listens to the logs of workers, each known by where it runs. What runs elsewhere is the first one's.
pub struct Listener(pub Vec<(Machine, Watch)>);

impl Listener {
    fn watch(&self) -> Option<&Watch> {
        let (_, first) = self.0.first()?;
        let running = first.journal.executor().running();
        let own = self.0.iter().find(|(machine, _)| *machine == running);
        Some(own.map_or(first, |(_, watch)| watch))
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("oz_worker") && *metadata.level() <= tracing::Level::DEBUG
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let Some(watch) = self.watch() else { return };
        watch.journal.note(|| {
            let mut text = format!("worker: {} {}", event.metadata().level(), line.message);
            for (name, value) in &line.fields {
                let _ = write!(text, " {name}={value}");
            }
            text
        });
        // What an operator does not see is no line of the log.
        watch.heard(&line, *event.metadata().level() == tracing::Level::DEBUG);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
