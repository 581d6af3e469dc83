//! A cut text, where no finish reason is known.

use super::code::{is_code_line, is_fence};
use crate::words::{count_words, is_unspaced};

/// Fewest words of a last line that is taken for a broken sentence. A shorter one may be a title or an item.
const WORDS_MIN: usize = 8;
/// Fewest words of a last line that is compared with the lines before it.
const WORDS_OF_ITEM: usize = 4;

/// Whether a text ends within a block of code, or within a sentence after an earlier whole sentence.
pub(super) fn looks_cut(text: &str) -> bool {
    if text.lines().filter(|line| is_fence(line)).count() % 2 == 1 {
        return true;
    }
    let text = text.trim_end();
    let Some(line) = text.lines().next_back() else { return false };
    if is_fence(line) || is_code_line(line) {
        return false;
    }
    let breaks_off = line
        .chars()
        .next_back()
        .is_some_and(|last| last.is_alphanumeric() || matches!(last, ',' | '，' | '、' | '،' | '-' | '–'));
    let is_long = count_words(line) >= WORDS_MIN && has_whole_sentence(text);
    breaks_off && (is_long || is_unlike_others(text, line))
}

/// Whether a short last line begins as an item or has some words, and the long lines before it end with a
/// full stop. A signature has fewer words.
fn is_unlike_others(text: &str, last: &str) -> bool {
    let earlier = text[..text.len() - last.len()].lines();
    let (mut long, mut stopped) = (0, 0);
    for line in earlier.filter(|line| count_words(line) >= WORDS_MIN) {
        long += 1;
        stopped += usize::from(
            line.trim_end().ends_with(['.', '!', '?', '。', '！', '？', '؟', '।', ')', '"', '”']),
        );
    }
    let is_item = last.trim_start().starts_with(|character: char| character.is_ascii_digit());
    long >= 2 && 5 * stopped >= 4 * long && (is_item || count_words(last) >= WORDS_OF_ITEM)
}

/// Whether a sentence ends in the text: a full stop after a letter, before white space or an unspaced script.
fn has_whole_sentence(text: &str) -> bool {
    let next = text.chars().skip(1);
    text.chars().zip(next).any(|(character, next)| match character {
        '.' | '!' | '?' | '؟' | '।' => next.is_whitespace(),
        '。' | '！' | '？' => is_unspaced(next) || next.is_whitespace(),
        _ => false,
    })
}
