//! What the API server keeps: Jobs and Pods, and every change of them under one row of versions.

use std::collections::{BTreeMap, VecDeque};

use async_channel::{Receiver, Sender};
use serde_json::{Value, json};

/// How many changes are remembered; who asks for older ones must list.
const MOST_CHANGES: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Job,
    Pod,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "Job",
            Self::Pod => "Pod",
        }
    }

    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Job => "batch/v1",
            Self::Pod => "v1",
        }
    }
}

/// One change of an object, as a watch tells it.
#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub kind: Kind,
    pub verb: &'static str,
    pub object: Value,
}

pub struct Store {
    version: u64,
    /// What happened up to here is forgotten.
    compacted: u64,
    serial: u64,
    objects: BTreeMap<(Kind, String), Value>,
    changes: VecDeque<Change>,
    /// Closed by the next change.
    changed: (Sender<()>, Receiver<()>),
}

impl Store {
    pub fn new() -> Self {
        Self {
            version: 1000,
            compacted: 0,
            serial: 0,
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            changed: async_channel::bounded(1),
        }
    }

    pub const fn version(&self) -> u64 {
        self.version
    }

    pub const fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Ends with the next change of anything.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let changed = self.changed.1.clone();
        async move {
            let _ = changed.recv().await;
        }
    }

    pub fn get(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, name.to_owned()))
    }

    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&str, &Value)> {
        self.objects.iter().filter(move |((of, _), _)| *of == kind).map(|((_, name), object)| (name.as_str(), object))
    }

    /// Makes an object, unless its name is taken; gives it as it is then.
    pub fn create(&mut self, kind: Kind, name: &str, mut object: Value, moment: &str) -> Option<Value> {
        if self.get(kind, name).is_some() {
            return None;
        }
        self.serial += 1;
        (object["kind"], object["apiVersion"]) = (kind.name().into(), kind.api_version().into());
        let metadata = &mut object["metadata"];
        metadata["name"] = name.into();
        metadata["namespace"] = super::NAMESPACE.into();
        metadata["uid"] = format!("{:08x}-0000-4000-8000-{:012x}", self.serial, self.serial).into();
        metadata["creationTimestamp"] = moment.into();
        self.put(kind, name, object, "ADDED");
        self.get(kind, name).cloned()
    }

    /// Changes an object, if it is there.
    pub fn update(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) -> bool {
        let Some(mut object) = self.get(kind, name).cloned() else { return false };
        change(&mut object);
        if self.get(kind, name) != Some(&object) {
            self.put(kind, name, object, "MODIFIED");
        }
        true
    }

    /// Removes an object; its last state is told.
    pub fn remove(&mut self, kind: Kind, name: &str) -> Option<Value> {
        let mut object = self.objects.remove(&(kind, name.to_owned()))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell(kind, object.clone(), "DELETED");
        Some(object)
    }

    /// Every change after a version; none when some of them are forgotten.
    pub fn since(&self, version: u64) -> Option<impl Iterator<Item = &Change>> {
        let first = self.changes.partition_point(|change| change.version <= version);
        (version >= self.compacted).then(|| self.changes.iter().skip(first))
    }

    /// Forgets what has happened.
    pub fn compact(&mut self) {
        self.changes.clear();
        self.compacted = self.version;
    }

    fn put(&mut self, kind: Kind, name: &str, mut object: Value, verb: &'static str) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert((kind, name.to_owned()), object.clone());
        self.tell(kind, object, verb);
    }

    fn tell(&mut self, kind: Kind, object: Value, verb: &'static str) {
        self.changes.push_back(Change { version: self.version, kind, verb, object });
        if self.changes.len() > MOST_CHANGES
            && let Some(oldest) = self.changes.pop_front()
        {
            self.compacted = oldest.version;
        }
        self.changed.0.close();
        self.changed = async_channel::bounded(1);
    }
}

/// Sets a condition of an object; its moment stays when nothing else of it changes.
pub fn set_condition(object: &mut Value, kind: &str, status: &str, [reason, message]: [&str; 2], moment: &str) {
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(all) = conditions.as_array_mut() else { return };
    let known = all.iter().position(|condition| condition["type"] == kind);
    let moment = match known.filter(|at| all[*at]["status"] == status) {
        Some(at) => all[at]["lastTransitionTime"].as_str().unwrap_or(moment).to_owned(),
        None => moment.to_owned(),
    };
    let condition =
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment});
    match known {
        Some(at) => all[at] = condition,
        None => all.push(condition),
    }
}

pub fn has_condition(object: &Value, kind: &str) -> bool {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Whether an object has all labels of a selector.
pub fn is_selected(object: &Value, selector: &str) -> bool {
    let labels = &object["metadata"]["labels"];
    selector.split(',').filter_map(|pair| pair.split_once('=')).all(|(name, value)| labels[name] == value)
}
