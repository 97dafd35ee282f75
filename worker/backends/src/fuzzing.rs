//! What the fuzz targets reach beside the public items.

use std::ffi::OsString;

use oz_worker_runtime::Environment;

pub use crate::output::fuzzing::lines;

/// What a setup command's file says to an agent that has these variables anyway, and which lines say nothing.
pub fn variables(file: &[u8], known: &Environment) -> (Vec<(OsString, OsString)>, Vec<usize>) {
    let read = crate::direct::read_variables(file, known);
    (read.set.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), read.unreadable)
}
