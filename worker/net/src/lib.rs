//! Bytes to somewhere: dial, proxy, TLS, and HTTP/1.1 over a runtime's streams.

#![forbid(unsafe_code)]

pub mod proxy;
pub mod tls;
pub mod url;
