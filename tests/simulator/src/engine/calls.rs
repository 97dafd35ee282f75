//! What workers ask of the engine, and what it answers.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::containers::{Container, Mounted, Plan, Status, Volume, texts};
use super::http::{Reply, Request};
use super::{EPOCH, Engine, OTHER};
use crate::network::Stream;

/// How long the engine takes for what it does at once.
const TAKES: [Duration; 2] = [Duration::from_micros(10), Duration::from_millis(200)];

impl Engine {
    /// Takes one request and answers it.
    pub(super) async fn answer(&self, stream: &mut Stream, caller: &'static str) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let deaths = self.deaths(caller);
        let mut request = Request::read(stream).await.ok_or_else(gone)?;
        let body = if request.method == "PUT" { Value::Null } else { request.json(stream).await.ok_or_else(gone)? };
        let is_start = request.path.last().is_some_and(|last| last == "start");
        if (self.take_time().await || is_start) && self.deaths(caller) != deaths {
            // It never came to what nobody waits for any more. (A real one would do it now.)
            return Err(gone());
        }
        let (newest, oldest, faulty, starts) = {
            let state = self.state();
            (state.newest, state.oldest, state.faulty, self.executor.now() < state.starts_until)
        };
        let api = format!("1.{newest}");
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let refused = match request.version {
            Some(version) if version > newest => Some(Reply::refuse(
                400,
                format!("client version 1.{version} is too new. Maximum supported API version is {api}"),
            )),
            Some(version) if version < oldest => Some(Reply::refuse(
                400,
                format!("client version 1.{version} is too old. Minimum supported API version is 1.{oldest}"),
            )),
            Some(_) if starts => Some(Reply::refuse(503, "the engine is starting")),
            Some(_) if faulty && self.executor.chance(2) => Some(Reply::refuse(500, "something is wrong")),
            Some(_) if faulty && self.executor.chance(2) => Some(Reply::refuse(503, "the engine is starting")),
            _ => None,
        };
        if let Some(refused) = refused {
            self.journal.note(|| format!("engine: refuses {caller} {} {path:?}: {}", request.method, refused.body));
            return refused.write(stream, &api).await;
        }
        let reply = match (request.method.as_str(), path.as_slice()) {
            ("POST", ["images", "create"]) => return self.pull(stream, &request, &api).await,
            ("POST", ["containers", id, "wait"]) => match self.find(id) {
                Some(id) => return self.wait(stream, &request, &id, &api).await,
                None => no_container(id),
            },
            ("GET", ["containers", id, "export"]) => match self.find(id) {
                Some(id) => return self.export(stream, &id, &api).await,
                None => no_container(id),
            },
            ("GET", ["containers", id, "logs"]) => match self.find(id) {
                Some(id) => return self.logs(stream, &id, &api).await,
                None => no_container(id),
            },
            ("PUT", ["containers", id, "archive"]) => {
                let id = (*id).to_owned();
                self.unpack(stream, &mut request, &id).await.ok_or_else(gone)?
            }
            ("GET", ["_ping"]) => Reply::ok(json!("OK")),
            ("GET", ["info"]) => Reply::ok(json!({
                "OSType": "linux", "Architecture": "x86_64", "ServerVersion": "simulated",
                "MemoryLimit": true, "SwapLimit": true, "CpuCfsQuota": true,
            })),
            ("GET", ["images", name @ .., "json"]) => self.inspect_image(&name.join("/")),
            ("GET", ["containers", "json"]) => self.list(&request),
            ("POST", ["containers", "create"]) => self.create(request.query("name"), &body, faulty),
            ("GET", ["containers", id, "json"]) => self.inspect(id),
            ("POST", ["containers", id, "start"]) => self.start(id, caller, faulty),
            ("POST", ["containers", id, "kill"]) => self.kill(id, request.query("signal").unwrap_or_default(), caller),
            ("POST", ["containers", id, "rename"]) => {
                self.rename(id, request.query("name").unwrap_or_default(), caller)
            }
            ("DELETE", ["containers", id]) => self.remove(id, request.query("v") == Some("1"), caller, faulty),
            ("POST", ["volumes", "create"]) => self.create_volume(&body),
            ("GET", ["volumes", name]) => self.inspect_volume(name),
            ("DELETE", ["volumes", name]) => self.remove_volume(name, caller),
            _ => {
                self.watch.violate(format!("no call of the API: {} {path:?}", request.method));
                Reply::refuse(404, "page not found")
            }
        };
        self.journal.note(|| {
            let path = request.path.join("/");
            format!("engine: {caller} {} {path:.60} -> {} {:.80}", request.method, reply.status, reply.body.to_string())
        });
        let reply = if faulty && self.executor.chance(1) {
            // What it did is done.
            Reply::refuse(504, "a proxy has waited for too long")
        } else {
            reply
        };
        reply.write(stream, &api).await
    }

