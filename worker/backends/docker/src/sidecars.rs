//! The volumes with sidecars' files: which one a task gets, reused for as long as it is whole, and when one goes that nobody uses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;
use oz_worker_contract::query::escaped;
use oz_worker_contract::reference::Reference;
use oz_worker_core::agent::Sidecar;
use oz_worker_core::time::Instant;
use oz_worker_runtime::Host;
use oz_worker_telemetry::{TaskStep, TaskTrace};
use serde_json::json;

use super::calls::{Call, Listed, list};
use super::container::Mount;
use super::engine::Engine;
use super::error::EngineError;
use super::filling::{Filled, Fillers, Lock, is_whole};
use super::images::{Fetched, Image, Images};
use super::labels::{self, SIDECAR};
use super::refusals::Refusals;
use super::sidecar_error::SidecarError;
use super::{removal, volumes};

/// How many names are tried for a volume: more tasks than that do not have a copy of one image each.
const MOST_NAMES: u32 = 256;
/// How long somebody else may take to fill a volume.
const OTHERS_LIMIT: Duration = Duration::from_secs(1800);
/// How often it is looked whether they have.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often unused volumes are looked for at least.
const LONGEST_COLLECT_INTERVAL: Duration = Duration::from_secs(3600);
const SHORTEST_COLLECT_INTERVAL: Duration = Duration::from_secs(1);

/// The sidecars' volumes of an engine.
pub struct Sidecars<R: Host> {
    engine: Arc<Engine<R>>,
    images: Arc<Images<R>>,
    fillers: Fillers<R>,
    /// The whole volumes by the digests of their images, as far as this worker has used them.
    known: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    volume: String,
    used: Instant,
}

/// A volume for a task.
pub struct Prepared<R: Host> {
    pub mount: Mount,
    /// What keeps a task's own copy until its container has it.
    copy: Option<OwnCopy<R>>,
}

/// The containers that keep a volume. Dropping this removes them: the task's container has the volume, or nobody wants it.
struct OwnCopy<R: Host> {
    sidecars: Arc<Sidecars<R>>,
    volume: String,
    lock: String,
    filler: String,
}

impl<R: Host> Drop for OwnCopy<R> {
    fn drop(&mut self) {
        let sidecars = Arc::clone(&self.sidecars);
        let [volume, lock, filler] = [&mut self.volume, &mut self.lock, &mut self.filler].map(std::mem::take);
        let runtime = sidecars.engine.runtime().clone();
        runtime.spawn(async move {
            removal::remove_or_later(&sidecars.engine, &filler).await;
            sidecars.fillers.unlock(&volume, &lock).await;
        });
    }
}

impl<R: Host> Sidecars<R> {
    pub const fn new(engine: Arc<Engine<R>>, images: Arc<Images<R>>, fillers: Fillers<R>) -> Self {
        Self { engine, images, fillers, known: Mutex::new(BTreeMap::new()) }
    }

    fn all_known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets a sidecar's image, and a volume with what is in it.
    pub async fn prepare(self: &Arc<Self>, sidecar: &Sidecar, trace: &TaskTrace) -> Result<Prepared<R>, SidecarError> {
        if sidecar.image.is_empty() {
            return Err(SidecarError::NoImage);
        }
        let reference = Reference::parse(&sidecar.image).map_err(SidecarError::Name)?;
        let image = match self.images.fetch(&reference, trace).await? {
            Fetched::Present(image) => image,
            Fetched::Pulled(digest) => {
                // Its volume is what is used, and that is here: nobody needs the image itself.
                if let Some(digest) = digest
                    && let Some(volume) = self.known(&digest).filter(|_| !sidecar.read_write)
                {
                    return Ok(prepared(sidecar, volume, digest, None));
                }
                match self.images.look(&reference).await? {
                    Some(image) => image,
                    None => self.images.obtain(&reference, trace).await?,
                }
            }
        };
        let digest = image.digest(&reference);
        if let Some(volume) = self.known(&digest).filter(|_| !sidecar.read_write) {
            return Ok(prepared(sidecar, volume, digest, None));
        }
        trace.step(&TaskStep::Preparing { image: reference.to_string() });
        // Beside the task: one that is cancelled leaves nothing half done, and others wait for the same volume.
        let (done, result) = oneshot::channel();
        let (own, sidecar, trace) = (Arc::clone(self), sidecar.clone(), trace.clone());
        self.engine.runtime().spawn(async move {
            let found = Box::pin(own.volume(&reference, image, sidecar.read_write, &trace)).await;
            let found = found.map(|(volume, digest, copy)| prepared(&sidecar, volume, digest, copy));
            let _ = done.send(found);
        });
        result.await.unwrap_or(Err(SidecarError::Removed))
    }

    fn known(&self, digest: &str) -> Option<String> {
        let now = self.engine.runtime().now();
        self.all_known().get_mut(digest).map(|known| {
            known.used = now;
            known.volume.clone()
        })
    }

    /// Whether all these volumes are still what they were when they were prepared. To be asked once the task's container has
    /// them: nobody removes them any more then.
    pub async fn are_whole(&self, prepared: &[Prepared<R>]) -> Result<bool, EngineError> {
        if prepared.is_empty() {
            return Ok(true);
        }
        let all: Vec<Listed> = self.engine.ask(&list(SIDECAR)).await?;
        let mut are_whole = true;
        for Prepared { mount, copy } in prepared {
            let is_kept = |listed: &Listed| match copy {
                Some(copy) => listed.id == copy.filler,
                None => is_whole(listed, &mount.volume, &mount.digest),
            };
            if !all.iter().any(is_kept) {
                self.all_known().remove(&mount.digest);
                are_whole = false;
            }
        }
        Ok(are_whole)
    }

