//! What an engine, a registry, a credential helper and the docker client's files may say.
#![no_main]

use libfuzzer_sys::arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oz_worker_backends::docker::credentials::{AuthFile, Source, choose, header, read_helper};
use oz_worker_backends::docker::pull::{LONGEST_TEXT, PullProgress};
use oz_worker_backends::contract::redaction::redact;
use oz_worker_backends::contract::reference::Reference;
use oz_worker_backends::docker::state::{ContainerState, Seen, WaitAnswer, outcome};
use oz_worker_backends::docker::tail::{MOST, Tail};
use oz_worker_backends::docker::{labels, registry};
use oz_worker_core::Outcome;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    image: &'a str,
    other: &'a str,
    bytes: &'a [u8],
    pieces: u8,
    secret: &'a str,
}

fuzz_target!(|input: Input<'_>| {
    names(input.image, input.other);
    pulls(input.bytes, input.image);
    states(input.bytes);
    output(input.bytes, usize::from(input.pieces) + 1, input.secret);
    files(input.bytes, input.image);
    let _ = labels::holder(&[input.other.to_owned()]);
});

/// A name is read the same when it is put together again, and every volume of it can be one.
fn names(text: &str, pattern: &str) {
    let Ok(image) = Reference::parse(text) else { return };
    assert_eq!(Reference::parse(&image.to_string()).as_ref(), Ok(&image));
    assert!(image.fits("*") && image.fits(&image.repository()));
    let _ = image.fits(pattern);
    let volume = image.volume(pattern);
    assert!(volume.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')), "{volume}");
    let _ = registry::read(pattern, &image, text.len().is_multiple_of(2));
}

fn pulls(bytes: &[u8], image: &str) {
    let mut pull = PullProgress::default();
    bytes.split(|byte| *byte == b'\n').for_each(|line| pull.line(line, 0));
    assert!(pull.percent().is_none_or(|percent| percent <= 100));
    if let Some(error) = pull.error() {
        assert!(error.chars().count() <= LONGEST_TEXT);
        if let Ok(image) = Reference::parse(image) {
            let _ = registry::read(error, &image, pull.is_known());
        }
    }
}

/// Nothing but an exit with 0 is a success.
fn states(bytes: &[u8]) {
    if let Ok(state) = serde_json::from_slice::<ContainerState>(bytes)
        && let Seen::Exited { exit_code, is_oom } = state.seen()
    {
        assert!(!state.running && !state.status.is_empty());
        assert_eq!(outcome(exit_code, is_oom) == Outcome::Completed, exit_code == 0);
    }
    if let Ok(answer) = serde_json::from_slice::<WaitAnswer>(bytes) {
        assert_eq!(answer.exit_code() == Some(0), answer.status_code == Some(0) && answer.exit_code().is_some());
    }
}

/// However it is cut, the output is the same; no secret is left in it.
fn output(bytes: &[u8], piece: usize, secret: &str) {
    let whole = tail(bytes, bytes.len().max(1));
    assert!(whole.len() <= MOST);
    assert_eq!(tail(bytes, piece), whole);
    let shown = redact(whole, [("SECRET", secret)].into_iter());
    // What stands in the place of a secret may make another with its surroundings only if it has stars itself.
    if secret.trim().len() >= 4 && !secret.contains('*') {
        assert!(!shown.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

fn tail(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut tail = Tail::default();
    bytes.chunks(piece).for_each(|piece| tail.take(piece));
    tail.finish()
}

fn files(bytes: &[u8], registry: &str) {
    for is_success in [true, false] {
        if let Ok(Some(credentials)) = read_helper(is_success, bytes) {
            assert!(header(&credentials, registry).expose().is_ascii());
        }
    }
    let Ok(file) = AuthFile::parse(bytes) else { return };
    if let Source::Helper { name, .. } = choose(registry, None, Some(&file)) {
        assert!(!name.is_empty() && !name.contains('/'));
    }
}
