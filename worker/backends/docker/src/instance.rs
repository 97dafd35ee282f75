//! Which process made something on the engine, and whether that process still lives.
//!
//! A process on this machine is known by its mark. One that runs in a container of this very engine is known by that container
//! too: the container that replaces it has another host name and other numbers of processes, so its mark says nothing there,
//! but the engine says whether the earlier container still runs.

use std::path::Path;

use oz_worker_contract::earlier;
use oz_worker_runtime::{Files, Host, Lane, Machine, Mark, Owner};
use serde::Deserialize;

use super::calls::Call;
use super::engine::Engine;
use super::error::EngineError;
use super::state::{ContainerState, Seen};

/// What this process has mounted: `proc_pid_mountinfo(5)`.
const MOUNTS: &str = "/proc/self/mountinfo";
/// The most of it that is read. A line has some 200 bytes.
const MOST_MOUNTS: u64 = 1 << 20;
/// A file that an engine mounts into every container, out of a folder that is named after the container.
const MOUNTED: &str = "/etc/hostname";
/// The network of a container that has joined another's.
const JOINED: &str = "container:";

/// This process, as what it makes on an engine names it.
#[derive(Debug, Clone)]
pub struct Instance {
    owner: Owner,
    text: String,
}

/// The run of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Home<'a> {
    /// Its whole id.
    container: &'a str,
    /// When it was started, as [`moment`] writes it: one that is started again is another run.
    started: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    state: ContainerState,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Running {
    id: String,
    #[serde(default)]
    host_config: Networked,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Networked {
    network_mode: String,
}

impl Instance {
    /// This process. It runs in a container of this engine if and only if the engine says so, and no other container could be
    /// the one.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn find<R: Host>(engine: &Engine<R>, owner: &Owner) -> Result<Self, EngineError> {
        let mounts = |machine: &R::Machine| machine.files().read(Path::new(MOUNTS), MOST_MOUNTS).ok().flatten();
        let mounts = engine.runtime().on(Lane::Start, mounts).await.unwrap_or_default();
        let mut text = owner.mark().to_owned();
        if let Some(container) = container_of(&String::from_utf8_lossy(&mounts))
            && let Some(started) = running_since(engine, container).await?
            && !may_be_joined(engine, container).await?
        {
            text = format!("{text}-{container}-{started}");
        }
        Ok(Self { owner: owner.clone(), text })
    }

    /// `<mark>`, or `<mark>-<container>-<its start>`: fit for a label, and for a part of a container's name.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The container that this process runs in, when it is the engine's.
    pub fn container(&self) -> Option<&str> {
        parse(&self.text).and_then(|(_, home)| home).map(|home| home.container)
    }

    /// Whether the process that `text` names is known to be dead. What cannot be known is not so.
    pub async fn is_dead<R: Host>(&self, engine: &Engine<R>, text: &str) -> bool {
        if text == self.text {
            return false;
        }
        let Some((mark, home)) = parse(text) else { return false };
        if earlier::is_dead(engine.runtime(), &self.owner, mark).await {
            return true;
        }
        match home {
            Some(home) => is_over(engine, home).await,
            None => false,
        }
    }
}

