//! The stand-in for `oz`: a shell script that does what a test tells it, and says what it is doing.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, mkfifoat},
};
use tempfile::TempDir;

use crate::BOUND;

/// A program to run as `oz`, or as a dispatch command.
///
/// Its script may use three functions of the harness: `say WORD…` tells the test something ([`Agent::wait_for`]),
/// `gate` waits for [`Agent::open_gate`], and `record` keeps arguments, environment and directory ([`Agent::record`]).
///
/// A script that must hear a signal waits with `sleep 600 & wait`: a shell runs its trap during `wait`, but may enter
/// `read` or a program with a signal pending and notice it only afterwards.
pub struct Agent {
    dir: TempDir,
    events: Mutex<Events>,
    gate: File,
}

struct Events {
    fifo: File,
    partial: Vec<u8>,
    lines: Vec<String>,
}

/// What the script's `record` kept of one task.
#[derive(Debug)]
pub struct Record {
    /// Arguments, the program left out.
    pub arguments: Vec<String>,
    /// The environment the process was started with.
    pub environment: BTreeMap<String, String>,
    /// The working directory, symbolic links resolved.
    pub directory: PathBuf,
}

impl Agent {
    /// An agent that runs what each assignment says (see [`crate::message::Assignment::run`]).
    pub fn new() -> Self {
        Self::running(r#"eval "${SCRIPT-}""#)
    }

    /// An agent that always runs this script.
    pub fn running(script: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fifo = |name: &str| {
            let path = dir.path().join(name);
            mkfifoat(CWD, &path, Mode::from_raw_mode(0o666)).expect("a FIFO");
            // Open for both: neither end ever sees the other missing.
            OpenOptions::new().read(true).write(true).open(path).expect("a FIFO can be opened")
        };
        let agent = Self {
            events: Mutex::new(Events { fifo: fifo("events"), partial: Vec::new(), lines: Vec::new() }),
            gate: fifo("gate"),
            dir,
        };
        let text = format!(
            r#"#!/bin/sh
dir='{dir}'
task="${{TASK_ID-${{OZ_RUN_ID-}}}}"
say() {{ printf '%s %s\n' "$task" "$*" > "$dir/events"; }}
gate() {{ read -r _ < "$dir/gate"; }}
record() {{
    mkdir -p "$dir/record/$task"
    printf '%s\0' "$@" > "$dir/record/$task/arguments"
    cat "/proc/$$/environ" > "$dir/record/$task/environment"
    pwd -P > "$dir/record/$task/directory"
}}
{script}
"#,
            dir = agent.dir.path().display(),
        );
        write_program(&agent.program(), &text);
        agent
    }

    pub fn program(&self) -> PathBuf {
        self.dir.path().join("oz")
    }

    /// A directory of its own, which no worker touches.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until a task's script said this.
    pub fn wait_for(&self, task_id: &str, said: &str) {
        let line = format!("{task_id} {said}");
        self.find(&line, |heard| (heard == line).then_some(()));
    }

    /// Waits until a task's script said `word` and a value, and gives the value.
    pub fn hear(&self, task_id: &str, word: &str) -> String {
        let start = format!("{task_id} {word} ");
        self.find(&start, |heard| heard.strip_prefix(&start).map(str::to_owned))
    }

    /// Waits until a task's script said `word` and a process id.
    pub fn hear_pid(&self, task_id: &str, word: &str) -> i32 {
        self.hear(task_id, word).trim().parse().expect("a process id")
    }

    /// Everything that was said so far.
    pub fn said(&self) -> Vec<String> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        while events.read_until(Instant::now()) {}
        events.lines.clone()
    }

    /// Lets one script that waits at its gate go on.
    pub fn open_gate(&self) {
        (&self.gate).write_all(b"\n").expect("room in a FIFO");
    }

    pub fn record(&self, task_id: &str) -> Record {
        let read = |name: &str| {
            let path = self.dir.path().join("record").join(task_id).join(name);
            let bytes =
                fs::read(&path).unwrap_or_else(|error| panic!("the agent of {task_id} recorded no {name}: {error}"));
            String::from_utf8(bytes).expect("recorded text is UTF-8")
        };
        let nul_terminated = |text: String| -> Vec<String> {
            text.strip_suffix('\0').map_or_else(Vec::new, |text| text.split('\0').map(str::to_owned).collect())
        };
        Record {
            arguments: nul_terminated(read("arguments")),
            environment: nul_terminated(read("environment"))
                .into_iter()
                .filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
                .collect(),
            directory: read("directory").trim_end_matches('\n').into(),
        }
    }

    fn find<T>(&self, wanted: &str, mut matches: impl FnMut(&str) -> Option<T>) -> T {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + BOUND;
        loop {
            if let Some(found) = events.lines.iter().find_map(|line| matches(line)) {
                return found;
            }
            assert!(events.read_until(deadline), "no agent said {wanted:?}, but: {:#?}", events.lines);
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self::new()
    }
}

impl Events {
    /// Reads what is there or comes before the deadline. False when nothing did.
    fn read_until(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("a bound of seconds");
        if poll(&mut [PollFd::new(&self.fifo, PollFlags::IN)], Some(&timeout)) != Ok(1) {
            return false;
        }
        let mut chunk = [0; 4096];
        let length = self.fifo.read(&mut chunk).expect("a FIFO can be read");
        self.partial.extend_from_slice(chunk.get(..length).unwrap_or_default());
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.lines.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
        }
        true
    }
}

pub fn write_program(path: &Path, text: &str) {
    // A file that this process still holds open for writing cannot be executed, and a child that another thread is
    // just forking holds a copy of every descriptor: so the shell writes it.
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", r#"cat > "$0""#])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("a shell that reads");
    assert!(child.wait().expect("a child").success(), "could not write {}", path.display());
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("one's own file");
}
