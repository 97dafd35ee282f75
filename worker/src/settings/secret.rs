//! The API key: where it comes from, and how it is read.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oz_worker_core::secret::Secret;

/// Far more than any key; keeps a wrong path from being read into memory.
const LONGEST_KEY: u64 = 16 * 1024;

/// Why there is no usable API key. Never holds the key, nor a piece of it.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// Blank, or nothing but white space.
    #[error("the API key is empty")]
    Empty,
    /// A line break, control character or non-ASCII character inside: it could not stand in an HTTP header.
    #[error("the API key has a line break, control character or non-ASCII character inside; it must be one plain line")]
    IllFormed,
    /// Longer than any key is.
    #[error("this is longer than an API key can be (16 KiB)")]
    TooLong,
    /// A directory, pipe or device.
    #[error("{} is not a regular file; it is read again at every dial", .0.display())]
    NotAFile(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

/// Where the API key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiKey {
    /// Given as a flag or in the environment.
    Value(Secret),
    /// In a file that is read anew for every dial, so that a rotated key needs no restart.
    File(PathBuf),
}

impl ApiKey {
    /// A key given as text; white space around it is dropped.
    ///
    /// # Errors
    /// When nothing is left, or what is left could not stand in a header.
    pub fn from_text(text: &str) -> Result<Self, ApiKeyError> {
        checked(text).map(Self::Value)
    }

    /// The key as it is now. For a file this reads the disk: call it where blocking is allowed.
    ///
    /// # Errors
    /// When the file cannot be read or does not hold a usable key.
    pub fn read(&self) -> Result<Secret, ApiKeyError> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::File(path) => checked(&read_file(path)?),
        }
    }
}

fn checked(text: &str) -> Result<Secret, ApiKeyError> {
    let text = text.trim();
    if text.is_empty() {
        Err(ApiKeyError::Empty)
    } else if text.len() as u64 > LONGEST_KEY {
        Err(ApiKeyError::TooLong)
    } else if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Ok(text.into())
    } else {
        Err(ApiKeyError::IllFormed)
    }
}

fn read_file(path: &Path) -> Result<String, ApiKeyError> {
    let unreadable = |source| ApiKeyError::Unreadable { path: path.to_owned(), source };
    // Before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(ApiKeyError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LONGEST_KEY + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST_KEY {
        return Err(ApiKeyError::TooLong);
    }
    String::from_utf8(bytes).map_err(|_| ApiKeyError::IllFormed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn trims_white_space_and_refuses_what_no_header_can_hold() {
        let key = ApiKey::from_text(" \twk-canary\n").unwrap();
        assert_eq!(key.read().unwrap().expose(), "wk-canary");
        assert!(matches!(ApiKey::from_text(" \n"), Err(ApiKeyError::Empty)));
        for bad in ["wk-canary\nx", "wk-canary\rx", "wk\u{0}", "wk-canäry", "wk-\u{7f}"] {
            let error = ApiKey::from_text(bad).unwrap_err();
            assert!(matches!(error, ApiKeyError::IllFormed));
            assert!(!format!("{error} {error:?}").contains("wk"), "{error}");
        }
        assert!(matches!(ApiKey::from_text(&"x".repeat(20_000)), Err(ApiKeyError::TooLong)));
    }

    #[test]
    fn debug_never_shows_the_key() {
        let key = ApiKey::from_text("wk-canary").unwrap();
        assert_eq!(format!("{key:?}"), "Value(Secret(not shown))");
    }

    #[test]
    fn a_key_file_is_read_anew_each_time() {
        let directory = std::env::temp_dir().join(format!("oz-worker-key-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("key");
        let key = ApiKey::File(path.clone());
        let error = key.read().unwrap_err().to_string();
        assert_eq!(error, format!("cannot read {}: No such file or directory (os error 2)", path.display()));
        for value in ["first", "second"] {
            std::fs::write(&path, format!("{value}\n")).unwrap();
            assert_eq!(key.read().unwrap().expose(), value);
        }
        for (content, expected) in [("", "the API key is empty"), (" \n\n", "the API key is empty")] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(key.read().unwrap_err().to_string(), expected);
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(key.read(), Err(ApiKeyError::IllFormed)));
        std::fs::write(&path, vec![b'x'; 20_000]).unwrap();
        assert!(matches!(key.read(), Err(ApiKeyError::TooLong)));
        assert!(matches!(ApiKey::File(directory.clone()).read(), Err(ApiKeyError::NotAFile(_))));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
