//! Child processes, awaited on smol's reactor.

use std::io::{self, PipeReader, PipeWriter};

use oz_worker::host::Child;
use oz_worker::runtime::{self, Exit, Signal};
use smol::Async;

/// A child process.
#[derive(Debug)]
pub struct Process {
    input: Option<Async<PipeWriter>>,
    output: Option<Async<PipeReader>>,
    child: Async<Child>,
}

impl Process {
    pub(crate) fn new(mut child: Child) -> io::Result<Self> {
        let input = child.input().map(Async::new_nonblocking).transpose()?;
        let output = child.output().map(Async::new_nonblocking).transpose()?;
        Ok(Self { input, output, child: Async::new_nonblocking(child)? })
    }
}

impl runtime::Process for Process {
    type Input = Async<PipeWriter>;
    type Output = Async<PipeReader>;

    fn input(&mut self) -> Option<Async<PipeWriter>> {
        self.input.take()
    }

    fn output(&mut self) -> Option<Async<PipeReader>> {
        self.output.take()
    }

    async fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.child.get_ref().try_wait()? {
                return Ok(exit);
            }
            self.child.readable().await?;
        }
    }

    fn signal_group(&self, signal: Signal) {
        self.child.get_ref().signal_group(signal);
    }
}
