//! What somebody probably meant: the known word nearest to a misspelt one.

use strsim::osa_distance;

use crate::line::SHOWN;

/// The candidate nearest to `word`, when it is near enough that it was probably meant: at most a third of the longer
/// word may differ. Case and the difference between `-`, `_` and nothing count for nothing.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    candidates
        .into_iter()
        .map(|candidate| {
            let other = plain(candidate);
            (osa_distance(&word, &other), word.chars().count().max(other.chars().count()), candidate)
        })
        .filter(|(distance, longer, _)| distance * 3 <= *longer)
        .min_by_key(|(distance, ..)| *distance)
        .map(|(.., candidate)| candidate)
}

/// `did you mean x?` when something is near, else the list of what there is.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match closest(word, candidates.clone()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("known here: {}", candidates.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

fn plain(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["worker_id", "workspace_root", "cleanup", "max_concurrent_tasks"];

    #[test]
    fn finds_the_word_that_was_meant() {
        for (word, meant) in [
            ("workerid", Some("worker_id")),
            ("workerId", Some("worker_id")),
            ("wroker_id", Some("worker_id")),
            ("worker-id", Some("worker_id")),
            ("clean_up", Some("cleanup")),
            ("celanup", Some("cleanup")),
            ("max_concurent_task", Some("max_concurrent_tasks")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(closest(word, KEYS), meant, "{word}");
        }
    }
}
