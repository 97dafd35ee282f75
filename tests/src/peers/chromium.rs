//! A real browser without a window, driven through its debugger (<https://chromedevtools.github.io/devtools-protocol>).
// Looking into the browser's own JSON by name is no look outside.
#![allow(clippy::indexing_slicing)]

use std::{collections::VecDeque, net::TcpStream, process::Command};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket, client};

use super::{Peer, service::Service};
use crate::BOUND;

/// What works without a display, as root, and asks nobody else for anything.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
];

/// A browser with one page.
pub struct Chromium {
    socket: WebSocket<TcpStream>,
    session: Option<Value>,
    calls: u64,
    events: VecDeque<Value>,
    // After the socket: dropped in this order.
    _service: Service,
    _dir: TempDir,
}

impl Chromium {
    /// Starts one with an empty page. `None` when there is no browser to be had.
    pub fn start() -> Option<Self> {
        let program = Peer::Chromium.programs()?.first()?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(program);
        command.args(FLAGS).arg(format!("--user-data-dir={}", dir.path().display())).arg("about:blank");
        let service = Service::start("chromium", &mut command);
        let line = service.wait_for_line("DevTools listening on ");
        let (_, url) = line.split_once("DevTools listening on ").expect("what was waited for");
        let (_, address) = url.split_once("://").expect("a URL");
        let tcp = TcpStream::connect(address.split('/').next().expect("a host")).expect("a browser that listens");
        tcp.set_read_timeout(Some(BOUND)).expect("a read timeout is settable");
        let (socket, _) = client(url.trim(), tcp).expect("a browser that speaks DevTools");
        let mut chromium =
            Self { socket, session: None, calls: 0, events: VecDeque::new(), _service: service, _dir: dir };
        let target = chromium.call("Target.createTarget", &json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let attached = chromium.call("Target.attachToTarget", &target);
        chromium.session = Some(attached["sessionId"].clone());
        for domain in ["Page", "Network", "Log", "Runtime"] {
            chromium.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(chromium)
    }

    /// Makes the page this wide and high, in CSS pixels, and asks for dark colours or light ones.
    pub fn look(&mut self, width: u32, height: u32, dark: bool) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Opens a URL and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", &json!({"url": url}));
        self.wait_for("Page.loadEventFired");
    }

    /// The value of an expression on the page. (It runs whatever the page's own policy says.)
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let given = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", &given)["result"]["value"].take()
    }

    /// The whole page as it looks, as a PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let picture = self.call("Page.captureScreenshot", &json!({"format": "png", "captureBeyondViewport": true}));
        let text = picture["data"].as_str().expect("a picture");
        BASE64.decode(text.as_bytes()).expect("base64")
    }

    /// Waits for the next event of this name, also one that has happened already; gives what it carries.
    pub fn wait_for(&mut self, event: &str) -> Value {
        loop {
            if let Some(index) = self.events.iter().position(|seen| seen["method"] == event) {
                return self.events.remove(index).expect("its own index")["params"].take();
            }
            let next = self.read();
            self.events.push_back(next);
        }
    }

    /// What every event of this name carries that has come so far and was not waited for.
    pub fn seen(&mut self, event: &str) -> Vec<Value> {
        // An answer comes after all events that were there before it.
        self.evaluate("0");
        self.events.iter().filter(|seen| seen["method"] == event).map(|seen| seen["params"].clone()).collect()
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let mut request = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = session.clone();
        }
        self.socket.send(Message::text(request.to_string())).expect("a browser that listens");
        loop {
            let mut answer = self.read();
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push_back(answer);
        }
    }

    fn read(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.socket.read().expect("a browser that answers in time") {
                return serde_json::from_str(&text).expect("DevTools speaks JSON");
            }
        }
    }
}
