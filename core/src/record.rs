//! What the worker must remember across a crash: one record for each step that a restart has to know of.
//!
//! The state machine says what is to be recorded ([`Output::Persist`](crate::Output::Persist)) and can be built from the
//! records again ([`Worker::restored`](crate::Worker::restored)). Where they are kept, how old they are and when they are
//! safe is the business of whoever drives it. No record holds a variable's value, a prompt or a key.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// One step in a task's life. The JSON is that of a file which outlives this version: a name is never given a new meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Record {
    /// The task took a slot. Safe before the claim is sent and before anything of the task runs.
    Claimed { task_id: String, execution_id: Option<String> },
    /// The dispatch command is about to run. Safe before it does.
    Dispatching { task_id: String },
    /// The user cancelled the task. Safe before it is stopped.
    CancelAsked { task_id: String },
    /// The task ended. Safe before that is told.
    Finished {
        task_id: String,
        execution_id: Option<String>,
        /// The message that ends it at the server, exactly as it is sent.
        message: String,
    },
    /// A remote runtime has the task, and reports its end itself.
    Dispatched { task_id: String, execution_id: Option<String> },
    /// The server has proven that it knows the end. To lose this record costs one message that is sent twice.
    Told { task_id: String, execution_id: Option<String> },
    /// The end is not told any more: the server moved on to another execution, or too much time has passed.
    Forgotten { task_id: String },
}

impl Record {
    /// The record as one line of JSON.
    pub fn encode(&self) -> String {
        // Strings only: there is nothing in it that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) made; `None` when it is no record that this version knows.
    pub fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_record_stays_what_it_is() {
        let (task_id, execution_id) = (String::from("T"), Some(String::from("e")));
        let ids = || (task_id.clone(), execution_id.clone());
        let records = [
            (
                Record::Claimed { task_id: ids().0, execution_id: None },
                r#"{"claimed":{"task_id":"T","execution_id":null}}"#,
            ),
            (Record::Dispatching { task_id: ids().0 }, r#"{"dispatching":{"task_id":"T"}}"#),
            (Record::CancelAsked { task_id: ids().0 }, r#"{"cancel_asked":{"task_id":"T"}}"#),
            (
                Record::Finished { task_id: ids().0, execution_id: ids().1, message: r#"{"a":"\n"}"#.into() },
                r#"{"finished":{"task_id":"T","execution_id":"e","message":"{\"a\":\"\\n\"}"}}"#,
            ),
            (
                Record::Dispatched { task_id: ids().0, execution_id: ids().1 },
                r#"{"dispatched":{"task_id":"T","execution_id":"e"}}"#,
            ),
            (
                Record::Told { task_id: ids().0, execution_id: ids().1 },
                r#"{"told":{"task_id":"T","execution_id":"e"}}"#,
            ),
            (Record::Forgotten { task_id: ids().0 }, r#"{"forgotten":{"task_id":"T"}}"#),
        ];
        for (record, json) in records {
            assert_eq!(record.encode(), json);
            assert_eq!(Record::decode(json), Some(record));
        }
    }

    #[test]
    fn what_is_no_record_is_none_and_a_field_of_a_later_version_is_ignored() {
        for text in ["", "{", "[]", "null", r#"{"else":{}}"#, r#"{"told":{}}"#, r#"{"forgotten":{"task_id":7}}"#] {
            assert_eq!(Record::decode(text), None, "{text}");
        }
        let later = r#"{"claimed":{"task_id":"T","container":"c"}}"#;
        assert_eq!(Record::decode(later), Some(Record::Claimed { task_id: "T".into(), execution_id: None }));
    }
}
