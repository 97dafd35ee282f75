//! A real OpenTelemetry Collector, and what it wrote.
// Putting JSON together by name is no look outside.
#![allow(clippy::indexing_slicing)]

use std::{
    fs,
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Peer, otlp::Export, service::Service};
use crate::{BOUND, tls::Authority};

/// How often it writes to its file.
const FLUSH: Duration = Duration::from_millis(100);

/// How to start a Collector.
pub struct Setup {
    grpc: String,
    http: String,
    tls: Value,
    scraped: Option<(ScrapePort, Duration)>,
}

/// A port for the Collector to be scraped on. It does not say which port the system chose, so it is told one that is kept free for
/// it on another address of this machine.
struct ScrapePort(TcpListener);

impl ScrapePort {
    fn keep() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a free port on 127.0.0.1"))
    }

    fn address(&self) -> String {
        format!("127.0.0.2:{}", self.0.local_addr().expect("a listener has an address").port())
    }
}

impl Setup {
    /// Plain, on ports that the system chooses.
    pub fn plain() -> Self {
        Self::on("127.0.0.1:0", "127.0.0.1:0")
    }

    /// Plain, on the ports that every exporter tries when it is told nothing.
    pub fn on_default_ports() -> Self {
        Self::on("127.0.0.1:4317", "127.0.0.1:4318")
    }

    fn on(grpc: &str, http: &str) -> Self {
        Self { grpc: grpc.to_owned(), http: http.to_owned(), tls: Value::Null, scraped: None }
    }

    /// Plain, and all that was pushed can be scraped, until nothing of it has come for as long as this.
    pub fn scraped(kept: Duration) -> Self {
        Self { scraped: Some((ScrapePort::keep(), kept)), ..Self::plain() }
    }

    /// TLS on ports that the system chooses, for `localhost`; a client must show a certificate of the same authority.
    pub fn tls(authority: &Authority, dir: &Path) -> Self {
        let (certificate, key) = authority.issue("localhost", dir);
        let clients = dir.join("clients.pem");
        authority.write(&clients);
        let tls = json!({"cert_file": certificate, "key_file": key, "client_ca_file": clients});
        Self { tls, ..Self::plain() }
    }

    /// Starts it. `None` when there is no Collector to be had.
    pub fn start(self) -> Option<Collector> {
        let program = Peer::Collector.programs()?.first()?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (service, grpc, http) = self.run(program, dir.path());
        // The same ports again after a restart.
        let setup = Self { grpc, http, ..self };
        Some(Collector { service, setup, program, writes: Writes::into(dir.path()), dir })
    }

    fn run(&self, program: &Path, dir: &Path) -> (Service, String, String) {
        let receiver = |endpoint: &str| match &self.tls {
            Value::Null => json!({"endpoint": endpoint}),
            tls => json!({"endpoint": endpoint, "tls": tls}),
        };
        let (file, flush) = (dir.join("exports"), format!("{}ms", FLUSH.as_millis()));
        let pipeline = json!({"receivers": ["otlp"], "exporters": ["file"]});
        let mut config = json!({
            "receivers": {"otlp": {"protocols": {"grpc": receiver(&self.grpc), "http": receiver(&self.http)}}},
            "exporters": {"file": {"path": file, "flush_interval": flush}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"metrics": pipeline, "traces": pipeline},
            },
        });
        if let Some((port, kept)) = &self.scraped {
            let kept = format!("{}ms", kept.as_millis());
            config["exporters"]["prometheus"] = json!({"endpoint": port.address(), "metric_expiration": kept});
            config["service"]["pipelines"]["metrics"]["exporters"] = json!(["file", "prometheus"]);
        }
        // JSON is YAML.
        fs::write(dir.join("config.yaml"), config.to_string()).expect("one's own directory");
        let mut command = Command::new(program);
        command.arg("--config").arg(dir.join("config.yaml"));
        let service = Service::start("the Collector", &mut command);
        service.wait_for_line("Everything is ready");
        let grpc = endpoint(&service.wait_for_line("Starting GRPC server"));
        let http = endpoint(&service.wait_for_line("Starting HTTP server"));
        (service, grpc, http)
    }
}

/// `… {…, "endpoint": "127.0.0.1:4317"}`
fn endpoint(line: &str) -> String {
    let after = line.split_once("\"endpoint\": \"").and_then(|(_, after)| after.split_once('"'));
    after.unwrap_or_else(|| panic!("no endpoint in {line:?}")).0.to_owned()
}

pub struct Collector {
    service: Service,
    setup: Setup,
    program: &'static PathBuf,
    writes: Writes,
    dir: TempDir,
}

/// Tells when something was written in a directory.
struct Writes(OwnedFd);

impl Writes {
    fn into(dir: &Path) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let writes = inotify::init(flags).expect("inotify");
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&writes, dir, events).expect("a directory that can be watched");
        Self(writes)
    }

    /// Forgets what was written so far.
    fn forget(&self) {
        while rustix::io::read(&self.0, &mut [0_u8; 4096]).is_ok_and(|length| length > 0) {}
    }

    /// Waits until something was written since; false when nothing was before `deadline`.
    fn wait_until(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("bounds are small");
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)).expect("an own descriptor") > 0
    }
}

impl Collector {
    /// Where it takes `http/protobuf` and `http/json`, as a base URL.
    pub fn http(&self) -> String {
        self.url(&self.setup.http)
    }

    /// Where it takes `grpc`.
    pub fn grpc(&self) -> String {
        self.url(&self.setup.grpc)
    }

    /// Where it can be scraped, if it was set up so.
    pub fn scrape_address(&self) -> Option<String> {
        self.setup.scraped.as_ref().map(|(port, _)| port.address())
    }

    fn url(&self, address: &str) -> String {
        match &self.setup.tls {
            Value::Null => format!("http://{address}"),
            _ => address.replace("127.0.0.1", "https://localhost"),
        }
    }

    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Starts it again where it was, with an empty file.
    pub fn start_again(&mut self) {
        (self.service, _, _) = self.setup.run(self.program, self.dir.path());
    }

    /// Everything that it has written so far, in order.
    pub fn exports(&self) -> Vec<Export> {
        let bytes = fs::read(self.dir.path().join("exports")).unwrap_or_default();
        // The last line may be half written, in the middle of a character.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = std::str::from_utf8(bytes.get(..whole).unwrap_or_default()).expect("the Collector writes JSON");
        text.lines().map(Export::parse).collect()
    }

    /// Waits until something is as wanted in all that was written.
    pub fn wait_for<T>(&self, what: &str, find: impl Fn(&[Export]) -> Option<T>) -> T {
        let deadline = Instant::now() + BOUND;
        loop {
            self.writes.forget();
            let exports = self.exports();
            if let Some(found) = find(&exports) {
                return found;
            }
            assert!(
                self.writes.wait_until(deadline),
                "{what} did not come; the last of {}: {:#?}",
                exports.len(),
                exports.last()
            );
        }
    }
}
