//! A configuration file as bytes: settings or refusals, each one line, and nothing that shows the API key.
#![no_main]

use std::ffi::OsString;

use libfuzzer_sys::fuzz_target;
use oz_worker::settings::{Invocation, Version, from_args};

const KEY: &str = "wk-5ecret";
const VERSION: Version = Version { version: "0", commit: None, runtime: "none" };

fuzz_target!(|bytes: &[u8]| {
    let arguments = ["--api-key", KEY, "--worker-id", "w", "--config-file", "f.yaml"].map(OsString::from);
    // A variable that is named without a value takes it from here.
    let env = |name: &str| (name != "WARP_API_KEY").then(|| name.to_owned());
    match from_args(arguments.into(), &env, &|_| Ok(bytes.to_vec()), &VERSION) {
        Ok(Invocation::Run(settings)) => {
            assert!(!format!("{settings:?} {}", settings.dial_url()).contains(KEY));
            settings.warnings.iter().for_each(|line| check(line));
        }
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => {
            assert_eq!(refusal.exit_code, 2);
            assert!(!refusal.lines.is_empty());
            refusal.lines.iter().for_each(|line| check(line));
        }
    }
});

fn check(line: &str) {
    assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
    // Long values are repeated in part, if at all.
    assert!(line.chars().count() < 2_000, "{line:?}");
}
