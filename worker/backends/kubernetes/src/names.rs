//! What a Job is called, and the labels by which it is found: made of ids that may be any text.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

/// The longest name of a Job, since its Pods carry it as a label; and the longest value of a label.
const LONGEST: usize = 63;
/// How many characters of the execution's id stand in a Job's name.
const EXECUTION_END: usize = 8;
/// How many hex digits of a hash are used.
const HASH_DIGITS: usize = 16;
/// Tells the names of two ids apart that are alike once they are cleaned. Half a hash is enough among the Jobs of a namespace.
const MARK_DIGITS: usize = 8;

/// The label with the hash of the worker's id: what the watches ask for.
pub const WORKER_HASH: &str = "oz-worker-hash";
pub const TASK_HASH: &str = "oz-task-hash";
pub const EXECUTION_HASH: &str = "oz-execution-hash";

/// Annotations that hold what a later worker must know to take a Job up.
pub const TASK_ID: &str = "oz-agent-worker/task-id";
pub const EXECUTION_ID: &str = "oz-agent-worker/execution-id";
/// The process that follows the Job.
pub const INSTANCE: &str = "oz-agent-worker/instance";
/// There once the server is known to have heard how the Job's task ended.
pub const TOLD: &str = "oz-agent-worker/told";
/// What all of these begin with.
pub const OWN: &str = "oz-agent-worker/";

/// Whose a Job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    worker: &'a str,
    task: &'a str,
    execution: &'a str,
}

/// Whose a Job is that has the name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This very execution's.
    Ours,
    /// Another task's or execution's whose ids are alike once they are cleaned.
    Namesake,
    /// Nobody's that we know, or the same execution's with another worker.
    Foreign,
}

impl<'a> Identity<'a> {
    /// A task that has no execution is its own.
    pub fn new(worker_id: &'a str, task_id: &'a str, execution_id: Option<&'a str>) -> Self {
        let execution = execution_id.filter(|id| !id.trim().is_empty()).unwrap_or(task_id);
        Self { worker: worker_id, task: task_id, execution }
    }

    pub const fn task_id(&self) -> &'a str {
        self.task
    }

    pub const fn execution_id(&self) -> &'a str {
        self.execution
    }

    /// `oz-task-<task>-exec-<end of the execution>`.
    pub fn job_name(&self) -> String {
        self.name("")
    }

    /// The same with a hash of both ids, for when a [namesake](Standing::Namesake) has the plain name.
    pub fn distinct_job_name(&self) -> String {
        let both = hash(&format!("{}\0{}", self.task, self.execution));
        self.name(&format!("-{}", both.get(..MARK_DIGITS).unwrap_or(&both)))
    }

    fn name(&self, mark: &str) -> String {
        let execution: Vec<char> = self.execution.chars().collect();
        let end = execution.get(execution.len().saturating_sub(EXECUTION_END)..).unwrap_or(&execution);
        let end = dns_safe(&end.iter().collect::<String>(), EXECUTION_END, self.execution);
        let room = LONGEST - "oz-task--exec-".len() - mark.len() - end.len();
        format!("oz-task-{}{mark}-exec-{end}", dns_safe(self.task, room, self.task))
    }

    /// What Job and Pod are labelled with: each id as far as a label can hold it, and the hash of the whole.
    pub fn labels(&self) -> [(&'static str, String); 6] {
        [
            ("oz-worker-id", label_safe(self.worker)),
            (WORKER_HASH, hash(self.worker)),
            ("oz-task-id", label_safe(self.task)),
            (TASK_HASH, hash(self.task)),
            ("oz-execution-id", label_safe(self.execution)),
            (EXECUTION_HASH, hash(self.execution)),
        ]
    }

    /// Whose the Job with these labels is.
    pub fn standing(&self, labels: &BTreeMap<String, String>) -> Standing {
        let label = |name: &str| labels.get(name).map(String::as_str);
        let hashes = [self.worker, self.task, self.execution].map(hash);
        match (label(WORKER_HASH), label(TASK_HASH), label(EXECUTION_HASH)) {
            (Some(worker), Some(task), Some(execution)) if [worker, task, execution] == hashes => Standing::Ours,
            (Some(_), Some(task), Some(execution)) if [task, execution] != [&hashes[1], &hashes[2]] => {
                Standing::Namesake
            }
            _ => Standing::Foreign,
        }
    }
}

