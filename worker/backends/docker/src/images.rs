//! Getting an image: pulled for the engine's platform, or used as it is where that is allowed.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_contract::query::escaped;
use oz_worker_contract::reference::{Reference, is_digest};
use oz_worker_net::AnswerError;
use oz_worker_net::lines::Lines;
use oz_worker_runtime::Host;
use oz_worker_telemetry::{TaskStep, TaskTrace};
use serde::Deserialize;
use tracing::warn;

use super::calls::{Call, LONG_SILENCE};
use super::engine::{Engine, PATIENCE};
use super::error::EngineError;
use super::keyring::{Keyring, Shown};
use super::pull::{LONGEST_LINE, PullProgress};
use super::refusals::Refusals;
use super::registry::{self, PullFault};
use super::settings::PullWhen;

/// How often a pull is tried that fails by what passes.
const TRIES: u32 = 3;
/// How long a pull is tried again at least that breaks off on the engine: each version words a prune in its own ways.
const BROKEN_PATIENCE: Duration = Duration::from_secs(30);
/// The wait before the second try; twice that before the third. An engine that is away is asked again more often.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of how many images it is remembered that a warning was given.
const MOST_WARNED: usize = 1000;

/// The images of an engine.
pub struct Images<R: Host> {
    engine: Arc<Engine<R>>,
    keyring: Keyring<R>,
    policy: PullWhen,
    /// As images name it: `amd64`, `arm64`.
    architecture: &'static str,
    /// The images that were used although they could not be pulled.
    warned: Mutex<BTreeSet<String>>,
}

/// What an engine knows of an image.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Image {
    id: String,
    repo_digests: Option<Vec<String>>,
    architecture: String,
    config: Option<ImageConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ImageConfig {
    volumes: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Image {
    /// The name that never means another image.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The digest by which the registry knows it; its own id when it came from none.
    pub fn digest(&self, reference: &Reference) -> String {
        let repository = reference.familiar();
        let known = self.repo_digests.iter().flatten().filter_map(|known| known.split_once('@'));
        let mut own = known.filter(|(name, digest)| *name == repository && is_digest(digest)).map(|(_, digest)| digest);
        own.next_back().unwrap_or(&self.id).to_owned()
    }

    /// Where it wants volumes that nobody asked for.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        let volumes = self.config.as_ref().and_then(|config| config.volumes.as_ref());
        volumes.into_iter().flat_map(|volumes| volumes.keys().map(String::as_str))
    }
}

/// Why an image cannot be had.
#[derive(Debug)]
pub enum ImageError {
    /// The registry said so, in the engine's words.
    Pull {
        fault: PullFault,
        text: String,
        /// What the operator should know about the credentials.
        credentials: Option<String>,
    },
    /// The pull ended well, and the engine has no such image.
    Vanished,
    /// It is not there, and must not be pulled.
    NotPresent,
    /// It is for machines of another kind.
    Architecture {
        image: String,
        engine: &'static str,
    },
    Engine(EngineError),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pull { fault, text, credentials } => {
                f.write_str(text)?;
                match credentials {
                    Some(problem) if *fault == PullFault::Refused => write!(f, "; {problem}"),
                    _ => Ok(()),
                }
            }
            Self::Vanished => f.write_str("the pull ended well, and the engine does not have it"),
            Self::NotPresent => f.write_str("the engine does not have it, and pull_policy is never"),
            Self::Architecture { image, engine } => write!(f, "it is for {image}, and the engine is {engine}"),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

/// An image that can be used.
pub enum Fetched {
    /// It was pulled, and has this digest, if the engine said so.
    Pulled(Option<String>),
    /// It was there.
    Present(Image),
}

impl<R: Host> Images<R> {
    pub fn new(engine: Arc<Engine<R>>, keyring: Keyring<R>, policy: PullWhen, architecture: &'static str) -> Self {
        Self { engine, keyring, policy, architecture, warned: Mutex::default() }
    }

