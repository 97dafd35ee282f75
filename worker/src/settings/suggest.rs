//! What somebody probably meant: the known word nearest to a misspelt one, and safe quoting of what they wrote.

/// Longest piece of an operator's text that is repeated in an error, in characters.
const SHOWN: usize = 80;

/// The candidate nearest to `word`, when it is near enough that it was probably meant: at most a third of the longer
/// word may differ. Case and the difference between `-`, `_` and nothing count for nothing.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    candidates
        .into_iter()
        .map(|candidate| {
            let other = plain(candidate);
            (distance(&word, &other), word.len().max(other.len()), candidate)
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

/// `text` in double quotes on one line: control characters escaped, cut when long.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    let mut characters = text.chars();
    for character in characters.by_ref().take(SHOWN) {
        match character {
            '"' => quoted.push_str("\\\""),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => quoted.extend(c.escape_default()),
            c => quoted.push(c),
        }
    }
    if characters.next().is_some() {
        quoted.push('…');
    }
    quoted.push('"');
    quoted
}

fn plain(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).take(SHOWN).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut previous_a = None;
    for (i, &x) in a.iter().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        let mut previous_b = None;
        for (j, &y) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut cost = (at(&row, j) + usize::from(x != y)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            if previous_a == Some(y) && previous_b == Some(x) {
                cost = cost.min(at(&before, j.wrapping_sub(1)) + 1);
            }
            next.push(cost);
            previous_b = Some(y);
        }
        before = std::mem::replace(&mut row, next);
        previous_a = Some(x);
    }
    row.last().copied().unwrap_or(0)
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

    #[test]
    fn counts_a_swap_as_one_change() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("abcd"), &chars("abdc")), 1);
        assert_eq!(distance(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(distance(&chars(""), &chars("abc")), 3);
        assert_eq!(distance(&chars("abc"), &chars("")), 3);
    }

    #[test]
    fn quoting_never_breaks_a_line() {
        assert_eq!(quoted("a\nb\u{1b}[1m\"c\""), r#""a\nb\u{1b}[1m\"c\"""#);
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), SHOWN + 3);
    }
}