/// What tells one id from every other: the first 16 hex digits of its SHA-256.
pub fn hash(text: &str) -> String {
    let mut hex = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
    hex.truncate(HASH_DIGITS);
    hex
}

/// At most `room` letters, digits and dashes of a text, neither the first nor the last a dash; of `whole`'s hash when nothing
/// is left.
fn dns_safe(text: &str, room: usize, whole: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut clean: String = text.chars().map(safe).skip_while(|c| *c == '-').take(room).collect();
    clean.truncate(clean.trim_end_matches('-').len());
    if clean.is_empty() {
        clean = hash(whole);
        clean.truncate(room.min(MARK_DIGITS));
    }
    clean
}

/// As much of a text as the value of a label can hold, in lower case.
fn label_safe(text: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c.to_ascii_lowercase() } else { '-' }
    };
    let mut clean: String = text.chars().map(safe).skip_while(|c| !c.is_ascii_alphanumeric()).take(LONGEST).collect();
    clean.truncate(clean.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len());
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(identity: &Identity<'_>) -> BTreeMap<String, String> {
        identity.labels().map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }

    fn is_dns_label(name: &str) -> bool {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        name.len() <= LONGEST && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
    }

    #[test]
    fn ids_of_any_script_give_names() {
        for (task, execution, expected) in [
            ("T1", None, "oz-task-t1-exec-t1"),
            ("T1", Some("  "), "oz-task-t1-exec-t1"),
            ("a.b", Some("x.12345678"), "oz-task-a-b-exec-12345678"),
            ("-x-", Some("e-------"), "oz-task-x-exec-e"),
            ("日本語", Some("語"), "oz-task-77710aed-exec-de7754f7"),
        ] {
            assert_eq!(Identity::new("w1", task, execution).job_name(), expected);
        }
    }

    #[test]
    fn a_task_without_an_execution_is_its_own() {
        for (execution, expected) in [(Some("e1"), "e1"), (None, "T1"), (Some(" "), "T1")] {
            let identity = Identity::new("w1", "T1", execution);
            assert_eq!((identity.task_id(), identity.execution_id()), ("T1", expected));
        }
    }

    #[test]
    fn another_workers_job_for_the_same_execution_is_foreign() {
        let ours = Identity::new("w1", "T1", Some("e1"));
        let standing = |worker, task, execution| ours.standing(&labels(&Identity::new(worker, task, Some(execution))));
        assert_eq!(standing("w1", "T1", "e1"), Standing::Ours);
        assert_eq!(standing("w2", "T1", "e1"), Standing::Foreign);
        assert_eq!(standing("w1", "t1", "e1"), Standing::Namesake);
        assert_eq!(standing("w1", "T1", "e2"), Standing::Namesake);
        assert_eq!(ours.standing(&BTreeMap::new()), Standing::Foreign);
    }

    proptest! {
        #[test]
        fn every_name_and_label_is_valid_and_tells_its_task_apart(
            one in ".{1,90}", other in ".{1,90}", execution in proptest::option::of(".{0,90}")
        ) {
            let [one, other] = [&one, &other].map(|task| Identity::new("w", task, execution.as_deref()));
            for name in [one.job_name(), one.distinct_job_name()] {
                prop_assert!(is_dns_label(&name), "{name}");
            }
            for (_, value) in one.labels() {
                prop_assert!(value.len() <= LONGEST && value.is_ascii(), "{value}");
                prop_assert!(value.is_empty() || value.starts_with(|c: char| c.is_ascii_alphanumeric()), "{value}");
                prop_assert!(value.is_empty() || value.ends_with(|c: char| c.is_ascii_alphanumeric()), "{value}");
            }
            prop_assert_eq!(one.standing(&labels(&one)), Standing::Ours);
            if one.task_id() != other.task_id() {
                prop_assert_ne!(one.distinct_job_name(), other.distinct_job_name());
                prop_assert_eq!(one.standing(&labels(&other)), Standing::Namesake);
            }
        }
    }
}