    fn execution_of(&self, id: &str) -> Option<String> {
        self.state().containers.get(id)?.execution().map(str::to_owned)
    }

    fn deaths(&self, caller: &str) -> u32 {
        self.state().deaths[usize::from(caller == OTHER)]
    }

    /// Whatever is done takes a moment, and longer while it stands still; gives whether it did.
    pub(super) async fn take_time(&self) -> bool {
        let mut hung = false;
        loop {
            let until = self.state().hangs_until;
            if self.executor.now() >= until {
                break;
            }
            hung = true;
            self.executor.sleep(Duration::from_secs(1)).await;
        }
        self.executor.sleep(self.executor.duration(TAKES[0], TAKES[1])).await;
        hung
    }

    pub(super) fn find(&self, key: &str) -> Option<String> {
        let state = self.state();
        let is_it = |(id, container): &(&String, &Container)| *id == key || container.name == key;
        state.containers.iter().find(is_it).map(|(id, _)| id.clone())
    }

    /// Law: what is foreign, or of another worker's task, is not touched.
    fn touches(&self, id: &str, caller: &str, what: &str) {
        let state = self.state();
        let Some(container) = state.containers.get(id) else { return };
        let is_others = container.maker() != Some(caller);
        if is_others && (container.is_foreign || container.execution().is_some()) {
            let (name, maker) = (container.name.clone(), container.maker().unwrap_or("nobody").to_owned());
            drop(state);
            self.watch.violate(format!("{caller} {what} container {name}, which is {maker}'s"));
        }
    }

    fn inspect_image(&self, name: &str) -> Reply {
        let state = self.state();
        let Some(digest) = state.images.here(name) else { return Reply::refuse(404, format!("No such image: {name}")) };
        let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
        Reply::ok(json!({
            "Id": digest,
            "RepoDigests": [format!("{repository}@{digest}")],
            "Architecture": "amd64",
            "Config": {"Volumes": state.images.volume(name).map(|path| json!({path: {}}))},
        }))
    }

    fn list(&self, request: &Request) -> Reply {
        let filters: Value =
            request.query("filters").and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        let wanted = |kind: &str| filters[kind].as_array().into_iter().flatten().filter_map(Value::as_str);
        let fits = |container: &Container| {
            let has = |label: &str| match label.split_once('=') {
                Some((name, value)) => container.labels.get(name).is_some_and(|known| known == value),
                None => container.labels.contains_key(label),
            };
            wanted("label").all(has)
                && wanted("volume").all(|volume| container.mounts.iter().any(|mount| mount.volume == volume))
        };
        let state = self.state();
        let listed = state.containers.iter().filter(|(_, container)| fits(container));
        Reply::ok(listed.map(|(id, container)| container.listed(id)).collect())
    }

