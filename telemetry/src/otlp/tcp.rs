//! TCP to a collector: the first of its addresses that answers (RFC 8305), for every protocol.

use std::io::{self, Error as IoError, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use oz_worker_net::connect_first;
use tokio::net::TcpStream as AsyncStream;
use tokio::runtime::Builder;
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

/// Connects to the first of these addresses that answers.
///
/// # Errors
/// What the operating system says of the last; without an address, that none was found.
pub(super) async fn connect(addresses: Vec<SocketAddr>) -> io::Result<AsyncStream> {
    let connected = connect_first(addresses, AsyncStream::connect, tokio::time::sleep).await;
    let stream = connected.map_err(|failed| failed.map_or_else(|| ErrorKind::NotFound.into(), |(_, error)| error))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// `ureq`'s connector for plain sockets. Its own tries one address after the other, and halves the time for each.
#[derive(Debug)]
pub(super) struct FirstAddress;

impl<In: Transport> Connector<In> for FirstAddress {
    type Out = Either<In, TcpTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let addresses = details.addrs.iter().copied().collect();
        let stream = runtime.block_on(async {
            match details.timeout.not_zero() {
                Some(time) => tokio::time::timeout(*time, connect(addresses)).await,
                None => Ok(connect(addresses).await),
            }
        });
        let stream = stream.map_err(|_| Error::Timeout(details.timeout.reason))??.into_std()?;
        stream.set_nonblocking(false)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TcpTransport { stream, buffers })))
    }
}

#[derive(Debug)]
pub(super) struct TcpTransport {
    stream: TcpStream,
    buffers: LazyBuffers,
}

/// A socket whose time is over says that it would block.
fn failure(error: IoError, timeout: NextTimeout) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.stream.set_write_timeout(timeout.not_zero().map(|time| *time))?;
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output).map_err(|error| failure(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.stream.set_read_timeout(timeout.not_zero().map(|time| *time))?;
        let read = self.stream.read(self.buffers.input_append_buf()).map_err(|error| failure(error, timeout))?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        // Nothing is to be read between two exchanges: neither an end nor a byte.
        let peek = |stream: &TcpStream| stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        let is_quiet = peek(&self.stream).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        is_quiet && self.stream.set_nonblocking(false).is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::{Duration, Instant};

    use super::*;

    /// An address at which nobody answers: its queue is full.
    struct Dead {
        address: SocketAddr,
        _held: Vec<TcpStream>,
        _listener: TcpListener,
    }

    impl Dead {
        fn new() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let address = listener.local_addr().unwrap();
            let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(200));
            let held = std::iter::from_fn(|| fill().ok()).collect();
            Self { address, _held: held, _listener: listener }
        }
    }

    #[test]
    fn addresses_at_which_nobody_answers_hold_up_the_next_for_a_quarter_of_a_second_each() {
        let (dead, listener) = ([Dead::new(), Dead::new(), Dead::new()], TcpListener::bind("127.0.0.1:0").unwrap());
        let alive = listener.local_addr().unwrap();
        let addresses = dead.iter().map(|dead| dead.address).chain([alive]).collect();
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        let begun = Instant::now();
        let stream = runtime.block_on(connect(addresses)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        // Three quarters of a second; the operating system itself would try for minutes.
        assert!(
            (Duration::from_millis(700)..Duration::from_secs(20)).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
    }
}
