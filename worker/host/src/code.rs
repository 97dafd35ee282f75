//! The worker's own code in memory.

use std::ffi::c_void;
use std::fs;
use std::path::Path;

use rustix::mm::{Advice, madvise};

/// Takes what this program has of its own code off its resident memory; what is needed again comes back from the file, which
/// the system keeps anyway. To be called once the start is over: half of all code is for flags, file and first steps, and
/// the kernel brings 15 neighbours along with each page of it.
///
/// That it does not work costs memory and nothing else.
pub fn give_back_code() {
    let Ok(program) = fs::read_link("/proc/self/exe") else { return };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(|line| code_of(&program, line)) {
        // SAFETY: the mapping is of a file and not writable (`code_of`), so its pages are what the file has: one that is
        // dropped and one that is read again cannot be told apart.
        let _ =
            unsafe { madvise(std::ptr::with_exposed_provenance_mut::<c_void>(start), length, Advice::LinuxDontNeed) };
    }
}

/// Start and length of the mapping that a line of `proc_pid_maps(5)` is about, if it is code of `program`.
fn code_of(program: &Path, line: &str) -> Option<(usize, usize)> {
    let mut fields = line.splitn(6, ' ');
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?.trim_start();
    if permissions != "r-xp" || Path::new(path) != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_code_of_the_program_is_given_back() {
        let program = Path::new("/opt/a program");
        let of = |line| code_of(program, line);
        assert_eq!(
            of("1000-3000 r-xp 00000000 fe:00 42                         /opt/a program"),
            Some((0x1000, 0x2000))
        );
        // Relocated once, and not what the file has.
        assert_eq!(of("3000-4000 r--p 00002000 fe:00 42                         /opt/a program"), None);
        assert_eq!(of("4000-5000 rw-p 00003000 fe:00 42                         /opt/a program"), None);
        assert_eq!(of("1000-3000 r-xp 00000000 fe:00 42                         /lib/libc.so.6"), None);
        assert_eq!(of("1000-3000 r-xp 00000000 00:00 0"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn the_program_goes_on_without_it() {
        give_back_code();
        assert_eq!("12".parse(), Ok(12));
    }
}
