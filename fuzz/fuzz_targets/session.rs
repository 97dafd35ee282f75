//! Arbitrary inputs at arbitrary times, held against the laws and the reference of core's property tests: their very
//! model, not a copy of it.
#![no_main]

#[path = "../../core/tests/model/mod.rs"]
#[allow(dead_code, unused_imports)]
mod model;

use libfuzzer_sys::fuzz_target;
use model::{Setup, Step, kill, play};

/// More of them are slower and find nothing that fewer do not.
const MOST_STEPS: usize = 300;

fuzz_target!(|input: (Setup, Vec<Step>)| {
    let (setup, mut steps) = input;
    steps.truncate(MOST_STEPS);
    play(&setup, &steps);
    kill(&setup, &steps, setup.seed.to_le_bytes()[0]);
});
