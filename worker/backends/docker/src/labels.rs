//! Whose a container or a volume is: the labels and names by which workers know what is theirs, also after a crash.

use serde_json::{Map, Value};

use super::instance::is_instance;

/// The id of the worker that made it.
pub const WORKER_ID: &str = "oz-agent-worker.worker-id";
/// The process that made it, as `instance.rs` writes it.
pub const INSTANCE: &str = "oz-agent-worker.instance";
pub const TASK_ID: &str = "oz-agent-worker.task-id";
/// Which of the containers that its process made it is: names are given again.
pub const CREATION: &str = "oz-agent-worker.creation";
pub const EXECUTION_ID: &str = "oz-agent-worker.execution-id";
/// On a volume with a sidecar's files, and on the container that fills it: the digest of the image.
pub const SIDECAR: &str = "oz-agent-worker.sidecar";
/// On the container that fills a volume: the volume's name.
pub const VOLUME: &str = "oz-agent-worker.volume";

/// Where the container that fills a volume has it.
pub const FILLED_AT: &str = "/oz-agent-worker-sidecar";

/// A container that fills a volume is named so and after the volume. An engine gives a name once: of all workers on it, one
/// fills.
const FILLING: &str = "oz-agent-worker.filling.";
/// The same container once the volume is whole. While it is there no engine removes the volume.
const WHOLE: &str = "oz-agent-worker.whole.";
/// A container that is a task's, or fills a volume, is named so, after its worker's instance and a number.
const MADE: &str = "oz-agent-worker.made.";
/// A container that a later worker took up is named so, after that worker's instance and its own id.
const TAKEN_UP: &str = "oz-agent-worker.taken-up.";
/// A container that was kept although its end was told.
const TOLD: &str = "oz-agent-worker.told.";

/// The worker that makes something.
#[derive(Debug, Clone, Copy)]
pub struct Owned<'a> {
    pub worker_id: &'a str,
    /// The process, as `instance.rs` writes it.
    pub instance: &'a str,
}

pub fn of_worker(owned: &Owned<'_>) -> Map<String, Value> {
    [(WORKER_ID, owned.worker_id), (INSTANCE, owned.instance)]
        .map(|(name, value)| (name.into(), value.into()))
        .into_iter()
        .collect()
}

pub fn of_task(owned: &Owned<'_>, task_id: &str, execution_id: Option<&str>) -> Map<String, Value> {
    let mut labels = of_worker(owned);
    labels.insert(TASK_ID.into(), task_id.into());
    labels.insert(EXECUTION_ID.into(), execution_id.unwrap_or_default().into());
    labels
}

pub fn of_filler(owned: &Owned<'_>, volume: &str, digest: &str) -> Map<String, Value> {
    let mut labels = of_worker(owned);
    labels.insert(VOLUME.into(), volume.into());
    labels.insert(SIDECAR.into(), digest.into());
    labels
}

pub fn filling(volume: &str) -> String {
    format!("{FILLING}{volume}")
}

pub fn made(instance: &str, number: u64) -> String {
    format!("{MADE}{instance}.{number}")
}

pub fn whole(volume: &str) -> String {
    format!("{WHOLE}{volume}")
}

pub fn taken_up(instance: &str, container: &str) -> String {
    format!("{TAKEN_UP}{instance}.{}", short(container))
}

pub fn told(container: &str) -> String {
    format!("{TOLD}{}", short(container))
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

/// The volume that a container with one of these names keeps whole.
pub fn whole_volume(names: &[String]) -> Option<&str> {
    names.iter().find_map(|name| name.trim_start_matches('/').strip_prefix(WHOLE))
}

/// What the names of a container say of who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// The worker whose label `instance` it has.
    Maker,
    /// A later one, this instance.
    Later(&'a str),
    /// Nobody: its end was told.
    Nobody,
}

pub fn holder(names: &[String]) -> Holder<'_> {
    for name in names {
        let name = name.trim_start_matches('/');
        if name.starts_with(TOLD) {
            return Holder::Nobody;
        }
        if let Some((instance, _)) = name.strip_prefix(TAKEN_UP).and_then(|rest| rest.rsplit_once('.'))
            && is_instance(instance)
        {
            return Holder::Later(instance);
        }
    }
    Holder::Maker
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_say_who_has_a_container() {
        let mark = "0123456789abcdef.fedcba9876543210.00000000deadbeef.5.12.34";
        let names = |name: String| vec![format!("/{name}")];
        assert_eq!(holder(&names(taken_up(mark, ID))), Holder::Later(mark));
        let contained = format!("{mark}-{ID}-20261126");
        assert_eq!(holder(&names(taken_up(&contained, ID))), Holder::Later(&contained));
        assert_eq!(holder(&names(told(ID))), Holder::Nobody);
        assert_eq!(holder(&names(format!("{TAKEN_UP}x.y"))), Holder::Maker);
        assert_eq!(holder(&names("happy_curie".into())), Holder::Maker);
        assert_eq!(holder(&[]), Holder::Maker);
        assert_eq!(whole_volume(&names(whole("a.b-c"))), Some("a.b-c"));
        assert_eq!(whole_volume(&names(filling("a.b-c"))), None);
        assert_eq!(told("short"), "oz-agent-worker.told.short");
    }

    #[test]
    fn names_and_labels_say_whose_a_container_is_and_what_for() {
        let owned = Owned { worker_id: "w1", instance: "i" };
        assert_eq!(filling("v"), "oz-agent-worker.filling.v");
        assert_eq!(made("i", 7), "oz-agent-worker.made.i.7");
        let labels = |labels: Map<String, Value>| {
            let pair = |(name, value): (&String, &Value)| format!("{name}={}", value.as_str().unwrap());
            let mut all: Vec<_> = labels.iter().map(pair).collect();
            all.sort();
            all.join(" ").replace("oz-agent-worker.", "")
        };
        assert_eq!(labels(of_task(&owned, "T1", Some("e1"))), "execution-id=e1 instance=i task-id=T1 worker-id=w1");
        assert_eq!(labels(of_task(&owned, "T1", None)), "execution-id= instance=i task-id=T1 worker-id=w1");
        assert_eq!(labels(of_filler(&owned, "v", "d")), "instance=i sidecar=d volume=v worker-id=w1");
    }
}
