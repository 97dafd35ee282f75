//! What befalls an engine: it stands still, is restarted, is pruned, and others use it too.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::containers::{Container, EXECUTION_ID, Plan, Status, TASK_ID, Volume, WORKER_ID};
use super::images::SIDECARS;
use super::{EPOCH, Engine, OURS};
use crate::executor::OUTSIDE;
use crate::network::Network;

impl Engine {
    /// One thing that happens to it.
    pub fn befall(&self) {
        match self.executor.random(|random| random.u32(..12)) {
            0 | 1 => self.hang(),
            2..5 => self.restart(),
            5 => self.prune_containers(),
            6 => self.prune_all(),
            7 => self.remove_one(),
            8 => self.kill_one(),
            9 => self.put_container(),
            10 => self.put_volume(),
            _ => {
                self.journal.note(|| "engine: an image is built anew".to_owned());
                self.state().images.build();
            }
        }
    }

    /// It stands still, as on a full disk.
    fn hang(&self) {
        let length = self.executor.duration(Duration::from_secs(1), Duration::from_secs(120));
        self.journal.note(|| format!("engine: stands still for {length:?}"));
        self.state().hangs_until = self.executor.now() + length;
    }

    /// It is stopped and started again, perhaps as another version; containers live on or do not.
    fn restart(&self) {
        let (lives, length) =
            (self.executor.chance(50), self.executor.duration(Duration::from_millis(100), Duration::from_secs(300)));
        self.journal.note(|| format!("engine: restarted, away for {length:?}; containers live on: {lives}"));
        self.ways.iter().for_each(|way| way.set_outage(true));
        let stopped = std::mem::replace(&mut self.state().stopped, async_channel::bounded(1));
        stopped.0.close();
        if !lives {
            let running: Vec<String> = {
                let state = self.state();
                let running = state.containers.iter().filter(|(_, container)| container.status == Status::Running);
                running.map(|(id, _)| id.clone()).collect()
            };
            for id in running {
                let code = self.executor.random(|random| random.choice([143, 137, 255])).unwrap_or(137);
                self.end(&id, code, false);
            }
        }
        let versions = self.executor.random(|random| random.choice([(41, 24), (44, 24), (52, 44)]));
        let own = self.clone();
        self.executor.spawn(OUTSIDE, async move {
            own.executor.sleep(length).await;
            let mut state = own.state();
            (state.newest, state.oldest) = versions.unwrap_or((41, 24));
            drop(state);
            own.journal.note(|| format!("engine: is back, API {versions:?}"));
            own.ways.iter().for_each(|way: &Network| way.set_outage(false));
        });
    }

    /// `docker container prune`: everything that does not run.
    fn prune_containers(&self) {
        self.journal.note(|| "engine: container prune".to_owned());
        let idle: Vec<String> = {
            let mut state = self.state();
            let idle = state.containers.iter().filter(|(_, container)| container.status != Status::Running);
            let idle: Vec<String> = idle.map(|(id, _)| id.clone()).collect();
            // Whose volumes they leave is whoever pruned.
            for id in &idle {
                let anonymous = state.containers.get(id).map(|container| container.anonymous.clone());
                for volume in anonymous.unwrap_or_default() {
                    if let Some(volume) = state.volumes.get_mut(&volume) {
                        volume.anonymous_of = None;
                    }
                }
            }
            idle
        };
        for id in idle {
            self.take_away(&id);
        }
    }

    /// `docker system prune -af --volumes`.
    fn prune_all(&self) {
        self.prune_containers();
        self.journal.note(|| "engine: system prune".to_owned());
        let mut state = self.state();
        let state = &mut *state;
        let containers = &state.containers;
        state.images.prune(|digest| containers.values().any(|container| container.digest == digest));
        state.volumes.retain(|name, _| {
            let has = |container: &Container| {
                container.anonymous.contains(name) || container.mounts.iter().any(|mount| mount.volume == *name)
            };
            containers.values().any(has)
        });
    }

    /// Somebody removes a container of a worker's.
    fn remove_one(&self) {
        if let Some(id) = self.any() {
            self.journal.note(|| format!("engine: somebody removes {id:.12}"));
            let volumes = self.state().containers.get(&id).map(|container| container.anonymous.clone());
            for volume in volumes.unwrap_or_default() {
                self.state().volumes.remove(&volume);
            }
            self.take_away(&id);
        }
    }

    /// Somebody kills a container of a worker's.
    fn kill_one(&self) {
        if let Some(id) = self.any() {
            self.journal.note(|| format!("engine: somebody kills {id:.12}"));
            self.end(&id, 137, false);
        }
    }

    fn any(&self) -> Option<String> {
        let made: Vec<String> = {
            let state = self.state();
            let made = state.containers.iter().filter(|(_, container)| container.maker().is_some());
            made.map(|(id, _)| id.clone()).collect()
        };
        self.executor.random(|random| random.choice(made))
    }

    /// A container is removed by somebody who is no worker.
    fn take_away(&self, id: &str) {
        let execution = self.state().containers.get(id).and_then(|container| container.execution().map(str::to_owned));
        if let Some(execution) = execution {
            self.truths.note(&execution, |truth| truth.is_gone = true);
        }
        self.vanish(id, false);
    }

    /// Somebody else's container, with half of our labels or a name of ours.
    fn put_container(&self) {
        let (number, takes_name) = (self.executor.random(|random| random.u64(..)), self.executor.chance(50));
        let mut labels = BTreeMap::from([(WORKER_ID.to_owned(), OURS.to_owned())]);
        if self.executor.chance(50) {
            labels.insert(TASK_ID.to_owned(), "T1".to_owned());
            labels.insert(EXECUTION_ID.to_owned(), "foreign".to_owned());
        }
        let mut name = format!("foreign_{number:x}");
        if takes_name && let Some(volume) = self.volume_name() {
            (name, labels) = (format!("oz-agent-worker.filling.{volume}"), BTreeMap::new());
        }
        if self.find(&name).is_some() {
            return;
        }
        self.journal.note(|| format!("engine: somebody makes container {name}"));
        let container = Container {
            name,
            labels,
            image: "foreign:1".to_owned(),
            digest: String::new(),
            created: EPOCH + self.executor.now().as_secs(),
            is_of_calm: false,
            status: Status::Running,
            exit_code: 0,
            is_oom: false,
            mounts: Vec::new(),
            anonymous: Vec::new(),
            env: Value::Null,
            plan: Plan { length: None, exit_code: 0, is_oom: false, heeds: None },
            is_foreign: true,
            is_going: false,
            busy: 0,
            asked: None,
            ended: async_channel::bounded(1),
        };
        self.state().containers.insert(format!("{number:016x}{:048x}", 0), container);
    }

    /// Somebody else's volume, with the name that a sidecar's would have.
    fn put_volume(&self) {
        let Some(name) = self.volume_name() else { return };
        self.journal.note(|| format!("engine: somebody makes volume {name}"));
        self.state().volumes.entry(name).or_insert_with(|| Volume { is_foreign: true, ..Volume::default() });
    }

    fn volume_name(&self) -> Option<String> {
        let image = self.executor.random(|random| random.choice(SIDECARS))?;
        let digest = self.state().images.in_registry(image)?;
        let repository = image.rsplit_once(':').map_or(image, |(repository, _)| repository);
        let safe: String = repository.chars().map(|c| if matches!(c, '/' | ':') { '-' } else { c }).collect();
        Some(format!("{safe}-{}", digest.get(7..19)?))
    }
}
