//! What the engine answers piece by piece, and what comes to it so: pulls, waits, archives, output.

use std::io;
use std::time::Duration;

use futures_lite::AsyncWriteExt;
use serde_json::{Value, json};

use super::Engine;
use super::calls::no_container;
use super::containers::{Container, Status};
use super::http::{self, Reply, Request};
use super::images::{files, is_whole};
use crate::network::Stream;

/// How much of an archive it sends at once.
const PIECE: usize = 8 << 10;

impl Engine {
    pub(super) async fn pull(&self, stream: &mut Stream, request: &Request, api: &str) -> io::Result<()> {
        let name =
            format!("{}:{}", request.query("fromImage").unwrap_or_default(), request.query("tag").unwrap_or_default());
        let drawn = if self.state().faulty { self.executor.random(|random| random.u32(..100)) } else { 100 };
        self.journal.note(|| format!("engine: pulls {name}: {drawn}"));
        let refused = match drawn {
            _ if self.state().images.in_registry(&name).is_none() => {
                Some((404, format!("manifest for {name} not found: manifest unknown: manifest unknown")))
            }
            ..4 => Some((500, "toomanyrequests: You have reached your pull rate limit".to_owned())),
            4..8 => Some((500, "received unexpected HTTP status: 503 Service Unavailable".to_owned())),
            8..10 => Some((500, "unauthorized: authentication required".to_owned())),
            _ => None,
        };
        if let Some((status, message)) = refused {
            return Reply::refuse(status, message).write(stream, api).await;
        }
        http::begin(stream, api).await?;
        let faulty = self.state().faulty;
        let total =
            self.executor.duration(Duration::from_millis(5), Duration::from_secs(if faulty { 200 } else { 20 }));
        let lines = self.executor.random(|random| random.u32(1..6));
        for line in 0..lines {
            self.executor.sleep(total / lines).await;
            let progress =
                json!({"status": "Downloading", "id": "a1", "progressDetail": {"current": line, "total": lines}});
            http::piece(stream, format!("{progress}\r\n").as_bytes()).await?;
            self.take_time().await;
        }
        let last = match drawn {
            10..14 => json!({"errorDetail": {"message": "unexpected EOF"}, "error": "unexpected EOF"}),
            14..17 => json!({"status": "Verifying Checksum"}),
            _ => {
                let digest = self.state().images.pulled(&name).unwrap_or_default();
                json!({"status": format!("Digest: {digest}")})
            }
        };
        http::piece(stream, format!("{last}\r\n").as_bytes()).await?;
        http::piece(stream, b"").await
    }

    /// Says how the container ended, as soon as it has.
    pub(super) async fn wait(&self, stream: &mut Stream, request: &Request, id: &str, api: &str) -> io::Result<()> {
        // What stands between may speak HTTP/1.1 all the same.
        let is_bare = request.is_old && self.executor.chance(80);
        if is_bare {
            http::begin_bare(stream, api).await?;
        } else {
            http::begin(stream, api).await?;
        }
        let ended = {
            let state = self.state();
            let container = state.containers.get(id);
            container.filter(|container| container.status == Status::Running).map(|container| container.ended.1.clone())
        };
        // Of one that never ran it says at once that it does not run.
        let mut exit_code = self.state().containers.get(id).map_or(0, |container| container.exit_code);
        if let Some(ended) = ended {
            let _ = ended.recv().await;
            let execution = {
                let state = self.state();
                state.containers.get(id).map(|container| container.exit_code)
            };
            exit_code = execution.unwrap_or(137);
            self.take_time().await;
        }
        let answer = format!("{}\n", json!({"StatusCode": exit_code}));
        if is_bare {
            return stream.write_all(answer.as_bytes()).await;
        }
        http::piece(stream, answer.as_bytes()).await?;
        http::piece(stream, b"").await
    }

    pub(super) async fn export(&self, stream: &mut Stream, id: &str, api: &str) -> io::Result<()> {
        let digest = self.state().containers.get(id).map(|container| container.digest.clone()).unwrap_or_default();
        let archive = files(&digest);
        let fails = self.state().faulty && self.executor.chance(5);
        let stops = if fails { self.executor.random(|random| random.usize(..archive.len())) } else { archive.len() };
        http::begin(stream, api).await?;
        for part in archive[..stops].chunks(PIECE) {
            http::piece(stream, part).await?;
            self.take_time().await;
            if !self.state().containers.contains_key(id) {
                http::piece(stream, br#"{"message":"No such container"}"#).await?;
                return http::piece(stream, b"").await;
            }
        }
        if fails {
            // It has answered 200 by then.
            http::piece(stream, br#"{"message":"input/output error"}"#).await?;
        }
        http::piece(stream, b"").await
    }

    /// Unpacks an archive into the volume of a container, as far as it comes. None: it broke off.
    pub(super) async fn unpack(&self, stream: &mut Stream, request: &mut Request, key: &str) -> Option<Reply> {
        let id = self.find(key);
        let found = id.and_then(|id| {
            let state = self.state();
            let volume = state.containers.get(&id)?.mounts.first()?.volume.clone();
            let number = state.volumes.get(&volume)?.number;
            Some((id, volume, number))
        });
        let Some((id, name, number)) = found else { return Some(no_container(key)) };
        loop {
            let chunk = request.chunk(stream).await?;
            let mut state = self.state();
            if !state.containers.contains_key(&id) {
                return Some(no_container(key));
            }
            let volume = state.volumes.get_mut(&name).filter(|volume| volume.number == number)?;
            if volume.is_foreign {
                self.watch.violate(format!("volume {name} is filled, which is somebody else's"));
            }
            if chunk.is_empty() {
                let is_good = is_whole(&volume.files);
                return Some(if is_good { Reply::ok(Value::Null) } else { Reply::refuse(500, "unexpected EOF") });
            }
            volume.files.extend_from_slice(&chunk);
        }
    }

    /// What a container wrote: over and over what it was told by its maker.
    pub(super) async fn logs(&self, stream: &mut Stream, id: &str, api: &str) -> io::Result<()> {
        if self.state().faulty && self.executor.chance(10) {
            let message = "configured logging driver does not support reading";
            return Reply::refuse(501, message).write(stream, api).await;
        }
        http::begin(stream, api).await?;
        let told = self.state().containers.get(id).map(Container::told).unwrap_or_default();
        for _ in 0..self.executor.random(|random| random.u32(..4)) {
            let length = self.executor.random(|random| random.u32(1..2000));
            let mut frame = [&[1, 0, 0, 0][..], &length.to_be_bytes()].concat();
            frame.extend(told.bytes().chain(std::iter::once(b'\n')).cycle().take(length as usize));
            http::piece(stream, &frame).await?;
        }
        http::piece(stream, b"").await
    }
}
