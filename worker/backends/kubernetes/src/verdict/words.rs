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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_reason_and_a_message_what_is_there_is_said() {
        for (reason, message, expected) in [
            ("OOMKilled", "too much", "OOMKilled: too much"),
            (" OOMKilled\n", "", "OOMKilled"),
            ("", " too much ", "too much"),
            ("", "", ""),
        ] {
            assert_eq!(said(reason, message), expected);
        }
        let long = "x".repeat(LONGEST_TEXT);
        assert_eq!(said("", &long), long);
        assert_eq!(said("", &format!("{long}y")), format!("{long}…"));
    }

    #[test]
    fn an_end_is_told_with_what_says_more_than_its_code() {
        for (reason, message, expected) in [
            ("", "", "exited with 3"),
            ("Error", "", "exited with 3"),
            ("Completed", "", "exited with 3"),
            ("Error", "no disk", "exited with 3 (Error: no disk)"),
            ("OOMKilled", "", "exited with 3 (OOMKilled)"),
        ] {
            let ended = Terminated { exit_code: 3, reason: reason.into(), message: message.into(), finished_at: None };
            assert_eq!(exited(&ended), expected);
        }
    }
}
