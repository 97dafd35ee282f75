//! One readable line per event, with the time; coloured only on a terminal.

use std::{
    io::IsTerminal,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::Event;
use crate::connection::Received;

/// Turns what happens into lines for a person.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    colour: bool,
}

/// ANSI colours, by what they say.
pub(crate) const PLAIN: &str = "0";
pub(crate) const QUIET: &str = "2";
pub(crate) const GOOD: &str = "32";
pub(crate) const BAD: &str = "31";
pub(crate) const SENT: &str = "36";

impl Printer {
    /// For standard output: in colour when that is a terminal, and `NO_COLOR` is not set.
    pub fn for_stdout() -> Self {
        Self { colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Prints an event to standard output.
    pub fn print(self, event: &Event) {
        let (colour, text) = match event {
            Event::Connected { worker, peer } => (GOOD, format!("   worker {worker} connected from {peer}")),
            Event::Disconnected { worker } => (BAD, format!("   worker {worker} is disconnected")),
            Event::Refused { problem } => (BAD, format!("   somebody dialled who is no worker: {problem}")),
            Event::Sent { message } => (SENT, format!("-> {}", message_line(message))),
            Event::Came { frame } => frame_line(frame),
        };
        self.line(colour, &text);
    }

    /// Prints a line of the program's own.
    pub fn say(self, text: &str) {
        self.line(PLAIN, &format!("   {text}"));
    }

    /// Prints a line in one of the colours of this module.
    pub(crate) fn line(self, colour: &str, text: &str) {
        let time = time_of_day(SystemTime::now());
        // What came from a peer must not drive the terminal.
        let text: String = text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect();
        if self.colour {
            println!("\x1b[{QUIET}m{time}\x1b[0m \x1b[{colour}m{text}\x1b[0m");
        } else {
            println!("{time} {text}");
        }
    }
}

fn frame_line(frame: &Received) -> (&'static str, String) {
    match frame {
        Received::Text(text) => match serde_json::from_str::<Value>(text) {
            Ok(message) => {
                let is_bad =
                    matches!(message.get("type").and_then(Value::as_str), Some("task_failed" | "task_rejected"));
                (if is_bad { BAD } else { GOOD }, format!("<- {}", message_line(&message)))
            }
            Err(error) => (BAD, format!("<- not JSON ({error}): {text}")),
        },
        Received::Ping(payload) => (QUIET, format!("<- Ping {} (answered)", payload.escape_ascii())),
        Received::Pong(payload) => (QUIET, format!("<- Pong {}", payload.escape_ascii())),
        Received::Close(Some(code), reason) => (PLAIN, format!("<- Close {code} {reason}")),
        Received::Close(None, _) => (PLAIN, "<- Close".to_owned()),
        Received::End => (BAD, "<- the connection ended without a Close frame".to_owned()),
        Received::Broken(how) => (BAD, format!("<- broke the WebSocket protocol: {how}")),
    }
}

/// Type first, then the data. The values of a task's environment are nobody's to read.
fn message_line(message: &Value) -> String {
    let mut data = message.get("data").cloned().unwrap_or(Value::Null);
    if let Some(variables) = data.get_mut("env_vars").and_then(Value::as_object_mut) {
        for value in variables.values_mut() {
            *value = "***".into();
        }
    }
    match message.get("type").and_then(Value::as_str) {
        Some(kind) => format!("{kind} {data}"),
        None => message.to_string(),
    }
}

/// `HH:MM:SS.mmm`, UTC.
fn time_of_day(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_millis())
}
