//! A receiver of spans over OTLP/HTTP as JSON: what the worker exports about its tasks.
// Looking into JSON by name is no look outside.
#![allow(clippy::indexing_slicing)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use serde_json::Value;
use tiny_http::{Header, Response, Server};

use crate::{BOUND, worker::Launch};

#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The same; empty when the span has no parent.
    pub parent_span_id: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// The same.
    pub end: u64,
    /// `ok`, `error: …` or `unset`.
    pub status: String,
    /// Texts by name.
    pub attributes: BTreeMap<String, String>,
    /// What happened, in the order of the export.
    pub events: Vec<SpanEvent>,
    /// Who it is from: texts by name.
    pub resource: BTreeMap<String, String>,
}

/// Something that happened within a span.
#[derive(Debug, Clone)]
pub struct SpanEvent {
    pub name: String,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Texts by name.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    pub fn task_id(&self) -> &str {
        self.attributes.get("task.id").map_or("", String::as_str)
    }

    pub fn event_names(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.name.as_str()).collect()
    }

    /// Its event of this name, which it must have.
    pub fn event(&self, name: &str) -> &SpanEvent {
        self.events.iter().find(|event| event.name == name).unwrap_or_else(|| panic!("no event {name} in {self:#?}"))
    }

    /// The trace context that its task must see.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }

    fn parse(span: &Value, resource: &Value) -> Self {
        let text = |field: &str| span[field].as_str().unwrap_or_default().to_owned();
        let status = match span["status"]["code"].as_i64().unwrap_or_default() {
            0 => "unset".to_owned(),
            1 => "ok".to_owned(),
            _ => format!("error: {}", span["status"]["message"].as_str().unwrap_or_default()),
        };
        let events = span["events"].as_array().into_iter().flatten().map(|event| SpanEvent {
            name: event["name"].as_str().unwrap_or_default().to_owned(),
            time: nanoseconds(&event["timeUnixNano"]),
            attributes: texts(&event["attributes"]),
        });
        Self {
            name: text("name"),
            trace_id: text("traceId"),
            span_id: text("spanId"),
            parent_span_id: text("parentSpanId"),
            start: nanoseconds(&span["startTimeUnixNano"]),
            end: nanoseconds(&span["endTimeUnixNano"]),
            status,
            attributes: texts(&span["attributes"]),
            events: events.collect(),
            resource: texts(&resource["attributes"]),
        }
    }
}

/// A number of 64 bits, which JSON of Protocol Buffers writes as text.
fn nanoseconds(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no time: {value}"))
}

fn texts(attributes: &Value) -> BTreeMap<String, String> {
    let attributes = attributes.as_array().into_iter().flatten();
    let text = |value: &Value| value["stringValue"].as_str().unwrap_or_default().to_owned();
    attributes.map(|pair| (pair["key"].as_str().unwrap_or_default().to_owned(), text(&pair["value"]))).collect()
}

type Received = Arc<(Mutex<Vec<Span>>, Condvar)>;

/// A collector as far as spans go. Dropping it ends it.
pub struct SpanReceiver {
    server: Arc<Server>,
    received: Received,
    serving: Option<JoinHandle<()>>,
}

impl SpanReceiver {
    /// On an ephemeral port of this machine.
    pub fn start() -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").expect("an ephemeral port"));
        let received = Received::default();
        let json = Header::from_bytes("Content-Type", "application/json").expect("a header");
        let (serving, to) = (Arc::clone(&server), Arc::clone(&received));
        let serving = thread::spawn(move || {
            for mut request in serving.incoming_requests() {
                let mut body = String::new();
                let export = request.as_reader().read_to_string(&mut body).ok().and_then(|_| body.parse().ok());
                let status = if request.url() == "/v1/traces" && export.is_some() { 200 } else { 400 };
                let mut spans = to.0.lock().unwrap_or_else(PoisonError::into_inner);
                spans.extend(spans_of(&export.unwrap_or_default()));
                to.1.notify_all();
                drop(spans);
                let answer = Response::from_string("{}").with_status_code(status).with_header(json.clone());
                let _ = request.respond(answer);
            }
        });
        Self { server, received, serving: Some(serving) }
    }

    /// Makes a worker trace, and export here what it traces at once.
    pub fn trace(&self, launch: Launch) -> Launch {
        let address = self.server.server_addr();
        launch
            .env("OTEL_TRACES_EXPORTER", "otlp")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn span_of(&self, task_id: &str) -> Span {
        self.wait_for("oz_worker.task", task_id)
    }

    /// Waits for a span of this name about a task.
    pub fn wait_for(&self, name: &str, task_id: &str) -> Span {
        let deadline = Instant::now() + BOUND;
        let mut spans = self.received.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(span) = spans.iter().find(|span| span.name == name && span.task_id() == task_id) {
                return span.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no span {name} of {task_id}, but {spans:#?}");
            spans = self.received.1.wait_timeout(spans, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for SpanReceiver {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

pub(crate) fn spans_of(export: &Value) -> Vec<Span> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let mut spans = Vec::new();
    for resource_spans in list(export, "resourceSpans") {
        for scope_spans in list(&resource_spans, "scopeSpans") {
            let scope = list(&scope_spans, "spans");
            spans.extend(scope.iter().map(|span| Span::parse(span, &resource_spans["resource"])));
        }
    }
    spans
}
