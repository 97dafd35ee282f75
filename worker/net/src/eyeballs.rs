//! One connection out of several addresses (RFC 8305, Happy Eyeballs): an address that does not answer holds up the next
//! one for a quarter of a second, not for its whole time-out.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// How long an attempt may go on before the next one begins beside it: the Connection Attempt Delay of section 5.
const DELAY: Duration = Duration::from_millis(250);

/// The first connection that is there. The others are given up. How a connection is opened and how time passes is the
/// caller's affair, so that every dial of the program can use this.
///
/// # Errors
/// The address that failed last and what the operating system said, or `None` when there is no address.
pub(crate) async fn connect_first<S, C: Future<Output = io::Result<S>>, D: Future>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> C,
    sleep: impl Fn(Duration) -> D,
) -> Result<S, Option<(SocketAddr, io::Error)>> {
    let mut waiting = in_turns(addresses).into_iter();
    let mut attempts: Vec<(SocketAddr, Pin<Box<C>>)> = Vec::new();
    let mut delay = Box::pin(sleep(Duration::ZERO));
    let mut failed = None;
    poll_fn(|cx| {
        let mut begin_next = attempts.is_empty();
        loop {
            if begin_next && let Some(address) = waiting.next() {
                attempts.push((address, Box::pin(connect(address))));
                delay.set(sleep(DELAY));
            }
            let under_way = attempts.len();
            let mut connected = None;
            attempts.retain_mut(|(address, attempt)| match attempt.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(stream)) => {
                    connected = Some(stream);
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed = Some((*address, error));
                    false
                }
            });
            if let Some(stream) = connected {
                return Poll::Ready(Ok(stream));
            }
            let is_last = waiting.as_slice().is_empty();
            if is_last && attempts.is_empty() {
                return Poll::Ready(Err(failed.take()));
            }
            begin_next = attempts.len() < under_way || delay.as_mut().poll(cx).is_ready();
            if is_last || !begin_next {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// The addresses in their order, but the two families in turns (section 4), and each address once.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    for family in [&mut first, &mut second] {
        let mut known = Vec::new();
        family.retain(|address| {
            let is_new = !known.contains(address);
            known.push(*address);
            is_new
        });
    }
    let mut second = second.into_iter();
    let mut ordered: Vec<_> = first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    ordered.extend(second);
    ordered
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn the_families_take_turns_and_no_address_is_tried_twice() {
        for (addresses, expected) in [
            ("[::1]:1 [::2]:1 1.1.1.1:1 [::3]:1 2.2.2.2:1", "[::1]:1 1.1.1.1:1 [::2]:1 2.2.2.2:1 [::3]:1"),
            ("1.1.1.1:1 [::1]:1 [::2]:1", "1.1.1.1:1 [::1]:1 [::2]:1"),
            ("1.1.1.1:1 1.1.1.1:1 2.2.2.2:1 1.1.1.1:1", "1.1.1.1:1 2.2.2.2:1"),
            ("", ""),
        ] {
            let parse = |text: &str| text.split_whitespace().map(|one| one.parse().unwrap()).collect::<Vec<_>>();
            assert_eq!(in_turns(parse(addresses)), parse(expected), "{addresses}");
        }
    }

    /// Dials to addresses of which those with port 1 connect, those with port 2 fail, and all others hang; the next may begin
    /// beside one that hangs when `is_late`. Gives what became of it at once, and the addresses that were tried.
    fn dial(addresses: &str, is_late: bool) -> (Option<Result<u16, Option<SocketAddr>>>, Vec<u16>) {
        let tried = Mutex::new(Vec::new());
        let connect = |address: SocketAddr| {
            tried.lock().unwrap().push(address.ip().to_string().rsplit('.').next().unwrap().parse().unwrap());
            async move {
                match address.port() {
                    1 => Ok(address.port()),
                    2 => Err(io::Error::other("refused")),
                    _ => pending().await,
                }
            }
        };
        let sleep = |_| async move {
            if !is_late {
                pending::<()>().await;
            }
        };
        let addresses = addresses.split_whitespace().map(|one| one.parse().unwrap()).collect();
        let dialled = block_on(poll_once(connect_first(addresses, connect, sleep)));
        let dialled = dialled.map(|result| result.map_err(|failed| failed.map(|(address, _)| address)));
        (dialled, tried.into_inner().unwrap())
    }

    #[test]
    fn an_address_that_fails_or_hangs_is_followed_by_the_next() {
        assert_eq!(dial("", false), (Some(Err(None)), vec![]));
        assert_eq!(dial("1.1.1.1:1 1.1.1.2:1", false), (Some(Ok(1)), vec![1]));
        // One that fails at once, also while its time is not over.
        assert_eq!(dial("1.1.1.1:2 1.1.1.2:1", false), (Some(Ok(1)), vec![1, 2]));
        let last = "1.1.1.2:2".parse().unwrap();
        assert_eq!(dial("1.1.1.1:2 1.1.1.2:2", false), (Some(Err(Some(last))), vec![1, 2]));
        // One that hangs, when its time is over.
        assert_eq!(dial("1.1.1.1:3 1.1.1.2:1", false), (None, vec![1]));
        assert_eq!(dial("1.1.1.1:3 1.1.1.2:1", true), (Some(Ok(1)), vec![1, 2]));
        assert_eq!(dial("1.1.1.1:3 1.1.1.2:3", true), (None, vec![1, 2]));
        // One that hangs does not fail because the next does.
        assert_eq!(dial("1.1.1.1:3 1.1.1.2:2", true), (None, vec![1, 2]));
        assert_eq!(dial("1.1.1.1:3 1.1.1.2:2 1.1.1.3:1", true), (Some(Ok(1)), vec![1, 2, 3]));
    }
}
