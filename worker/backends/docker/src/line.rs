//! A connection to an engine: a socket, or the program `ssh` with the engine at its other end.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use futures_lite::AsyncReadExt;
use oz_worker_contract::machine::{self, ProcessOf};
use oz_worker_net::Wire;
use oz_worker_runtime::{Command, Environment, Host, Pipes, Process, Signal};

use super::place::SshHost;

/// How much of what `ssh` says is kept for an error, in bytes.
const MOST_SAID: u64 = 1 << 10;
/// How long `ssh` may take to connect, in seconds; the docker client's own figure.
const CONNECT_TIMEOUT: &str = "-oConnectTimeout=30";

/// A connection to an engine.
pub enum Line<R: Host> {
    Socket(Wire<R::Stream>),
    Ssh(Box<SshLine<ProcessOf<R>>>),
}

/// The program `ssh`, which is killed when this is dropped.
pub struct SshLine<P: Process> {
    process: P,
    input: P::Input,
    output: P::Output,
}

impl<P: Process> Drop for SshLine<P> {
    fn drop(&mut self) {
        self.process.signal_group(Signal::Kill);
    }
}

/// How to start `ssh`.
#[derive(Debug)]
pub struct Ssh {
    pub program: PathBuf,
    pub host: SshHost,
    /// The worker's own environment: its agent and its home are in there.
    pub env: Environment,
}

/// What `ssh` wrote to its standard error.
pub type Said = Arc<Mutex<Vec<u8>>>;

impl Ssh {
    fn command(&self) -> Command {
        let SshHost { user, host, port } = &self.host;
        let mut args = vec![CONNECT_TIMEOUT.to_owned(), "-oBatchMode=yes".to_owned(), "-T".to_owned()];
        args.extend(user.iter().flat_map(|user| ["-l".to_owned(), user.clone()]));
        args.extend(port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
        args.extend(["--", host, "docker", "system", "dial-stdio"].map(str::to_owned));
        Command {
            program: self.program.clone(),
            args: args.into_iter().map(Into::into).collect(),
            env: self.env.clone(),
            cwd: Some("/".into()),
            input: true,
            output: Pipes::Apart,
        }
    }

    /// Starts it. What it says about a failure comes into the second part.
    pub async fn start<R: Host>(&self, runtime: &R) -> io::Result<(Line<R>, Said)> {
        let mut process = machine::start(runtime, self.command(), None, || true, || ()).await?;
        let (Some(input), Some(output)) = (process.input(), process.output()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let said = Said::default();
        if let Some(errors) = process.errors() {
            let kept = Arc::clone(&said);
            runtime.spawn(async move {
                let mut text = Vec::new();
                let mut errors = errors;
                let _ = (&mut errors).take(MOST_SAID).read_to_end(&mut text).await;
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = text;
                // It must not wait for a reader.
                let _ = futures_lite::io::copy(errors, futures_lite::io::sink()).await;
            });
        }
        Ok((Line::Ssh(Box::new(SshLine { process, input, output })), said))
    }
}

impl<R: Host> AsyncRead for Line<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(wire) => Pin::new(wire).poll_read(cx, to),
            Self::Ssh(line) => Pin::new(&mut line.output).poll_read(cx, to),
        }
    }
}

macro_rules! write_to {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        match $self.get_mut() {
            Self::Socket(wire) => Pin::new(wire).$method($($argument),*),
            Self::Ssh(line) => Pin::new(&mut line.input).$method($($argument),*),
        }
    };
}

impl<R: Host> AsyncWrite for Line<R> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        write_to!(self, poll_write, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        write_to!(self, poll_flush, cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        write_to!(self, poll_close, cx)
    }
}
