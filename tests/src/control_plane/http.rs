//! The control plane's own HTTP interface: assign and cancel with `curl`, see what became of it.

use std::{io, net::SocketAddr, sync::Arc, thread};

use serde_json::Value;
use tiny_http::{Header, Method, Request, Response, Server};

use super::{ControlPlane, SendError};

/// Largest assignment taken: what one frame to a worker may hold (`docs/protocol.md`).
const MAX_BODY: u64 = 16 << 20;

const USAGE: &str = "\
POST /assign         the body is an assignment: {\"task_id\": \"T1\", \"task\": {…}}
POST /cancel/TASK_ID  cancel a task
POST /drop           drop the worker's connection, as a failing network would
GET  /tasks          what became of every task
";

/// An answer: status and body.
type Answer = (u16, String);

/// Serves on `address` until the process ends; gives the address that it got.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(plane: ControlPlane, address: &str) -> io::Result<SocketAddr> {
    let server = Arc::new(Server::http(address).map_err(io::Error::other)?);
    let bound = server.server_addr().to_ip().ok_or(io::ErrorKind::AddrNotAvailable)?;
    thread::spawn(move || {
        while let Ok(mut request) = server.recv() {
            let (status, body) = answer(&plane, &mut request);
            let kind = if body.starts_with(['[', '{']) { "application/json" } else { "text/plain; charset=utf-8" };
            let mut response = Response::from_string(body).with_status_code(status);
            if let Ok(header) = Header::from_bytes("Content-Type", kind) {
                response = response.with_header(header);
            }
            // A client that is gone does not want the answer.
            let _ = request.respond(response);
        }
    });
    Ok(bound)
}

fn answer(plane: &ControlPlane, request: &mut Request) -> Answer {
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    match (request.method(), path.as_str()) {
        (Method::Get, "/") => (200, USAGE.to_owned()),
        (Method::Get, "/tasks") => {
            let tasks: Vec<Value> = plane.tasks().iter().map(super::Task::to_json).collect();
            (200, format!("{:#}\n", Value::from(tasks)))
        }
        (Method::Post, "/assign") => assign(plane, request),
        (Method::Post, "/drop") => sent(plane.cut(), "dropped the worker's connection"),
        (Method::Post, path) => match path.strip_prefix("/cancel/").map(percent_decoded) {
            Some(Some(task_id)) => sent(plane.cancel(&task_id), &format!("told the worker to cancel {task_id}")),
            Some(None) => (400, format!("{path} is not percent-encoded UTF-8\n")),
            None => (404, format!("there is no POST {path} here, but:\n{USAGE}")),
        },
        (method, path) => (404, format!("there is no {method} {path} here, but:\n{USAGE}")),
    }
}

fn assign(plane: &ControlPlane, request: &mut Request) -> Answer {
    let mut body = String::new();
    // One byte more than allowed, to tell a full body from a cut one.
    match io::Read::read_to_string(&mut io::Read::take(request.as_reader(), MAX_BODY + 1), &mut body) {
        Ok(length) if length as u64 > MAX_BODY => {
            return (413, "a frame to a worker holds 16 MiB at most\n".to_owned());
        }
        Ok(_) => {}
        Err(error) => return (400, format!("the body is not UTF-8 text: {error}\n")),
    }
    match serde_json::from_str(&body) {
        Ok(assignment) => match plane.assign(assignment) {
            Ok(task_id) => (200, format!("assigned {task_id}\n")),
            Err(error) => refused(&error),
        },
        Err(error) => (400, format!("the body is not JSON: {error}; with curl: -d @task.json\n")),
    }
}

fn sent(result: Result<(), SendError>, done: &str) -> Answer {
    match result {
        Ok(()) => (200, format!("{done}\n")),
        Err(error) => refused(&error),
    }
}

fn refused(error: &SendError) -> Answer {
    let status = if matches!(error, SendError::NoTaskId) { 400 } else { 409 };
    (status, format!("{error}\n"))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match (first, after.split_at_checked(2)) {
            (b'%', Some((digits, after))) => {
                rest = after;
                u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?
            }
            (b'%', None) => return None,
            (byte, _) => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
