//! What backend docker needs to play: two images, made of this machine's shell and the agent, on whatever engine the docker
//! client reaches. Nothing is fetched.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::json;

use crate::{agent::Agent, worker::Launch};

/// What the docker client is told by the person at the terminal, and the worker so as well.
const VARIABLES: [&str; 6] =
    ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "XDG_RUNTIME_DIR"];
const SHELL: &str = "/bin/sh";

/// Why there are no containers to play with.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The program is not there, or cannot be run.
    #[error("--backend docker needs the program {program}: {error}")]
    Program { program: &'static str, error: io::Error },
    /// What the docker client says.
    #[error("--backend docker needs a Docker Engine on this machine: {0}")]
    Engine(String),
    /// An image cannot be put together.
    #[error("cannot make an image: {0}")]
    Image(#[from] io::Error),
}

/// The images. Dropping this removes them, and what workers keep of them.
pub struct Images {
    repository: String,
}

impl Images {
    /// Makes them.
    ///
    /// # Errors
    /// When there is no engine, or it takes no image.
    pub fn make(agent: &Agent) -> Result<Self, EngineError> {
        said(&docker(["version", "--format", "{{.Server.Version}}"])?)?;
        // Somebody else may play beside.
        let images = Self { repository: format!("oz-playground-{}", std::process::id()) };
        let root = tempfile::tempdir()?;
        let shell = Path::new(SHELL);
        for file in libraries(shell)?.iter().map(PathBuf::as_path).chain([shell]) {
            let to = root.path().join(file.strip_prefix("/").unwrap_or(file));
            fs::create_dir_all(to.parent().unwrap_or(root.path()))?;
            fs::copy(file, to)?;
        }
        import(&images.task(), root.path())?;
        let root = tempfile::tempdir()?;
        fs::copy(agent.program(), root.path().join("entrypoint.sh"))?;
        import(&images.agent(), root.path())?;
        Ok(images)
    }

    /// A worker that runs tasks in them. They speak to the story through the agent's folder.
    pub fn launch(&self, url: &str, agent: &Agent) -> Launch {
        let folder = agent.path("");
        let folder = folder.to_string_lossy();
        let folder = folder.trim_end_matches('/');
        let home = env::var("HOME").unwrap_or_default();
        let mut launch = Launch::dialling(url)
            .env("DOCKER_CONFIG", &format!("{home}/.docker"))
            .backend("docker", &json!({"pull_policy": "never"}))
            .config("default_image", self.task())
            .config("sidecar_image", self.agent())
            // A shell that is the first process of its container hears no SIGTERM.
            .flags(["--cancel-grace-period", "1s", "-v", &format!("{folder}:{folder}")]);
        for name in VARIABLES {
            if let Some(value) = env::var_os(name) {
                launch = launch.env(name, &value);
            }
        }
        launch
    }

    fn task(&self) -> String {
        format!("{}/task:1", self.repository)
    }

    fn agent(&self) -> String {
        format!("{}/agent:1", self.repository)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let all = |arguments: &[&str]| {
            let listed = docker(arguments).map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned());
            listed.unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let remove = |how: &[&str], what: Vec<String>| {
            if !what.is_empty() {
                let _ = docker(how.iter().map(|word| (*word).to_owned()).chain(what));
            }
        };
        // The volume with the agent, and the container that says that it is whole.
        let volume = format!("name={}-agent", self.repository);
        let volumes = all(&["volume", "ls", "--quiet", "--filter", &volume]);
        for volume in &volumes {
            remove(&["rm", "--force"], all(&["ps", "--all", "--quiet", "--filter", &format!("volume={volume}")]));
        }
        remove(&["volume", "rm"], volumes);
        remove(&["rmi"], vec![self.task(), self.agent()]);
    }
}

fn docker<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Output, EngineError> {
    let run = Command::new("docker").args(arguments).stdin(Stdio::null()).output();
    run.map_err(|error| EngineError::Program { program: "docker", error })
}

fn said(output: &Output) -> Result<(), EngineError> {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    if output.status.success() { Ok(()) } else { Err(EngineError::Engine(last.trim().to_owned())) }
}

/// Makes an image of the files in a folder.
fn import(image: &str, folder: &Path) -> Result<(), EngineError> {
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "--owner=0", "--group=0", "-c", "."])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| EngineError::Program { program: "tar", error })?;
    let archive = tar.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let imported =
        Command::new("docker").args(["import", "--change", "ENV PATH=/bin", "-", image]).stdin(archive).output();
    tar.wait()?;
    said(&imported.map_err(|error| EngineError::Program { program: "docker", error })?)
}

/// The libraries that a program is linked with, and what loads them. None of one that needs none.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).stdin(Stdio::null()).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    // `libc.so.6 => /lib/libc.so.6 (0x7f…)`, and `/lib64/ld-linux-x86-64.so.2 (0x7f…)` of the loader.
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(listed.lines().filter_map(path).collect())
}
