//! Words of a text, in scripts with and without spaces. Flags and topics read them.

/// Whether a character belongs to a script that is written without spaces: Han, kana, Thai, Lao, Khmer,
/// Myanmar.
pub(crate) fn is_unspaced(character: char) -> bool {
    matches!(character,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3134f}')
}

/// Returns the words of a text: runs of letters, digits and apostrophes.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '\'')
        .map(|word| word.trim_matches('\''))
        .filter(|word| !word.is_empty())
}

/// Returns the number of words. In a script without spaces, two characters count as a word.
pub(crate) fn count_words(text: &str) -> usize {
    let of_word = |word: &str| {
        let unspaced = word.chars().filter(|character| is_unspaced(*character)).count();
        if unspaced == 0 { 1 } else { unspaced.div_ceil(2) }
    };
    words(text).map(of_word).sum()
}

/// Returns the text in lower case, with straight apostrophes and with one space for any white space. There is
/// a space at both ends, so that ` word ` finds whole words.
pub(crate) fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len() + 2);
    folded.push(' ');
    for character in text.chars().flat_map(char::to_lowercase) {
        match character {
            '’' | '‘' | 'ʼ' => folded.push('\''),
            _ if character.is_whitespace() => {
                if !folded.ends_with(' ') {
                    folded.push(' ');
                }
            }
            _ => folded.push(character),
        }
    }
    if !folded.ends_with(' ') {
        folded.push(' ');
    }
    folded
}
