//! What running a task means: one folder per backend.

#![forbid(unsafe_code)]
