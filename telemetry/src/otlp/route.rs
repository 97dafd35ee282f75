//! The way to a collector: its destination, and what goes with every request there.

use std::sync::Arc;

use http::HeaderMap;
use oz_worker_net::{Destination, Remote, Wire, dial};
use tokio::net::TcpStream;
use tokio_util::compat::Compat;

use crate::otlp::body::Encoding;
use crate::otlp::failure::ExportFailure;
use crate::otlp::headers::headers;
use crate::otlp::last_word::{LastWord, Said};
use crate::otlp::runtime::ExportRuntime;
use crate::settings::{Otlp, Protocol};

/// A connection to a collector.
pub(super) type Connection = LastWord<Wire<Compat<TcpStream>>>;

/// The way to one collector.
pub(super) struct Route {
    pub(super) destination: Destination,
    pub(super) headers: HeaderMap,
    runtime: ExportRuntime,
}

impl Route {
    pub(super) fn new(otlp: &Otlp, encoding: Encoding) -> Self {
        let remote = Remote {
            url: otlp.endpoint.clone(),
            proxy: otlp.proxy.clone(),
            tls: Arc::clone(&otlp.tls),
            http2: otlp.protocol == Protocol::Grpc,
        };
        Self {
            headers: headers(&otlp.endpoint, &otlp.headers, encoding),
            destination: Destination::Host(Box::new(remote)),
            runtime: ExportRuntime::new(),
        }
    }

    /// Connects, and gives what is said on the connection before it ends.
    ///
    /// # Errors
    /// No connection.
    pub(super) async fn connect(&self) -> Result<(Connection, Said), ExportFailure> {
        Ok(LastWord::listen(dial(&self.runtime, &self.destination).await?))
    }
}
