//! The table of values in the chart's README, made from `values.yaml` and its comments.
//!
//! A comment stands above its key. Of a key whose children have comments of their own it introduces these.
#![allow(clippy::indexing_slicing)]

use super::{read, yaml};

const BEGIN: &str = "<!-- values: made from values.yaml by `cargo run -p oz-worker-tests --bin chart-readme` -->\n";
const END: &str = "<!-- end of values -->\n";

pub const PATH: &str = "charts/oz-agent-worker/README.md";

/// The whole README: what people wrote, and the table as it should be.
pub fn whole() -> String {
    let written = read(PATH);
    let (before, rest) = written.split_once(BEGIN).expect("README.md says where the values begin");
    let (_, after) = rest.split_once(END).expect("README.md says where the values end");
    format!("{before}{BEGIN}{}{END}{after}", tables(&read("charts/oz-agent-worker/values.yaml")))
}

/// A key of `values.yaml`.
struct Key {
    path: Vec<String>,
    comment: String,
}

/// Every key that has a comment, in order. The comment at the head of the file belongs to none.
fn keys(values: &str) -> Vec<Key> {
    let (mut keys, mut path, mut comment) = (Vec::new(), Vec::<String>::new(), Vec::<&str>::new());
    for line in values.lines() {
        let indent = (line.len() - line.trim_start().len()) / 2;
        let line = line.trim_start();
        if let Some(said) = line.strip_prefix("# ") {
            comment.push(said);
        } else if line.is_empty() {
            comment.clear();
        } else if let Some((name, _)) = line.split_once(':') {
            path.truncate(indent);
            path.push(name.to_owned());
            if !comment.is_empty() {
                keys.push(Key { path: path.clone(), comment: comment.join(" ") });
                comment.clear();
            }
        }
    }
    keys
}

/// One table per top-level key.
fn tables(values: &str) -> String {
    let (keys, defaults) = (keys(values), yaml(values));
    let (mut tables, mut current) = (Vec::new(), "");
    for key in &keys {
        let is_section =
            keys.iter().any(|other| other.path.len() > key.path.len() && other.path.starts_with(&key.path));
        let introduces = is_section && key.path.len() == 1;
        let title = if is_section || key.path.len() > 1 { key.path[0].as_str() } else { "names" };
        if current != title {
            current = title;
            let said = if introduces { format!("{}\n\n", key.comment) } else { String::new() };
            tables.push(format!("\n### {title}\n\n{said}| key | default | |\n| --- | --- | --- |\n"));
        }
        if !introduces {
            let default = key.path.iter().fold(&defaults, |value, name| &value[name]);
            let default = if is_section { String::new() } else { format!("`{default}`") };
            tables.push(format!("| `{}` | {default} | {} |\n", key.path.join("."), key.comment));
        }
    }
    tables.concat() + "\n"
}
