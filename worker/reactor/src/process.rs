//! Child processes, awaited on the reactor.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;

use async_io::Async;

use oz_worker_host::Child;
use oz_worker_runtime::{self as runtime, Exit, Signal};

#[derive(Debug)]
pub struct ChildProcess {
    input: Option<Async<PipeWriter>>,
    output: Option<Async<PipeReader>>,
    errors: Option<Async<PipeReader>>,
    child: Async<Arc<Child>>,
}

impl ChildProcess {
    /// Makes a process that was just started known to the reactor.
    ///
    /// # Errors
    /// When the reactor has no room for it. The process is killed then, since nobody would know of it.
    pub(super) fn new(mut child: Child) -> io::Result<Self> {
        let (input, output, errors) = (child.input(), child.output(), child.errors());
        let child = Arc::new(child);
        let known = || {
            let input = input.map(Async::new_nonblocking).transpose()?;
            let output = output.map(Async::new_nonblocking).transpose()?;
            let errors = errors.map(Async::new_nonblocking).transpose()?;
            Ok(Self { input, output, errors, child: Async::new_nonblocking(Arc::clone(&child))? })
        };
        known().inspect_err(|_| child.signal_group(Signal::Kill))
    }
}

impl runtime::Process for ChildProcess {
    type Input = Async<PipeWriter>;
    type Output = Async<PipeReader>;

    fn id(&self) -> u32 {
        self.child.get_ref().pid()
    }

    fn input(&mut self) -> Option<Async<PipeWriter>> {
        self.input.take()
    }

    fn output(&mut self) -> Option<Async<PipeReader>> {
        self.output.take()
    }

    fn errors(&mut self) -> Option<Async<PipeReader>> {
        self.errors.take()
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
