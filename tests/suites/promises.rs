//! `docs/monitoring.md` names a test beside each promise: each of them exists.

use std::{fs, path::Path};

#[test]
fn every_test_that_the_documentation_names_exists() {
    let page = include_str!("../../docs/monitoring.md");
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let quoted = page.split('`').skip(1).step_by(2).filter(|text| !text.contains([' ', '/']) && *text != "suite::test");
    let named: Vec<(&str, &str)> = quoted.filter_map(|text| text.rsplit_once("::")).collect();
    assert!(named.len() > 20, "{named:?}");
    for (suite, test) in named {
        let file = suites.join(format!("{}.rs", suite.replace("::", "/")));
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{suite}: {error}"));
        assert!(
            text.contains(&format!("#[test]\nfn {test}()")),
            "docs/monitoring.md names {suite}::{test}, which is not there"
        );
    }
}