    fn create(&self, name: Option<&str>, body: &Value, faulty: bool) -> Reply {
        let image = body["Image"].as_str().unwrap_or_default().to_owned();
        let (exit, length, number) =
            (self.draw_exit(faulty), self.draw_length(faulty), self.executor.random(|random| random.u64(..)));
        let ignores = faulty && self.executor.chance(20);
        let longest = Duration::from_secs(if faulty { 40 } else { 1 });
        let heeds = (!ignores).then(|| self.executor.duration(Duration::from_millis(1), longest));
        let now = self.executor.now().as_secs();
        let mut state = self.state();
        let Some(digest) = state.images.here(&image).map(str::to_owned) else {
            return Reply::refuse(404, format!("No such image: {image}"));
        };
        let id = format!("{number:016x}{:048x}", state.serial);
        let name = name.map_or_else(|| format!("happy_{number:x}"), str::to_owned);
        if let Some((other, _)) = state.containers.iter().find(|(_, container)| container.name == name) {
            let message =
                format!("Conflict. The container name \"/{name}\" is already in use by container \"{other}\".");
            return Reply::refuse(409, message);
        }
        let labels = texts(&body["Labels"]);
        let mut mounts = Vec::new();
        for mount in body["HostConfig"]["Mounts"].as_array().into_iter().flatten() {
            let volume = mount["Source"].as_str().unwrap_or_default().to_owned();
            // An engine makes the volume that is not there.
            if state.make_volume(&volume)
                && let Some(made) = state.volumes.get_mut(&volume)
            {
                made.labels = texts(&mount["VolumeOptions"]["Labels"]);
            }
            mounts.push(Mounted { volume, read_write: mount["ReadOnly"] != true });
        }
        let is_covered = |path: &&str| body["HostConfig"]["Tmpfs"].get(*path).is_none();
        let anonymous: Vec<String> = state
            .images
            .volume(&image)
            .filter(is_covered)
            .map(|_| format!("{number:016x}{:048x}", 1))
            .into_iter()
            .collect();
        for volume in &anonymous {
            let anonymous_of = labels.get(super::containers::WORKER_ID).cloned();
            state.volumes.insert(volume.clone(), Volume { anonymous_of, ..Volume::default() });
        }
        state.serial += 1;
        let container = Container {
            name,
            labels,
            image,
            digest,
            created: EPOCH + now,
            is_of_calm: state.is_calm,
            status: Status::Created,
            exit_code: 0,
            is_oom: false,
            mounts,
            anonymous,
            env: body["Env"].clone(),
            plan: Plan { length, exit_code: exit.0, is_oom: exit.1, heeds },
            is_foreign: false,
            is_going: false,
            busy: 0,
            asked: None,
            ended: async_channel::bounded(1),
        };
        state.containers.insert(id.clone(), container);
        Reply::created(json!({"Id": id, "Warnings": []}))
    }

    fn draw_length(&self, faulty: bool) -> Option<Duration> {
        let never = faulty && self.executor.chance(10);
        let longest = Duration::from_secs(if faulty { 4 * 3600 } else { 600 });
        (!never).then(|| self.executor.duration(Duration::from_micros(500), longest))
    }

    fn draw_exit(&self, faulty: bool) -> (i64, bool) {
        match if faulty { self.executor.random(|random| random.u32(..100)) } else { 0 } {
            ..70 => (0, false),
            70..90 => (self.executor.random(|random| random.i64(1..256)), false),
            90..95 => (137, false),
            _ => (137, true),
        }
    }

    fn inspect(&self, key: &str) -> Reply {
        let Some(id) = self.find(key) else { return no_container(key) };
        let state = self.state();
        if state.is_shy && self.executor.chance(50) {
            return Reply::refuse(500, "something is wrong");
        }
        state.containers.get(&id).map_or_else(|| no_container(key), |container| Reply::ok(container.inspected(&id)))
    }

    fn start(&self, key: &str, caller: &str, faulty: bool) -> Reply {
        let Some(id) = self.find(key) else { return no_container(key) };
        self.touches(&id, caller, "starts");
        if self.state().containers.get(&id).is_some_and(|container| container.status == Status::Running) {
            return Reply { status: 304, body: Value::Null };
        }
        if faulty && self.executor.chance(3) {
            return Reply::refuse(500, "failed to create task for container: OCI runtime create failed: no such file");
        }
        self.run(&id);
        Reply::done()
    }

    fn kill(&self, key: &str, signal: &str, caller: &str) -> Reply {
        let Some(id) = self.find(key) else { return no_container(key) };
        self.touches(&id, caller, "kills");
        let now = self.executor.now();
        let mut state = self.state();
        let Some(container) = state.containers.get_mut(&id).filter(|container| container.status == Status::Running)
        else {
            return Reply::refuse(409, format!("Cannot kill container: {key}: Container {key} is not running"));
        };
        let was_asked = container.asked.is_some();
        container.asked.get_or_insert(now);
        let (heeds, is_of_calm) = (container.plan.heeds, container.is_of_calm);
        drop(state);
        if signal == "SIGTERM" {
            if let Some(after) = heeds {
                self.end_after(&id, after, 143, false);
            }
        } else {
            if is_of_calm && !was_asked && !self.watch.is_stopping() {
                self.watch.violate(format!("{id:.12} is killed without having been asked to end"));
            }
            let after = self.executor.duration(Duration::from_micros(20), Duration::from_millis(20));
            self.end_after(&id, after, 137, false);
        }
        Reply::done()
    }

