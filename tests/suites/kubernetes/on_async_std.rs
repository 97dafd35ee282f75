//! The same against the build on async-std. The name of this test program chooses it, see `binary::Build::chosen`.

#[path = "main.rs"]
mod suites;
