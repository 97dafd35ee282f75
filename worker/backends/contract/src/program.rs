//! Finding a program the way a shell would, and saying where it was looked for when it is not there.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use oz_worker_runtime::{Files, Named};

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A path was given and nothing usable is there.
    #[error("cannot use {}: {source}", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    /// A path was given and it is a directory, a device or the like.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// The file is there, but may not be executed (`chmod +x` was probably forgotten).
    #[error("{} is not executable; chmod +x would make it so", .0.display())]
    NotExecutable(PathBuf),
    /// A bare name was given and no directory of `PATH` has it.
    #[error("no executable file {name} on PATH; looked in {}", directories(looked_in))]
    NotOnPath { name: String, looked_in: Vec<PathBuf> },
}

fn directories(looked_in: &[PathBuf]) -> String {
    if looked_in.is_empty() {
        return "no directory at all (PATH is empty)".to_owned();
    }
    looked_in.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The absolute path of the executable regular file that `name` stands for: `name` itself when it holds a slash, else the
/// first match in the absolute directories of `path_var` (a `PATH`; relative ones would depend on who asks).
///
/// # Errors
/// When there is none. A file that is there but not executable is reported as that, since it is most likely the one meant.
pub fn find_program(files: &impl Files, name: &str, path_var: Option<&OsStr>) -> Result<PathBuf, ProgramError> {
    if name.contains('/') {
        let path = Path::new(name);
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        return executable(files, &path).map(|()| path);
    }
    let looked_in: Vec<PathBuf> =
        path_var.map(|var| std::env::split_paths(var).filter(|dir| dir.is_absolute()).collect()).unwrap_or_default();
    let mut not_executable = None;
    for directory in &looked_in {
        let path = directory.join(name);
        match executable(files, &path) {
            Ok(()) => return Ok(path),
            Err(error @ ProgramError::NotExecutable(_)) => not_executable = not_executable.or(Some(error)),
            Err(_) => {}
        }
    }
    Err(not_executable.unwrap_or(ProgramError::NotOnPath { name: name.to_owned(), looked_in }))
}

fn executable(files: &impl Files, path: &Path) -> Result<(), ProgramError> {
    match files.named(path) {
        Ok(Named::File { executable: true }) => Ok(()),
        Ok(Named::File { executable: false }) => Err(ProgramError::NotExecutable(path.to_owned())),
        Ok(Named::Directory { .. } | Named::Other) => Err(ProgramError::NotAFile(path.to_owned())),
        Err(source) => Err(ProgramError::Unusable { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use oz_worker_host::HostFiles;

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn place(path: &Path, mode: u32) {
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn finds_the_first_executable_file_on_path() {
        let root = std::env::temp_dir().join(format!("oz-worker-program-{}", std::process::id()));
        let (a, b, c) = (root.join("a"), root.join("b"), root.join("c"));
        for directory in [&a, &b, &c] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::create_dir_all(a.join("oz")).unwrap();
        place(&b.join("oz"), 0o644);
        let path_var = std::env::join_paths([&a, &b, Path::new("relative"), &c]).unwrap();

        let error = find_program(&HostFiles, "oz", Some(&path_var)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{} is not executable; chmod +x would make it so", b.join("oz").display())
        );
        place(&c.join("oz"), 0o755);
        assert_eq!(find_program(&HostFiles, "oz", Some(&path_var)).unwrap(), c.join("oz"));

        let slashed = c.join("oz");
        assert_eq!(find_program(&HostFiles, slashed.to_str().unwrap(), None).unwrap(), slashed);
        assert!(matches!(find_program(&HostFiles, a.to_str().unwrap(), None), Err(ProgramError::NotAFile(_))));
        let missing = find_program(&HostFiles, "/nowhere/oz", None).unwrap_err();
        assert_eq!(missing.to_string(), "cannot use /nowhere/oz: No such file or directory (os error 2)");

        let error = find_program(&HostFiles, "no-such-program", Some(&path_var)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "no executable file no-such-program on PATH; looked in {}, {}, {}",
                a.display(),
                b.display(),
                c.display()
            )
        );
        let error = find_program(&HostFiles, "oz", None).unwrap_err();
        assert_eq!(error.to_string(), "no executable file oz on PATH; looked in no directory at all (PATH is empty)");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
