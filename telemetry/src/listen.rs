//! Where the endpoint listens: every address of the host that was asked for.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, ToSocketAddrs};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// How many connections may wait to be accepted: the same as the standard library's.
const BACKLOG: i32 = 128;

/// How often a port that the operating system chose for one address may be taken on another.
const ATTEMPTS: usize = 16;

/// Listens on `host`:`port`, on every address that the name has: `localhost` is often both 127.0.0.1 and `::1`, and a client
/// may try either. IPv4 comes first. `::` is every address of both families, and of IPv4 alone where the kernel has no IPv6.
/// Port 0 is one port that the operating system chooses, the same on all of them.
///
/// # Errors
/// The name has no address, or the operating system refuses the port on one of them. One that this machine does not have
/// (`::1` where IPv6 is off) only counts when there is no other.
pub(crate) fn listen(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if name.parse() == Ok(Ipv6Addr::UNSPECIFIED) {
        return everywhere(port, both_families).map(|listener| vec![listener]);
    }
    let mut addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    let mut attempt = 1;
    loop {
        match bind(&addresses) {
            Err(error) if port == 0 && error.kind() == ErrorKind::AddrInUse && attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

/// On every address of this machine.
fn everywhere(port: u16, both: impl FnOnce(u16) -> io::Result<TcpListener>) -> io::Result<TcpListener> {
    let listener = match both(port) {
        Err(error) if is_missing(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
        result => result,
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// On `::`, which takes IPv4 too: said here, because the system's default may be another (`net.ipv6.bindv6only`).
fn both_families(port: u16) -> io::Result<TcpListener> {
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // As the standard library does: a port of a worker that has just ended is free.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    rustix::net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut missing = io::Error::other("the host has no address");
    for address in addresses {
        let mut address = *address;
        if let Some(first) = listeners.first() {
            address.set_port(first.local_addr()?.port());
        }
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                listeners.push(listener);
            }
            Err(error) if is_missing(&error) => missing = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(missing) } else { Ok(listeners) }
}

/// Whether the address, or its whole family, is not on this machine.
fn is_missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let missing = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| missing.contains(&code))
}

/// The addresses, as the log shows them.
pub(crate) fn shown(listeners: &[TcpListener]) -> String {
    let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
    addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn any(address: &str) -> SocketAddr {
        (address.parse::<std::net::IpAddr>().unwrap(), 0).into()
    }

    #[test]
    fn every_address_gets_the_same_port() {
        let listeners = bind(&[any("127.0.0.1"), any("127.0.0.2")]).unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        assert_eq!(listeners.iter().map(port).collect::<Vec<_>>(), vec![port(listeners.first().unwrap()); 2]);
        let text = shown(&listeners);
        assert!(text.starts_with("127.0.0.1:") && text.contains(", 127.0.0.2:"), "{text}");
    }

    #[test]
    fn an_address_that_this_machine_does_not_have_counts_only_when_there_is_no_other() {
        // From TEST-NET-1 (RFC 5737).
        let elsewhere = any("192.0.2.1");
        assert_eq!(bind(&[elsewhere, any("127.0.0.1")]).unwrap().len(), 1);
        assert_eq!(bind(&[elsewhere]).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn every_address_includes_those_of_ipv4() {
        for host in ["::", "[::]"] {
            let listeners = listen(host, 0).unwrap();
            let port = listeners.first().unwrap().local_addr().unwrap().port();
            // The suite of `--health-address` asks over IPv6 too.
            assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_kernel_without_ipv6_leaves_ipv4() {
        let missing = |_| Err(rustix::io::Errno::AFNOSUPPORT.into());
        let listener = everywhere(0, missing).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        // Another reason is an error.
        let taken = |_| Err(rustix::io::Errno::ADDRINUSE.into());
        assert_eq!(everywhere(0, taken).unwrap_err().kind(), ErrorKind::AddrInUse);
        let held = both_families(0).unwrap();
        let port = held.local_addr().unwrap().port();
        assert_eq!(listen("::", port).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_that_is_taken_on_one_address_is_an_error() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let held = TcpListener::bind(taken).unwrap();
        assert_eq!(listen("127.0.0.1", taken.port()).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(held);
    }
}
