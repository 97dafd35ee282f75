//! Which worker the suites run, and building it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// One build of the worker: the same program over one runtime.
struct Build {
    package: &'static str,
    program: &'static str,
}

/// The default build.
const SMOL: Build = Build { package: "oz-worker-runtime-smol", program: "oz-agent-worker" };

/// Why there is no worker to run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// This program does not lie where cargo puts programs, so neither does the worker.
    #[error("{program} is not in a cargo target directory: name the worker with OZ_WORKER_BIN")]
    NoTarget {
        /// This program.
        program: PathBuf,
    },
    /// Cargo could not be started.
    #[error("cannot run {cargo}: {error}")]
    NoCargo {
        /// What was tried.
        cargo: String,
        /// What the operating system said.
        error: String,
    },
    /// Cargo said why on standard error.
    #[error("cargo build -p {package} failed")]
    Failed {
        /// What was built.
        package: &'static str,
    },
}

/// The worker to run: `OZ_WORKER_BIN` if set, else built by cargo, once per process, in the profile of this program.
///
/// # Errors
/// When it cannot be built.
pub fn worker_binary() -> Result<PathBuf, BuildError> {
    static BUILT: OnceLock<Result<PathBuf, BuildError>> = OnceLock::new();
    BUILT.get_or_init(|| env::var_os("OZ_WORKER_BIN").map_or_else(|| SMOL.build(), |path| Ok(path.into()))).clone()
}

impl Build {
    fn build(&self) -> Result<PathBuf, BuildError> {
        let this = env::current_exe().unwrap_or_default();
        let (target, profile) =
            target_and_profile(&this).ok_or_else(|| BuildError::NoTarget { program: this.clone() })?;
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let status = Command::new(&cargo)
            .args(["build", "--quiet", "--package", self.package, "--bin", self.program])
            // Cargo's name for the profile in the directory `debug`.
            .args(["--profile", if profile == "debug" { "dev" } else { profile }])
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .map_err(|error| BuildError::NoCargo { cargo, error: error.to_string() })?;
        if !status.success() {
            return Err(BuildError::Failed { package: self.package });
        }
        Ok(target.join(profile).join(self.program))
    }
}

/// Cargo's target directory, when this program lies in one.
pub(crate) fn target_dir() -> Option<PathBuf> {
    let this = env::current_exe().ok()?;
    Some(target_and_profile(&this)?.0.to_owned())
}

/// Programs lie in `<target>/<profile>/`, tests and examples one directory deeper.
fn target_and_profile(program: &Path) -> Option<(&Path, &str)> {
    let dir = program.parent()?;
    let dir = if dir.ends_with("deps") || dir.ends_with("examples") { dir.parent()? } else { dir };
    Some((dir.parent()?, dir.file_name()?.to_str()?))
}