    /// A volume with the files of an image, and the digest of that: a whole one that all may read, or a task's own.
    async fn volume(
        self: &Arc<Self>,
        reference: &Reference,
        mut image: Image,
        is_own: bool,
        trace: &TaskTrace,
    ) -> Result<(String, String, Option<OwnCopy<R>>), SidecarError> {
        let until = self.engine.runtime().now().plus(OTHERS_LIMIT);
        let mut refusals = Refusals::default();
        'again: loop {
            let digest = image.digest(reference);
            let base = reference.volume(&digest);
            let all: Vec<Listed> = self.engine.ask(&list(SIDECAR)).await?;
            for number in 1..=MOST_NAMES {
                let name = if number == 1 { base.clone() } else { format!("{base}-{number}") };
                if all.iter().any(|listed| is_whole(listed, &name, &digest)) {
                    if is_own {
                        continue;
                    }
                    let used = self.engine.runtime().now();
                    self.all_known().insert(digest.clone(), Known { volume: name.clone(), used });
                    return Ok((name, digest, None));
                }
                match self.fillers.lock(&image, &name).await {
                    Ok(Lock::Ours(lock)) => {
                        let filled = self.fillers.fill(&image, &name, &digest, &lock, is_own).await;
                        match filled {
                            Ok(Filled::Kept(keeper)) if is_own => {
                                let (sidecars, volume) = (Arc::clone(self), name.clone());
                                let copy = OwnCopy { sidecars, volume, lock, filler: keeper };
                                return Ok((name, digest, Some(copy)));
                            }
                            Ok(Filled::InUse) => self.fillers.unlock(&name, &lock).await,
                            Ok(Filled::Whole) if is_own => self.fillers.unlock(&name, &lock).await,
                            // It is in the list now, unless somebody removed it already.
                            Ok(Filled::Kept(_) | Filled::Whole) => {
                                self.fillers.unlock(&name, &lock).await;
                                if !refusals.let_go() {
                                    return Err(SidecarError::Removed);
                                }
                                continue 'again;
                            }
                            Err(error) => {
                                self.fillers.unlock(&name, &lock).await;
                                again(&mut refusals, error)?;
                                // The image may have been removed too, and its name mean another by now.
                                image = self.images.obtain(reference, trace).await?;
                                continue 'again;
                            }
                        }
                    }
                    Ok(Lock::Theirs) if !is_own => {
                        if self.engine.runtime().now() >= until {
                            return Err(SidecarError::OthersFill(name));
                        }
                        self.engine.pause(LOOK_INTERVAL).await;
                        continue 'again;
                    }
                    Ok(Lock::Theirs | Lock::Foreign) => {}
                    Ok(Lock::Leaving) => return Err(SidecarError::Leaving),
                    Err(error) if error.is_passing() => return Err(error.into()),
                    Err(error) => {
                        again(&mut refusals, error)?;
                        image = self.images.obtain(reference, trace).await?;
                        continue 'again;
                    }
                }
            }
            return Err(SidecarError::NoName(base));
        }
    }

    /// Removes whole volumes that no task of this worker used for so long, for ever. What another worker's tasks have stays:
    /// an engine removes no volume that is in use.
    pub async fn collect(self: Arc<Self>, ttl: Duration) {
        let begun = self.engine.runtime().now();
        let interval = (ttl / 4).clamp(SHORTEST_COLLECT_INTERVAL, LONGEST_COLLECT_INTERVAL);
        loop {
            self.engine.pause(interval).await;
            let Ok(all) = self.engine.ask::<Vec<Listed>>(&list(SIDECAR)).await else { continue };
            let now = self.engine.runtime().now();
            for listed in &all {
                let (Some(volume), digest) = (labels::whole_volume(listed.names()), listed.label(SIDECAR)) else {
                    continue;
                };
                let used = self
                    .all_known()
                    .get(digest)
                    .filter(|known| known.volume == volume)
                    .map_or(begun, |known| known.used);
                if now.since(used) < ttl || self.is_used(volume).await {
                    continue;
                }
                self.all_known().remove(digest);
                removal::remove_or_later(&self.engine, &listed.id).await;
                let _ = volumes::remove(&self.engine, volume).await;
            }
        }
    }

    /// Whether a container beside the one that keeps it has this volume.
    async fn is_used(&self, volume: &str) -> bool {
        let filters = escaped(&json!({"volume": [volume]}).to_string());
        let all = self.engine.ask::<Vec<Listed>>(&Call::get(format!("/containers/json?all=1&filters={filters}"))).await;
        all.map_or(true, |all| all.len() > 1)
    }
}

fn prepared<R: Host>(sidecar: &Sidecar, volume: String, digest: String, copy: Option<OwnCopy<R>>) -> Prepared<R> {
    let mount = Mount { volume, digest, target: sidecar.mount_path.clone(), read_write: sidecar.read_write };
    Prepared { mount, copy }
}

/// Whether a volume is to be filled once more after this: somebody removes what is not used yet, or the engine is restarted.
fn again(refusals: &mut Refusals, error: EngineError) -> Result<(), SidecarError> {
    if error.is_gone() || error.is_passing() {
        return if refusals.let_go() { Ok(()) } else { Err(SidecarError::Removed) };
    }
    if refusals.doubt(&error) { Ok(()) } else { Err(error.into()) }
}
