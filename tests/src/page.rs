//! The pages of `docs/`, whose commands and files the suites use as they stand there.

use crate::chart::read;

/// The fenced blocks of a page, in their order: the language of each, and what stands in it, without the indentation of a
/// list. The page is named from the repository's root.
pub fn blocks(page: &str) -> Vec<(String, String)> {
    let text = read(page);
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indented = line.trim_start();
        let Some(language) = indented.strip_prefix("```") else { continue };
        let indentation = line.len() - indented.len();
        let of_block = lines.by_ref().take_while(|line| line.trim() != "```");
        let of_block: Vec<&str> = of_block.map(|line| line.get(indentation..).unwrap_or_default()).collect();
        blocks.push((language.to_owned(), of_block.join("\n") + "\n"));
    }
    blocks
}

/// Those of one language.
pub fn blocks_of(page: &str, language: &str) -> Vec<String> {
    blocks(page).into_iter().filter_map(|(of, block)| (of == language).then_some(block)).collect()
}
