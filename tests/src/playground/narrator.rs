//! How the playground's story reads: who says what, in words.

use serde_json::Value;

use crate::{
    connection::Received,
    control_plane::{
        Event,
        print::{BAD, GOOD, PLAIN, Printer, QUIET, SENT},
    },
    worker::Worker,
};

/// Samples that say what the story did.
const TELLING: [&str; 6] = [
    "oz_worker_connected",
    "oz_worker_tasks_active",
    "oz_worker_tasks_claimed_total",
    "oz_worker_tasks_rejected_total",
    "oz_worker_tasks_completed_total",
    "oz_worker_websocket_reconnects_total",
];

/// Tells the story on standard output.
#[derive(Debug, Clone, Copy)]
pub struct Narrator {
    printer: Printer,
}

impl Narrator {
    /// In colour when standard output is a terminal.
    pub fn on_stdout() -> Self {
        Self { printer: Printer::for_stdout() }
    }

    /// A sentence of the narrator's.
    pub fn say(self, text: &str) {
        self.speak("", PLAIN, text);
    }

    /// What comes next.
    pub fn chapter(self, title: &str) {
        println!();
        self.speak("", "1", title);
    }

    /// Text to copy, alone on its line.
    pub fn plain(self, text: &str) {
        println!("    {text}");
    }

    /// A line of the worker's log.
    pub fn quote(self, line: &str) {
        self.speak("log", QUIET, line);
    }

    /// What happened between control plane and worker.
    pub fn report(self, event: &Event) {
        match event {
            Event::Connected { worker, .. } => self.speak("worker", GOOD, &format!("{worker} is connected")),
            Event::Disconnected { worker } => self.speak("worker", BAD, &format!("{worker} is disconnected")),
            Event::Refused { problem } => self.speak("server", BAD, &format!("refuses a dial: {problem}")),
            Event::Sent { message } => {
                let verb = if is(message, "task_cancellation") { "cancels" } else { "assigns" };
                self.speak("server", SENT, &format!("{verb} {}", says(message, "task_id")));
            }
            Event::Came { frame: Received::Text(text) } => match serde_json::from_str(text) {
                Ok(message) => self.message(&message),
                Err(_) => self.speak("worker", BAD, text),
            },
            // The Ping after a result is the worker's way to know that the result has arrived.
            Event::Came { frame: Received::Ping(_) } => self.speak("worker", QUIET, "Ping (answered)"),
            Event::Came { frame: Received::Close(code, _) } => {
                let code = code.map_or_else(String::new, |code| format!(" with code {code}"));
                self.speak("worker", PLAIN, &format!("closes the connection{code}"));
            }
            Event::Came { .. } => {}
        }
    }

    fn message(self, message: &Value) {
        let task = says(message, "task_id");
        if is(message, "task_claimed") {
            self.speak("worker", GOOD, &format!("claims {task}"));
        } else if is(message, "task_rejected") {
            self.speak("worker", BAD, &format!("rejects {task}: {}", says(message, "reason")));
        } else if is(message, "task_failed") {
            let code =
                message.pointer("/data/exit_code").map_or_else(String::new, |code| format!(", exit code {code}"));
            let (reason, text) = (says(message, "failure_reason"), says(message, "message"));
            self.speak("worker", BAD, &format!("{task} failed ({reason}{code}): {text}"));
        } else {
            self.speak("worker", GOOD, &format!("{task}: {}", says(message, "message")));
        }
    }

    /// Where the worker's metrics are, and those that the story moved.
    pub fn metrics(self, worker: &Worker) {
        self.say(&format!("http://{}/metrics", worker.metrics_address()));
        for (name, family) in &worker.scrape().families {
            if !TELLING.contains(&name.as_str()) {
                continue;
            }
            for ((sample, labels), value) in &family.samples {
                let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
                let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
                self.plain(&format!("{sample}{labels} {value}"));
            }
        }
    }

    fn speak(self, who: &str, colour: &str, text: &str) {
        self.printer.line(colour, &format!("{who:>6}  {text}"));
    }
}

fn is(message: &Value, kind: &str) -> bool {
    message.get("type").is_some_and(|value| value == kind)
}

fn says<'a>(message: &'a Value, field: &str) -> &'a str {
    message.get("data").and_then(|data| data.get(field)).and_then(Value::as_str).unwrap_or_default()
}
