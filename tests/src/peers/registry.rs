//! A real registry of images on this machine, open or with one user.

use std::{fs, process::Command};

use tempfile::TempDir;

use super::{Peer, service::Service};

/// The one user, and the password.
pub const USER: &str = "oz";
pub const PASSWORD: &str = "registry-pass-7";
/// The same as `htpasswd -B` writes it.
const HTPASSWD: &str = "oz:$2b$04$2.8jiUCx2p4DfwOy6rIc0u.jkRIgQBPlxrdffyAMUuL2oL/eafK.G\n";

/// A registry that serves until it is dropped.
pub struct Registry {
    _service: Service,
    _dir: TempDir,
    /// Host and port: what names of images begin with.
    pub address: String,
}

impl Registry {
    /// Starts one that anybody may use. `None` when there is none to be had.
    pub fn open() -> Option<Self> {
        Self::start("")
    }

    /// Starts one that only [`USER`] may use. `None` when there is none to be had.
    pub fn with_password() -> Option<Self> {
        Self::start("auth: {htpasswd: {realm: test, path: DIR/htpasswd}}\n")
    }

    fn start(auth: &str) -> Option<Self> {
        let program = Peer::Registry.programs()?.first()?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = dir.path().display().to_string();
        let settings = "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: DIR/images}}\n\
                        http: {addr: \"127.0.0.1:0\"}\n";
        let settings = format!("{settings}{auth}").replace("DIR", &at);
        fs::write(dir.path().join("settings.yml"), settings).expect("one's own directory");
        fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("one's own directory");
        let mut command = Command::new(program);
        command.arg("serve").arg(dir.path().join("settings.yml"));
        let service = Service::start("the registry", &mut command);
        let line = service.wait_for_line("listening on ");
        let address = line.split_once("listening on ").expect("it was waited for").1;
        let address = address.trim_end_matches(|c: char| !c.is_ascii_digit()).split(['"', ',']).next();
        Some(Self { _service: service, _dir: dir, address: address.unwrap_or_default().to_owned() })
    }
}
