//! This host as a [`Machine`].

use std::io;

use oz_worker_host::{HostFiles, Processes, Tree};
use oz_worker_runtime::{Command, Machine, Owner};

use crate::ChildProcess;

/// The machine that this process runs on. A clone is another handle to the same.
#[derive(Debug, Clone, Default)]
pub struct LocalMachine {
    processes: Processes,
}

impl Machine for LocalMachine {
    type Files = HostFiles;
    type Process = ChildProcess;
    type Tree = Tree;

    fn adopt(&self, owner: &Owner) -> io::Result<usize> {
        self.processes.adopt(owner)
    }

    fn reap(&self) {
        self.processes.reap();
    }

    fn release(&self) {
        self.processes.close();
    }

    fn files(&self) -> &HostFiles {
        &HostFiles
    }

    fn tree(&self) -> Tree {
        self.processes.tree()
    }

    fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<ChildProcess> {
        ChildProcess::new(self.processes.start(command, tree)?)
    }

    fn group_is_alive(&self, leader: u32) -> bool {
        self.processes.group_is_alive(leader)
    }
}
