//! Bytes to somewhere: dial, proxy, TLS, and HTTP/1.1 over a runtime's streams.
//!
//! [`dial()`] gives a connection to a [`Destination`]; [`HttpClient`] speaks HTTP on it, and gives it back after an upgrade;
//! [`lines`] cuts what comes into lines. [`url`], [`proxy`] and [`tls`] are also for whoever brings sockets of their own.

#![forbid(unsafe_code)]

mod destination;
mod dial;
mod eyeballs;
mod http;
pub mod lines;
mod payload;
pub mod proxy;
mod socket;
pub mod tls;
pub mod url;
mod wire;

pub use destination::{Destination, Remote};
pub use dial::{DialError, dial};
pub use http::{Answer, AnswerError, Body, HttpClient, LARGEST_HEAD, Rest, lists};
pub use payload::{Payload, secret_value};
pub use socket::Duplex;
pub use wire::{Moved, Wire};
