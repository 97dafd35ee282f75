//! Which worker the suites run, and building it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// One build of the worker: the same program over one runtime.
#[derive(Debug, PartialEq, Eq)]
pub struct Build {
    /// The runtime, as `--version` names it.
    pub runtime: &'static str,
    package: &'static str,
    program: &'static str,
}

/// Every build, the default first.
static BUILDS: [Build; 2] = [
    Build { runtime: "smol", package: "oz-worker-runtime-smol", program: "oz-agent-worker" },
    Build { runtime: "async-std", package: "oz-worker-runtime-async-std", program: "oz-agent-worker-async-std" },
];

/// What [`Build::choose`] chose.
static CHOSEN: OnceLock<&Build> = OnceLock::new();

/// Why there is no worker to run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// This program does not lie where cargo puts programs, so neither does the worker.
    #[error("{program} is not in a cargo target directory: name the worker with OZ_WORKER_BIN")]
    NoTarget { program: PathBuf },
    /// Cargo could not be started.
    #[error("cannot run {cargo}: {error}")]
    NoCargo { cargo: String, error: String },
    /// Cargo said why on standard error.
    #[error("cargo build -p {package} failed")]
    Failed { package: &'static str },
}

/// The worker to run: `OZ_WORKER_BIN` if set, else [`Build::chosen`], built by cargo, once per process, in the profile of
/// this program.
///
/// # Errors
/// When it cannot be built.
pub fn worker_binary() -> Result<PathBuf, BuildError> {
    static BUILT: OnceLock<Result<PathBuf, BuildError>> = OnceLock::new();
    let build = || Build::chosen().build();
    BUILT.get_or_init(|| named_binary().map_or_else(build, Ok)).clone()
}

/// The worker that `OZ_WORKER_BIN` names, of whatever build it is.
pub fn named_binary() -> Option<PathBuf> {
    env::var_os("OZ_WORKER_BIN").map(PathBuf::from)
}

impl Build {
    /// The build over this runtime.
    ///
    /// # Errors
    /// When there is none: the runtimes that there are.
    pub fn on(runtime: &str) -> Result<&'static Self, String> {
        let known = || BUILDS.each_ref().map(|build| build.runtime).join(" and ");
        BUILDS.iter().find(|build| build.runtime == runtime).ok_or_else(|| format!("the runtimes are {}", known()))
    }

    /// Makes it the one to run in this process, unless one was chosen or asked for before.
    pub fn choose(&'static self) {
        CHOSEN.get_or_init(|| self);
    }

    /// The build to run in this process: the one that was chosen, else the one whose runtime this program has in its name
    /// as a crate does (`suites_on_async_std`), else the default.
    pub fn chosen() -> &'static Self {
        CHOSEN.get_or_init(|| {
            let this = env::current_exe().unwrap_or_default();
            let name = this.file_name().unwrap_or_default().to_string_lossy();
            let [default, others @ ..] = &BUILDS;
            others.iter().find(|build| name.contains(&build.runtime.replace('-', "_"))).unwrap_or(default)
        })
    }

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
