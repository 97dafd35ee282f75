//! What earlier workers with the same id left, whatever it runs on: which of it counts, and whether its worker lives.

use std::cmp::Reverse;

use oz_worker_runtime::{Files, Host, Lane, Machine, Owner};

use crate::Earlier;

/// A task that an earlier worker started, and what it left of it: a container, a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left<T> {
    pub task: Earlier,
    pub thing: T,
}

/// Of each task the execution that was started last, from the oldest on; and all others. The last one is what the server asks
/// for.
pub fn newest<T>(mut all: Vec<Left<T>>) -> (Vec<Left<T>>, Vec<Left<T>>) {
    all.sort_by_key(|left| Reverse(left.task.started));
    let (mut newest, mut others): (Vec<Left<T>>, Vec<Left<T>>) = (Vec::new(), Vec::new());
    for left in all {
        let is_later = |other: &Left<T>| other.task.task_id == left.task.task_id;
        if newest.iter().any(is_later) { &mut others } else { &mut newest }.push(left);
    }
    newest.reverse();
    (newest, others)
}

/// Whether the process with this [mark](Owner::mark) is known to be dead, or a zombie.
pub async fn is_dead<R: Host>(runtime: &R, owner: &Owner, mark: &str) -> bool {
    let (owner, mark) = (owner.clone(), mark.to_owned());
    runtime.on(Lane::Start, move |machine| machine.files().is_stale(&owner, &mark)).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_each_task_the_last_execution_counts() {
        let left = |task_id: &str, started, thing| Left {
            task: Earlier { task_id: task_id.into(), execution_id: None, started: Duration::from_secs(started) },
            thing,
        };
        let (newest, others) = newest(vec![left("a", 1, 1), left("b", 2, 2), left("a", 3, 3), left("a", 2, 4)]);
        assert_eq!(newest.iter().map(|left| left.thing).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(others.iter().map(|left| left.thing).collect::<Vec<_>>(), [4, 1]);
    }
}
