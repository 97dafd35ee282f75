//! What a real cluster (Kubernetes 1.34) told of tasks that ended in every way that one can bring about there, and which end it
//! was. A kubelet that refuses, a lost node and a preemption were not recorded: their statuses are in the tables beside this.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::*;

#[derive(Deserialize)]
struct Recorded {
    case: String,
    /// `completed`, or the reason and the exit code of the failure.
    end: Vec<Value>,
    events: Vec<Event>,
    /// Job and Pod as they were seen, in this order.
    steps: Vec<Told>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Job(Value),
    GoneJob(IgnoredAny),
    Pod(Value),
    GonePod(Value),
}

#[test]
fn every_recorded_history_has_its_end() {
    let recorded: Vec<Recorded> = serde_json::from_str(include_str!("recorded.json")).expect("histories");
    assert_eq!(recorded.len(), 19);
    for Recorded { case, end, events, steps } in recorded {
        let steps: Vec<(u64, Step)> = (1..)
            .zip(steps)
            .map(|(second, told)| match told {
                Told::Job(job) => (second, Step::Job(job)),
                Told::GoneJob(_) => (second, JobGone),
                Told::Pod(pod) => (second, Step::Pod(pod)),
                Told::GonePod(pod) => (second, PodGone(Some(pod))),
            })
            .collect();
        let (_, ending) = played(&steps, &events);
        let found = match failure(ending.as_ref()) {
            Some((reason, 0, _)) => vec![json!(reason.as_str())],
            Some((reason, code, _)) => vec![json!(reason.as_str()), json!(code)],
            None => vec![json!(ending.map(|ending| ending.outcome) == Some(Outcome::Completed)), json!("completed")],
        };
        let expected = if end == [json!("completed")] { vec![json!(true), json!("completed")] } else { end };
        assert_eq!(found, expected, "{case}");
    }
}