    fn rename(&self, key: &str, name: &str, caller: &str) -> Reply {
        let Some(id) = self.find(key) else { return no_container(key) };
        self.touches(&id, caller, "renames");
        if self.find(name).is_some_and(|other| other != id) {
            return Reply::refuse(409, format!("Conflict. The container name \"/{name}\" is already in use"));
        }
        let mut state = self.state();
        let is_bridgeless = state.is_bridgeless;
        if let Some(container) = state.containers.get_mut(&id) {
            if is_bridgeless && container.status == Status::Running {
                return Reply::refuse(404, "network bridge not found");
            }
            name.clone_into(&mut container.name);
        }
        let is_lost = state.is_removing && name.contains(".taken-up.");
        drop(state);
        if is_lost {
            self.vanish(&id, true);
        }
        Reply::done()
    }

    fn remove(&self, key: &str, volumes: bool, caller: &'static str, faulty: bool) -> Reply {
        let Some(id) = self.find(key) else { return no_container(key) };
        self.touches(&id, caller, "removes");
        let (busy, slow) = (faulty && self.executor.chance(5), faulty && self.executor.chance(5));
        let more = self.executor.random(|random| random.u32(1..5));
        let mut state = self.state();
        let Some(container) = state.containers.get_mut(&id) else { return no_container(key) };
        if container.is_going {
            return Reply::refuse(409, format!("removal of container {id} is already in progress"));
        }
        container.busy += if busy { more } else { 0 };
        if container.busy > 0 {
            container.busy -= 1;
            return Reply::refuse(
                500,
                format!("container {id}: driver failed to remove root filesystem: device or resource busy"),
            );
        }
        container.is_going = slow;
        let is_unasked = container.status == Status::Running && container.asked.is_none() && container.is_of_calm;
        let has_ended = container.status == Status::Exited;
        drop(state);
        if is_unasked && !self.watch.is_stopping() {
            self.watch.violate(format!("{id:.12} is removed while it runs, and was not asked to end"));
        }
        if !slow {
            self.vanish(&id, volumes);
            return Reply::done();
        }
        let (own, deaths) = (self.clone(), self.deaths(caller));
        let after = self.executor.duration(Duration::from_millis(10), Duration::from_secs(20));
        self.executor.spawn(crate::executor::OUTSIDE, async move {
            own.executor.sleep(after).await;
            // The next worker does not know that it was one that asked for this, but can read how it had ended.
            if own.deaths(caller) != deaths
                && !has_ended
                && let Some(execution) = own.execution_of(&id)
            {
                own.truths.note(&execution, |truth| truth.is_gone = true);
            }
            own.vanish(&id, volumes);
        });
        Reply::done()
    }

    fn create_volume(&self, body: &Value) -> Reply {
        let name = body["Name"].as_str().unwrap_or_default();
        let labels = texts(&body["Labels"]);
        let mut state = self.state();
        // One that is there stays as it is.
        if state.make_volume(name)
            && let Some(volume) = state.volumes.get_mut(name)
        {
            volume.labels = labels;
        }
        let labels = state.volumes.get(name).map(|volume| volume.labels.clone());
        Reply::created(json!({"Name": name, "Labels": labels}))
    }

    fn inspect_volume(&self, name: &str) -> Reply {
        match self.state().volumes.get(name) {
            Some(volume) => Reply::ok(json!({"Name": name, "Labels": volume.labels})),
            None => Reply::refuse(404, format!("get {name}: no such volume")),
        }
    }

    fn remove_volume(&self, name: &str, caller: &str) -> Reply {
        let mut state = self.state();
        let Some(volume) = state.volumes.get(name) else {
            return Reply::refuse(404, format!("get {name}: no such volume"));
        };
        let is_foreign = volume.is_foreign;
        if state.containers.values().any(|container| container.mounts.iter().any(|mount| mount.volume == name)) {
            return Reply::refuse(409, format!("remove {name}: volume is in use"));
        }
        state.volumes.remove(name);
        drop(state);
        if is_foreign {
            self.watch.violate(format!("{caller} removes volume {name}, which is somebody else's"));
        }
        Reply::done()
    }
}

impl super::State {
    /// Makes a volume, unless it is there; gives whether it did.
    pub(super) fn make_volume(&mut self, name: &str) -> bool {
        if self.volumes.contains_key(name) {
            return false;
        }
        self.serial += 1;
        self.volumes.insert(name.to_owned(), Volume { number: self.serial, ..Volume::default() });
        true
    }
}

pub(super) fn no_container(key: &str) -> Reply {
    Reply::refuse(404, format!("No such container: {key}"))
}
