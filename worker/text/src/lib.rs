//! Text in and out: what operators write, read with its place; what others wrote, made fit for one line.
//!
//! [`yaml`] and [`section`] read a file so that every problem names line, column and key; [`suggest`] finds the word that was
//! meant; [`duration`] puts a time into words; [`line`](mod@line) lets no outsider's text break a line or move a cursor.

#![forbid(unsafe_code)]

pub mod duration;
pub mod line;
pub mod section;
pub mod suggest;
pub mod variable;
pub mod yaml;
