//! Filling a volume with the files of a sidecar's image: by one worker of all on an engine, and to the end.
//!
//! An engine gives a container's name once, and removes no volume that a container has. So of all workers on an engine one
//! fills a volume: the one whose container got the name [`labels::filling`]. And a volume is whole for as long as there is a
//! container named [`labels::whole`] that has it: that name is given when everything is in it. Whatever else is there of a
//! volume's name is left over from somebody who did not get to the end, and is thrown away, unless a task still has it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oz_worker_contract::aside::{Aside, Working};
use oz_worker_contract::query::escaped;
use oz_worker_runtime::Host;

use super::calls::{Call, Created, LONG_SILENCE, Listed, list, remove, unless_missing};
use super::container;
use super::creation;
use super::engine::Engine;
use super::error::EngineError;
use super::images::Image;
use super::instance::Instance;
use super::labels::{self, Owned, SIDECAR, VOLUME};
use super::{removal, volumes};

/// How often somebody tries to be the one that fills a volume while those who were it go.
const TRIES: u32 = 20;

/// Those who fill volumes for this worker.
pub struct Fillers<R: Host> {
    engine: Arc<Engine<R>>,
    own: Instance,
    worker_id: String,
    aside: Arc<Aside>,
    /// The names of the volumes that they fill: a worker leaves when nothing of that is on the engine any more.
    filling: Mutex<BTreeMap<String, Arc<Working>>>,
}

/// What came of the attempt to be the one that fills a volume.
pub enum Lock {
    /// The container that says so; its files are those of the image.
    Ours(String),
    /// Somebody else does.
    Theirs,
    /// The name is a foreign container's.
    Foreign,
    /// The worker leaves, and begins nothing any more.
    Leaving,
}

/// What came of the attempt to fill a volume.
pub enum Filled {
    /// It is filled, and this container keeps it.
    Kept(String),
    /// Somebody else has filled it meanwhile.
    Whole,
    /// A task has it, or it is another's.
    InUse,
}

impl<R: Host> Fillers<R> {
    pub fn new(engine: Arc<Engine<R>>, own: Instance, worker_id: String, aside: Arc<Aside>) -> Self {
        Self { engine, own, worker_id, aside, filling: Mutex::default() }
    }

    fn owned(&self) -> Owned<'_> {
        Owned { worker_id: &self.worker_id, instance: self.own.text() }
    }

    fn filling(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Working>>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to be the one that fills the volume of this name.
    pub async fn lock(&self, image: &Image, volume: &str) -> Result<Lock, EngineError> {
        let Some(working) = self.aside.working() else { return Ok(Lock::Leaving) };
        match self.filling().entry(volume.to_owned()) {
            Entry::Occupied(_) => return Ok(Lock::Theirs),
            Entry::Vacant(place) => place.insert(working),
        };
        let locked = self.try_lock(image, volume).await;
        if !matches!(locked, Ok(Lock::Ours(_))) {
            self.filling().remove(volume);
        }
        locked
    }

    async fn try_lock(&self, image: &Image, volume: &str) -> Result<Lock, EngineError> {
        let name = labels::filling(volume);
        let source = container::source(image.id(), &self.owned());
        for _ in 0..TRIES {
            match creation::make(&self.engine, &name, self.own.text(), source.clone()).await {
                Ok(Created { id, .. }) => return Ok(Lock::Ours(id)),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
            let found = match creation::find(&self.engine, &name).await {
                Ok(found) => found,
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(error),
            };
            let Some(instance) = found.instance() else { return Ok(Lock::Foreign) };
            // One of our own that this process does not know is left over, as one of a process is that is dead.
            if instance != self.own.text() && !self.own.is_dead(&self.engine, instance).await {
                return Ok(Lock::Theirs);
            }
            unless_missing(self.engine.tell(&remove(&found.id)).await)?;
        }
        Ok(Lock::Theirs)
    }

    /// Fills the volume of this name anew.
    pub async fn fill(
        &self,
        image: &Image,
        volume: &str,
        digest: &str,
        lock: &str,
        is_own: bool,
    ) -> Result<Filled, EngineError> {
        // Nobody else fills it: what keeps it without being whole was left by somebody who was killed.
        let all: Vec<Listed> = self.engine.ask(&list(&format!("{VOLUME}={volume}"))).await?;
        if all.iter().any(|listed| is_whole(listed, volume, digest)) {
            return Ok(Filled::Whole);
        }
        for left in all.iter().filter(|listed| labels::whole_volume(listed.names()).is_none()) {
            unless_missing(self.engine.tell(&remove(&left.id)).await)?;
        }
        if !volumes::remove(&self.engine, volume).await? || !volumes::make(&self.engine, volume, digest).await? {
            return Ok(Filled::InUse);
        }
        let description = container::filler(image.id(), volume, digest, image.volumes(), &self.owned());
        let name = labels::made(self.own.text(), self.engine.number());
        let filler = creation::make(&self.engine, &name, self.own.text(), description).await?.id;
        match self.copy(lock, &filler, volume, is_own).await {
            Ok(()) => Ok(Filled::Kept(filler)),
            Err(error) => {
                removal::remove_or_later(&self.engine, &filler).await;
                // What is left of it is thrown away by whoever fills it next.
                let _ = volumes::remove(&self.engine, volume).await;
                Err(error)
            }
        }
    }

    async fn copy(&self, from: &str, to: &str, volume: &str, is_own: bool) -> Result<(), EngineError> {
        let export = Call::get(format!("/containers/{from}/export")).silence(Some(LONG_SILENCE));
        let archive = self.engine.open(&export).await?.into_body();
        let path = format!("/containers/{to}/archive?path={}", escaped(labels::FILLED_AT));
        self.engine.upload(&path, archive).await?;
        if is_own {
            return Ok(());
        }
        let name = escaped(&labels::whole(volume));
        self.engine.tell(&Call::post(format!("/containers/{to}/rename?name={name}"))).await
    }

    /// Lets somebody else fill the volume of this name.
    pub async fn unlock(&self, volume: &str, lock: &str) {
        removal::remove_or_later(&self.engine, lock).await;
        self.filling().remove(volume);
    }
}

/// Whether this container keeps a volume whole that has the files of this image.
pub fn is_whole(listed: &Listed, volume: &str, digest: &str) -> bool {
    labels::whole_volume(listed.names()) == Some(volume)
        && listed.label(SIDECAR) == digest
        && listed.label(VOLUME) == volume
}
