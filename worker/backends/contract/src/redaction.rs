//! Secrets taken out of what a container wrote, before it reaches the log.

/// What stands in the place of a secret.
const STARS: &[u8] = b"***";
/// The shortest value that is taken for a secret, in bytes. Shorter ones are words of every other line.
const SHORTEST: usize = 4;
/// Variables whose values are known to everybody.
const KNOWN: [&str; 6] =
    ["TASK_ID", "GIT_TERMINAL_PROMPT", "GH_PROMPT_DISABLED", "WARP_SERVER_ROOT_URL", "PATH", "HOME"];

/// Replaces every value of these variables by `***`, longer ones first; of a value with several lines also each line, since
/// programs print them apart.
pub fn redact<'a>(text: Vec<u8>, variables: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let secret = variables.filter(|(name, _)| !KNOWN.contains(name)).map(|(_, value)| value);
    let mut secrets: Vec<&str> = secret.flat_map(|value| std::iter::once(value).chain(value.lines())).collect();
    secrets.retain(|secret| secret.trim().len() >= SHORTEST);
    secrets.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
    secrets.dedup();
    secrets.into_iter().fold(text, |text, secret| replace(text, secret.as_bytes()))
}

fn replace(text: Vec<u8>, secret: &[u8]) -> Vec<u8> {
    let Some(first) = secret.first() else { return text };
    let mut kept = Vec::new();
    let mut rest = text.as_slice();
    let mut from = 0;
    while let Some(at) = rest.get(from..).and_then(|tail| tail.iter().position(|byte| byte == first)) {
        let at = from + at;
        let (before, tail) = rest.split_at(at);
        if let Some(after) = tail.strip_prefix(secret) {
            kept.extend_from_slice(before);
            kept.extend_from_slice(STARS);
            (rest, from) = (after, 0);
        } else {
            from = at + 1;
        }
    }
    if rest.len() == text.len() {
        return text;
    }
    kept.extend_from_slice(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_wherever_it_stands() {
        for (text, secrets, shown) in [
            ("a s3cret b s3crets", &["s3cret"][..], "a *** b ***s"),
            ("s3s3cret", &["s3cret"], "s3***"),
            ("abcabcabcd", &["abcabcd"], "abc***"),
            ("long and longer", &["long", "longer"], "*** and ***"),
            ("line one\r\nline two", &["line one\nline two"], "***\r\n***"),
            ("abc", &["abc", "", "   \n  "], "abc"),
            ("", &["s3cret"], ""),
        ] {
            let variables = secrets.iter().map(|value| ("SECRET", *value));
            assert_eq!(redact(text.into(), variables), shown.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_everybody_knows_is_shown() {
        let text = b"T123 /usr/bin:/bin".to_vec();
        assert_eq!(redact(text.clone(), [("TASK_ID", "T123"), ("PATH", "/usr/bin:/bin")].into_iter()), text);
    }
}
