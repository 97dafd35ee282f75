//! The registry and what an engine has of it: images by name, and the bytes of their files.

use std::collections::{BTreeMap, BTreeSet};

/// The images of tasks. Each wants a volume of its own, as those of databases do.
pub const TASK_IMAGES: [&str; 2] = ["team/agent:1", "registry.example:5000/team/tools:2"];
/// The images of sidecars.
pub const SIDECARS: [&str; 3] = ["oz/sidecar:1", "registry.example:5000/oz/cli:3", EMPTY];
const EMPTY: &str = "oz/empty:1";
/// What no registry has.
pub const MISSING: &str = "team/nothing:1";

/// What an engine has, by the names that people use.
#[derive(Default)]
pub struct Images {
    here: BTreeMap<String, String>,
    /// Those whose name means another by now.
    nameless: BTreeSet<String>,
    /// How often the registry's images were built anew.
    builds: u32,
}

impl Images {
    /// The digest of an image that is here, by its name or the digest itself.
    pub fn here(&self, name: &str) -> Option<&str> {
        let known = self.here.values().chain(&self.nameless).find(|digest| *digest == name);
        self.here.get(name).or(known).map(String::as_str)
    }

    /// Where an image, by its name or its digest, wants a volume that nobody named.
    pub fn volume(&self, name: &str) -> Option<&'static str> {
        let mut with = TASK_IMAGES.iter().chain(&SIDECARS[1..2]);
        with.any(|known| *known == name || self.in_registry(known).as_deref() == Some(name)).then_some("/data")
    }

    /// The digest under which the registry has an image now.
    pub fn in_registry(&self, name: &str) -> Option<String> {
        let number = TASK_IMAGES.iter().chain(&SIDECARS).position(|known| *known == name)?;
        // Only the first sidecar is ever built anew.
        let build = if name == SIDECARS[0] { self.builds } else { 0 };
        let first = if name == EMPTY { 0 } else { 0xabcd_0000_0000_0000_u64 };
        Some(format!("sha256:{:016x}{:048x}", first + ((number as u64) << 32) + u64::from(build) * 0x1_0000, 7))
    }

    pub fn build(&mut self) {
        self.builds += 1;
    }

    pub fn pulled(&mut self, name: &str) -> Option<String> {
        let digest = self.in_registry(name)?;
        let old = self.here.insert(name.to_owned(), digest.clone());
        self.nameless.extend(old.filter(|old| *old != digest));
        Some(digest)
    }

    /// Removes every image that no container has.
    pub fn prune(&mut self, is_used: impl Fn(&str) -> bool) {
        self.here.retain(|_, digest| is_used(digest));
        self.nameless.retain(|digest| is_used(digest));
    }
}

/// The files of an image as an archive: its digest, so many bytes, and an end by which it is known to be whole.
pub fn files(digest: &str) -> Vec<u8> {
    let seed = digest.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let length = if digest.starts_with("sha256:abcd") { seed % 40_000 } else { 0 };
    [digest.as_bytes(), &vec![b'.'; length], b"END"].concat()
}

/// Whether an archive is whole, whatever it is of.
pub fn is_whole(archive: &[u8]) -> bool {
    let digest = archive.get(..71).and_then(|digest| std::str::from_utf8(digest).ok());
    digest.is_some_and(|digest| files(digest) == archive)
}
