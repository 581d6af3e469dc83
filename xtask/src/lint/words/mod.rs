//! The rules of words that a program can check: the length of sentences, and phrases nobody would say.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::text::{Text, texts_of_markdown, texts_of_rust};
use crate::cache::workspace_dir;
use crate::process::output_of;

mod text;

/// The most words in a sentence (CONTRIBUTING.md, "Words").
const WORDS_MAX: usize = 25;

/// Phrases that the rules in CONTRIBUTING.md exclude, in lower case.
const AVOIDED: [&str; 9] = [
    "whoever",
    "whatever",
    "what nobody",
    "what nothing",
    "goes on with",
    "gone on with",
    "as many as",
    "in hand",
    "is told",
];

/// Fails if a sentence of a tracked file is too long or has an avoided phrase. Comments, Markdown pages and
/// string literals outside of tests are read; code blocks, tables and headings are not.
pub(super) fn check() -> Result<()> {
    let workspace = workspace_dir();
    let listed = output_of(Command::new("git").args(["ls-files", "*.rs", "*.md"]).current_dir(&workspace))?;
    let mut violations = 0;
    for file in listed.lines().filter(|file| !is_exempt(file)) {
        let path = workspace.join(Path::new(file));
        // A file that is deleted and not yet committed is still listed.
        if !path.exists() {
            continue;
        }
        let source =
            std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let texts = if file.ends_with(".md") {
            texts_of_markdown(&source)
        } else {
            texts_of_rust(&source, !is_test(file)).with_context(|| format!("failed to parse {file}"))?
        };
        for (line, violation) in texts.iter().flat_map(violations_of) {
            println!("{file}:{line}: {violation}");
            violations += 1;
        }
    }
    if violations > 0 {
        bail!("{violations} sentences break the rules of words in CONTRIBUTING.md: rewrite them");
    }
    Ok(())
}

/// Whether the file quotes bad wording on purpose.
fn is_exempt(file: &str) -> bool {
    file == "CONTRIBUTING.md" || file == "xtask/src/lint/words/mod.rs"
}

/// Whether the file holds tests only. Their string literals are data.
fn is_test(file: &str) -> bool {
    file.starts_with("tests/") || file.contains("/tests/") || file.ends_with("/tests.rs")
}

/// A broken rule and the sentence that breaks it.
#[derive(Debug, PartialEq, Eq)]
enum Violation {
    TooLong { words: usize, sentence: String },
    Avoided { phrase: &'static str, sentence: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { words, sentence } => write!(formatter, "{words} words: {sentence}"),
            Self::Avoided { phrase, sentence } => write!(formatter, "\"{phrase}\": {sentence}"),
        }
    }
}

/// Returns the violations in a text, each with the line on which the text begins.
fn violations_of(text: &Text) -> Vec<(usize, Violation)> {
    let sentences = text.paragraphs.iter().flat_map(|paragraph| sentences(paragraph));
    sentences.flat_map(violations_of_sentence).map(|violation| (text.line, violation)).collect()
}

fn violations_of_sentence(sentence: &str) -> Vec<Violation> {
    let words = words_of(sentence);
    let mut violations = Vec::new();
    if words > WORDS_MAX {
        violations.push(Violation::TooLong { words, sentence: sentence.to_owned() });
    }
    let spaced = spaced_words(sentence);
    for phrase in AVOIDED {
        if spaced.contains(&format!(" {phrase} ")) {
            violations.push(Violation::Avoided { phrase, sentence: sentence.to_owned() });
        }
    }
    violations
}

/// Returns the number of words with a letter; a span of code is one word.
fn words_of(sentence: &str) -> usize {
    let parts = sentence.split('`').enumerate();
    parts
        .map(|(index, part)| {
            let is_code = index % 2 == 1;
            let words = part.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count();
            if is_code { 1 } else { words }
        })
        .sum()
}

/// Returns the words of a sentence in lower case, without punctuation, with a space before and after each.
fn spaced_words(sentence: &str) -> String {
    let words = sentence.split(|character: char| !character.is_alphanumeric() && character != '\'');
    let lower: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    format!(" {} ", lower.join(" "))
}

/// Returns the sentences of a paragraph. A sentence ends at `.`, `!`, `?`, `:` or `;` before a space.
fn sentences(paragraph: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut begin = 0;
    for (end, _) in paragraph.match_indices(' ') {
        let sentence = &paragraph[begin..end];
        if sentence.ends_with(['.', '!', '?', ':', ';']) {
            sentences.push(sentence);
            begin = end + 1;
        }
    }
    sentences.push(&paragraph[begin..]);
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sentence of `words` words.
    fn of_words(words: usize) -> String {
        vec!["word"; words].join(" ")
    }

    #[test]
    fn sentences_above_the_limit_are_found_and_shorter_ones_are_not() {
        let text = Text { line: 7, paragraphs: vec![format!("{}. {}.", of_words(25), of_words(26))] };
        let sentence = format!("{}.", of_words(26));
        assert_eq!(violations_of(&text), [(7, Violation::TooLong { words: 26, sentence })]);
    }

    #[test]
    fn spans_of_code_are_one_word_and_figures_are_none() {
        assert_eq!(words_of("returns `[a, b, c]` of 3 or `x`"), 5);
    }

    #[test]
    fn avoided_phrases_are_found_as_whole_words() {
        let found = |sentence: &str| violations_of_sentence(sentence).len();
        assert_eq!(found("A hint for Whoever, reads it"), 1);
        assert_eq!(found("the result is told (apart)"), 1);
        assert_eq!(found("the kind of whatnot that is toldable"), 0);
    }

    #[test]
    fn planted_sentences_are_found_in_comments_strings_and_pages() {
        let long = of_words(26);
        let rust = format!("/// {long}\nfn f() {{\n    bail!(\"{long}.\");\n}}\n");
        let lines = |texts: Vec<Text>| -> Vec<usize> {
            texts.iter().flat_map(violations_of).map(|(line, _)| line).collect()
        };
        assert_eq!(lines(texts_of_rust(&rust, true).unwrap()), [1, 3]);
        assert_eq!(lines(texts_of_rust(&rust, false).unwrap()), [1]);
        assert_eq!(lines(texts_of_markdown(&format!("# Head\n\nShort.\n\n{long}\n"))), [5]);
    }
}