    /// Gets an image and looks at it.
    pub async fn obtain(&self, reference: &Reference, trace: &TaskTrace) -> Result<Image, ImageError> {
        let mut refusals = Refusals::default();
        for _ in 0..TRIES {
            if let Fetched::Present(image) = self.fetch(reference, trace).await? {
                return Ok(image);
            }
            match self.look(reference).await {
                Ok(Some(image)) => return Ok(image),
                Ok(None) => {}
                Err(ImageError::Engine(error)) if refusals.doubt(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ImageError::Vanished)
    }

    /// Gets an image, and says how far its pull is. One that was pulled is not looked at yet.
    pub async fn fetch(&self, reference: &Reference, trace: &TaskTrace) -> Result<Fetched, ImageError> {
        if self.policy != PullWhen::Always {
            match self.look(reference).await? {
                Some(image) => return Ok(Fetched::Present(image)),
                None if self.policy == PullWhen::Never => return Err(ImageError::NotPresent),
                None => {}
            }
        }
        // On the heap: most images are there.
        let error = match Box::pin(self.pull(reference, trace)).await {
            Ok(pulled) => return Ok(Fetched::Pulled(pulled.digest().map(str::to_owned))),
            Err(error) => error,
        };
        let ImageError::Pull { fault, text, .. } = &error else { return Err(error) };
        if !fault.allows_local() {
            return Err(error);
        }
        // Why it could not be pulled says more than that it is not there.
        let Ok(Some(image)) = self.look(reference).await else { return Err(error) };
        if self.warns(reference) {
            warn!(image = %reference, "cannot pull the image, and uses the one that the engine has: {text}");
        }
        Ok(Fetched::Present(image))
    }

    /// Whether nobody was warned of this image yet.
    fn warns(&self, reference: &Reference) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() >= MOST_WARNED {
            warned.clear();
        }
        warned.insert(reference.to_string())
    }

    /// What the engine knows of an image, if it has it.
    pub async fn look(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        match self.engine.ask::<Image>(&Call::get(format!("/images/{reference}/json"))).await {
            Ok(image) => self.check(image).map(Some),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(ImageError::Engine(error)),
        }
    }

    /// Refuses what is for another kind of machine. New engines leave the kind blank, or name a variant with it.
    fn check(&self, image: Image) -> Result<Image, ImageError> {
        let kind = image.architecture.split('/').next().unwrap_or_default();
        if kind.is_empty() || architecture(kind) == Some(self.architecture) {
            return Ok(image);
        }
        Err(ImageError::Architecture { image: kind.chars().take(40).collect(), engine: self.architecture })
    }

    async fn pull(&self, reference: &Reference, trace: &TaskTrace) -> Result<PullProgress, ImageError> {
        let runtime = self.engine.runtime();
        // Once for all tries: a helper may hang, and its problem is one warning.
        let shown = self.keyring.shown(reference.registry()).await;
        if let Some(problem) = &shown.problem {
            warn!(image = %reference, "the pull goes on without credentials: {problem}");
        }
        let (until, broken_until) = (runtime.now().plus(PATIENCE), runtime.now().plus(BROKEN_PATIENCE));
        let (mut pause, mut tries, mut refusals) = (PAUSE, 1, Refusals::default());
        loop {
            match Box::pin(self.try_pull(reference, &shown, trace)).await {
                Err(ImageError::Pull { fault: PullFault::Pruned, .. }) if refusals.let_go() => pause = PAUSE,
                Err(ImageError::Pull { fault: PullFault::Broken, .. }) if runtime.now() < broken_until => pause = PAUSE,
                Err(ImageError::Pull { fault, .. }) if fault.is_worth_a_try() && tries < TRIES => tries += 1,
                // The engine is away, and the registry has said nothing.
                Err(ImageError::Engine(error)) if error.is_passing() && runtime.now() < until => {}
                result => return result,
            }
            self.engine.pause(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_pull(
        &self,
        reference: &Reference,
        shown: &Shown,
        trace: &TaskTrace,
    ) -> Result<PullProgress, ImageError> {
        trace.step(&TaskStep::Pulling { image: reference.to_string(), percent: None });
        let (name, wanted) = (escaped(&reference.familiar()), escaped(reference.wanted()));
        let platform = escaped(&format!("linux/{}", self.architecture));
        let path = format!("/images/create?fromImage={name}&tag={wanted}&platform={platform}");
        let call = Call::post(path).registry_auth(shown.header.clone()).silence(Some(LONG_SILENCE));
        let fail = |fault, text: String| ImageError::Pull { fault, text, credentials: shown.problem.clone() };
        let reply = match self.engine.open(&call).await {
            Ok(reply) => reply,
            Err(error) => return Err(unpulled(error, reference, shown)),
        };
        let (mut pull, mut percent) = (PullProgress::default(), None);
        let mut lines = Lines::new(reply.into_body(), LONGEST_LINE);
        loop {
            let late = async {
                let runtime = self.engine.runtime();
                runtime.sleep_until(runtime.now().plus(LONG_SILENCE)).await;
                Err(io::Error::from(io::ErrorKind::TimedOut))
            };
            match lines.next().or(late).await {
                Ok(Some(line)) => {
                    pull.line(&line.bytes, line.cut);
                    if pull.percent() != percent {
                        percent = pull.percent();
                        trace.step(&TaskStep::Pulling { image: reference.to_string(), percent });
                    }
                }
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let text = format!("the pull stood still for {} s", LONG_SILENCE.as_secs());
                    return Err(fail(PullFault::Transient, text));
                }
                Err(_) => return Err(ImageError::Engine(AnswerError::Truncated.into())),
            }
        }
        match pull.error() {
            Some(text) => Err(fail(registry::read(text, reference, pull.is_known()), text.to_owned())),
            None => Ok(pull),
        }
    }
}

/// What it means that the engine did not begin a pull. One that is itself about to begin says 503, and so may one that passes
/// on what a registry says.
fn unpulled(error: EngineError, reference: &Reference, shown: &Shown) -> ImageError {
    let EngineError::Status { message, .. } = &error else { return ImageError::Engine(error) };
    let fault = registry::read(message, reference, false);
    if fault == PullFault::Unknown && error.is_passing() {
        return ImageError::Engine(error);
    }
    ImageError::Pull { fault, text: message.clone(), credentials: shown.problem.clone() }
}

/// An architecture as images name it, from any of its names.
pub fn architecture(name: &str) -> Option<&'static str> {
    match name {
        "amd64" | "x86_64" | "x86-64" => Some("amd64"),
        "arm64" | "aarch64" => Some("arm64"),
        _ => None,
    }
}
