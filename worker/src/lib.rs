//! x
pub mod logs;
pub mod settings;
