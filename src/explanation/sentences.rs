//! Divides a text into the sentences that are left out one at a time.

use unicode_segmentation::UnicodeSegmentation as _;

/// Most sentences of a text. Neighbours of a longer text are joined.
const SENTENCES_MAX: usize = 24;

/// Returns the sentences of a text, by the rules of Unicode (UAX #29). Together they are the whole text. A
/// piece without two words, such as the number of a list item, belongs to the next sentence.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    let mut begin = 0;
    for (start, piece) in text.split_sentence_bound_indices() {
        let end = start + piece.len();
        if text[begin..end].unicode_words().nth(1).is_some() {
            found.push(&text[begin..end]);
            begin = end;
        }
    }
    if begin < text.len() {
        let rest = found.pop().map_or(begin, |last| begin - last.len());
        found.push(&text[rest..]);
    }
    joined(text, &found)
}

/// Joins neighbours until at most [`SENTENCES_MAX`] are left.
fn joined<'a>(text: &'a str, found: &[&str]) -> Vec<&'a str> {
    let (mut begin, mut groups) = (0, Vec::new());
    for group in found.chunks(found.len().div_ceil(SENTENCES_MAX).max(1)) {
        let end = begin + group.iter().map(|sentence| sentence.len()).sum::<usize>();
        groups.push(&text[begin..end]);
        begin = end;
    }
    groups
}

/// Returns the text without its sentence `index`, and without white space at the ends.
pub(super) fn without(sentences: &[&str], index: usize) -> String {
    let kept = sentences.iter().enumerate().filter(|(other, _)| *other != index);
    let text: String = kept.map(|(_, sentence)| *sentence).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sentences_end_at_stops_and_lines_and_keep_the_numbers_of_a_list() {
        assert_eq!(sentences("One two. Three four! No"), ["One two. ", "Three four! No"]);
        assert_eq!(sentences("1. Wash it.\n2. Dry it.\n"), ["1. Wash it.\n", "2. Dry it.\n"]);
        assert_eq!(sentences("今日は雨です。明日は晴れます。").len(), 2);
        assert!(sentences("").is_empty());
        assert_eq!(sentences("No"), ["No"]);
        assert_eq!(without(&["One two. ", "Three four."], 1), "One two.");
        assert_eq!(without(&["One two."], 0), "");
    }

    proptest! {
        #[test]
        fn together_they_are_the_text(text in "(\\PC|\\n){0,400}") {
            let found = sentences(&text);
            prop_assert_eq!(found.concat(), text.as_str());
            prop_assert!(found.len() <= SENTENCES_MAX);
        }

        #[test]
        fn a_long_text_has_few(words in prop::collection::vec("[a-z]{1,6} [a-z]{1,6}\\. ", 0..200)) {
            let text = words.concat();
            let found = sentences(&text);
            prop_assert_eq!(found.concat(), text.as_str());
            prop_assert!(found.len() <= SENTENCES_MAX);
        }
    }
}
