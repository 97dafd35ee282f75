//! What a task writes: its output, and the file of variables of its setup command.
#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oz_worker_backends::contract::output::LONGEST_LINE;
use oz_worker_backends::contract::output::fuzzing::lines;
use oz_worker_backends::direct::dotenv;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    bytes: &'a [u8],
    /// How long each piece is in which the output comes; longer ones are made of it.
    piece: u8,
    times: u16,
}

fuzz_target!(|input: Input<'_>| {
    let known = [("PATH", "/usr/bin"), ("A", "$A ${B}")].into_iter().collect();
    let dotenv::Variables { set, unreadable } = dotenv::read(input.bytes, &known);
    let ends = input.bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    assert!(unreadable.iter().all(|line| (1..=ends + 1).contains(line)) && unreadable.is_sorted());
    for (name, value) in set.iter() {
        assert!(!name.is_empty() && !name.as_bytes().iter().any(|byte| matches!(byte, b'=' | 0)));
        assert!(!value.as_bytes().contains(&0));
    }

    let output = input.bytes.repeat(usize::from(input.times % 512) + 1);
    let whole = lines([output.as_slice()]);
    assert_eq!(lines(output.chunks(usize::from(input.piece) + 1)), whole, "how it is cut makes a difference");
    let (mut shown, mut cut) = (0, 0);
    for (line, lost) in &whole {
        assert!(line.len() <= LONGEST_LINE && !line.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
        assert!(*lost == 0 || line.len() == LONGEST_LINE);
        (shown, cut) = (shown + line.len() as u64, cut + lost);
    }
    let text = output.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')).count() as u64;
    assert_eq!(shown + cut, text, "bytes are neither shown nor counted");
});
