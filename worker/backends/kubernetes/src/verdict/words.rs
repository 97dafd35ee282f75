//! What the cluster says, as far as a failure repeats it.

use oz_worker_text::line::beginning;

use crate::objects::Terminated;

/// How many characters of any of the cluster's texts are repeated.
pub const LONGEST_TEXT: usize = 500;

pub fn exited(ended: &Terminated) -> String {
    let said = match ended.reason.as_str() {
        "" | "Error" | "Completed" if ended.message.is_empty() => String::new(),
        reason => format!(" ({})", said(reason, &ended.message)),
    };
    format!("exited with {}{said}", ended.exit_code)
}

/// A reason and a message of the cluster's, as far as they are there.
pub fn said(reason: &str, message: &str) -> String {
    let (reason, message) = (beginning(reason.trim(), LONGEST_TEXT), beginning(message.trim(), LONGEST_TEXT));
    match (reason.is_empty(), message.is_empty()) {
        (true, _) => message,
        (_, true) => reason,
        _ => format!("{reason}: {message}"),
    }
}
