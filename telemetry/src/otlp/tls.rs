//! TLS under `ureq`: its last connector, with the configuration that every other connection of the worker has.
//!
//! `ureq`'s own would make a configuration from certificates of its own type, and keep it for as long as it lives. This one
//! is made for each connection, so that an authority that changed needs no restart.

use std::io::{self, Read, Write};
use std::sync::Arc;

use oz_worker_net::tls::{Tls, TlsFault};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// Speaks TLS over what the connectors before it have connected, when the URL asks for that.
#[derive(Debug)]
pub(super) struct TlsConnector {
    pub(super) tls: Arc<Tls>,
    pub(super) name: Option<ServerName<'static>>,
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let config = self.tls.client_config().map_err(|error| Error::Other(error.into()))?;
        let name = self.name.clone().ok_or(Error::HostNotFound)?;
        let mut session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut socket = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        session.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(session, socket) })))
    }
}

/// Why the other side is gone: what it said last, if it said anything, or else `error`. A collector that misses a client
/// certificate says so after the handshake, while the request is being written; by then there may be nobody to write to.
fn cause(stream: &mut StreamOwned<ClientConnection, TransportAdapter>, error: io::Error) -> io::Error {
    if !is_gone(&error) {
        return error;
    }
    while stream.conn.read_tls(&mut stream.sock).is_ok_and(|read| read > 0) {
        if let Err(said) = stream.conn.process_new_packets() {
            return io::Error::new(io::ErrorKind::InvalidData, said);
        }
    }
    error
}

/// Whether this says no more than that there is nobody any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let is_bare = matches!(TlsFault::from(error), TlsFault::Io(_));
    is_bare && matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = self.buffers.output();
        let written = self.stream.write_all(output.get(..amount).unwrap_or_default());
        Ok(written.map_err(|error| cause(&mut self.stream, error))?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf());
        let read = read.map_err(|error| cause(&mut self.stream, error))?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