/// Whether a text is [`Instance::text`] of some process.
pub fn is_instance(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<(&str, Option<Home<'_>>)> {
    let Some((mark, rest)) = text.split_once('-') else { return Mark::parse(text).map(|_| (text, None)) };
    let (container, started) = rest.split_once('-')?;
    let is_moment = !started.is_empty() && started.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = Mark::parse(mark).is_some() && is_id(container) && is_moment;
    is_whole.then_some((mark, Some(Home { container, started })))
}

/// The container whose file is mounted where each container has its own. Another's is there when this one has joined that
/// one's network.
fn container_of(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let (folder, _) = root.rsplit_once('/').filter(|_| at == MOUNTED)?;
        let (above, id) = folder.rsplit_once('/')?;
        // Only Docker's own folders: who else names one after an id may mean something else by it.
        (above.ends_with("/containers") && is_id(id)).then_some(id)
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The digits of a time as an engine writes it.
fn moment(time: &str) -> String {
    time.chars().filter(char::is_ascii_digit).collect()
}

/// Since when a container of this engine runs. None: it does not, or is not the engine's.
async fn running_since<R: Host>(engine: &Engine<R>, container: &str) -> Result<Option<String>, EngineError> {
    match inspect(engine, container).await {
        Ok(found) => {
            let started = moment(&found.state.started_at);
            let is_it = found.id == container && found.state.seen() == Seen::Running && !started.is_empty();
            Ok(is_it.then_some(started))
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a container runs that may have joined the network of this one, and so has its files and another life.
async fn may_be_joined<R: Host>(engine: &Engine<R>, container: &str) -> Result<bool, EngineError> {
    let all: Vec<Running> = engine.ask(&Call::get("/containers/json")).await?;
    let joins = |running: &Running| {
        let with = running.host_config.network_mode.strip_prefix(JOINED);
        // A name may be anybody's.
        running.id != container && with.is_some_and(|with| with == container || !is_id(with))
    };
    Ok(all.iter().any(joins))
}

/// Whether a run of a container is known to have ended.
async fn is_over<R: Host>(engine: &Engine<R>, home: Home<'_>) -> bool {
    match inspect(engine, home.container).await {
        Ok(found) => match found.state.seen() {
            Seen::Exited { .. } => true,
            Seen::Running => {
                let started = moment(&found.state.started_at);
                !started.is_empty() && started != home.started
            }
            Seen::Created | Seen::Unknown => false,
        },
        // The engine's own words: whatever stands between may say 404 of anything.
        Err(error) => error.is_missing() && error.words().contains("no such container"),
    }
}

async fn inspect<R: Host>(engine: &Engine<R>, container: &str) -> Result<Inspected, EngineError> {
    engine.ask(&Call::get(format!("/containers/{container}/json"))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const MARK: &str = "0123456789abcdef.fedcba9876543210.00000000deadbeef.5.12.34";

    #[test]
    fn a_container_is_found_by_the_file_that_its_engine_mounts() {
        let line = |root: &str, at: &str| format!("36 35 98:0 {root} {at} rw,relatime - ext4 /dev/sda1 rw\n");
        let mounts = |root: &str, at: &str| format!("{}{}", line("/", "/"), line(root, at));
        let of = |root: &str, at: &str| container_of(&mounts(root, at)).map(str::to_owned);
        let id = Some(ID.to_owned());
        assert_eq!(of(&format!("/var/lib/docker/containers/{ID}/hostname"), "/etc/hostname"), id);
        // The engine's folder may be a file system of its own.
        assert_eq!(of(&format!("/containers/{ID}/hostname"), "/etc/hostname"), id);
        // What an operator mounts, Podman's folders, other files, other names.
        assert_eq!(of("/etc/hostname", "/etc/hostname"), None);
        assert_eq!(of(&format!("/overlay-containers/{ID}/userdata/hostname"), "/etc/hostname"), None);
        assert_eq!(of(&format!("/var/lib/docker/containers/{ID}/hostname"), "/mnt/hostname"), None);
        assert_eq!(of("/var/lib/docker/containers/short/hostname", "/etc/hostname"), None);
        assert_eq!(container_of("36 35 98:0\n\n"), None);
    }

    #[test]
    fn only_whole_instances_are_understood() {
        assert_eq!(parse(MARK), Some((MARK, None)));
        let started = moment("2026-11-26T07:36:20.123456789Z");
        let whole = format!("{MARK}-{ID}-{started}");
        assert_eq!(parse(&whole), Some((MARK, Some(Home { container: ID, started: "20261126073620123456789" }))));
        for bad in
            [String::new(), "x".to_owned(), format!("{MARK}-{ID}"), format!("{MARK}-{ID}-"), format!("{MARK}-x-1")]
        {
            assert_eq!(parse(&bad), None, "{bad}");
        }
        assert_eq!(parse(&format!("{MARK}-{ID}-1-2")), None);
    }
}
