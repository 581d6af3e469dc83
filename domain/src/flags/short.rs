//! Completions that are too short for the request.

use super::code::is_code_line;
use crate::words::{count_words, folded};

/// A text of this many words is long enough for every request.
const WORDS_ENOUGH: usize = 4;

/// Requests of a longer text, in folded prompts.
const REQUESTS: [&str; 62] = [
    " write a",
    " write me",
    " write about",
    " write the",
    " describe ",
    " explain ",
    " compare ",
    " summarise ",
    " summarize ",
    " discuss ",
    " tell me about ",
    " tell me a story",
    " in detail",
    " essay",
    " list ten ",
    " list five ",
    " list several ",
    " list some ",
    " list all ",
    " list the ",
    " list three ",
    " outline ",
    " schreib",
    " beschreib",
    " erklär",
    " vergleich",
    " erzähl",
    " ausführlich",
    " fasse ",
    " écri",
    " expliqu",
    " décri",
    " racont",
    " compar",
    " résum",
    " escrib",
    " explica",
    " describ",
    " resum",
    " cuénta",
    " scriv",
    " spieg",
    " descriv",
    " raccont",
    " escrev",
    " descrev",
    " conte ",
    " schrijf",
    " beschrijf",
    " leg uit",
    " напиши",
    " объясни",
    " опиши",
    " расскажи",
    " opisz",
    " napisz",
    " wyjaśnij",
    "解释",
    "描述",
    "介绍",
    "説明して",
    "설명",
];

/// Requests of a short text, in folded prompts. They outweigh the others.
const BRIEF: [&str; 45] = [
    " one ",
    " a word",
    " the word",
    " word.",
    " single ",
    " yes or no",
    " brief",
    " short answer",
    " short reply",
    " keep it short",
    " shortly",
    " greeting",
    " title",
    " headline",
    " name ",
    " slogan",
    " scream",
    " sound ",
    " number ",
    " ein wort",
    " einem wort",
    " kurz",
    " ja oder nein",
    " titel",
    " gruß",
    " un mot",
    " bref",
    " oui ou non",
    " titre",
    " una palabra",
    " sí o no",
    " breve",
    " título",
    " una parola",
    " sì o no",
    " uma palavra",
    " sim ou não",
    " één woord",
    " kort ",
    " одним словом",
    " кратко",
    "一个词",
    "一个字",
    "一言",
    "한 단어",
];

/// Whether a text is punctuation only, or a few words for a request of a longer text. The text is not empty.
pub(super) fn is_short(prompt: &str, completion: &str) -> bool {
    let is_bare = completion.chars().all(|character| {
        character.is_whitespace()
            || character.is_ascii_punctuation()
            || matches!(character, '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' | '\u{3001}'..='\u{3003}')
    });
    if is_bare {
        // A long line of signs is a loop and not short.
        return completion.chars().count() < 20;
    }
    // The count of a long text is of no use.
    let enough = completion.len() > 40 * WORDS_ENOUGH || count_words(completion) >= WORDS_ENOUGH;
    if enough || completion.lines().any(is_code_line) {
        return false;
    }
    let prompt = folded(prompt);
    let asks = |phrases: &[&str]| phrases.iter().any(|phrase| prompt.contains(phrase));
    asks(&REQUESTS) && !asks(&BRIEF)
}
