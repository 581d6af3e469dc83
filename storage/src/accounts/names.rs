//! Names of people and things, and how names are compared.

use super::AccountsError;

/// Longest name, in characters.
const CHARS_MAX: usize = 80;

/// Returns a name as it is kept: without white space around it.
///
/// # Errors
/// If it is empty, too long, or has control characters or marks that change the direction of text.
pub(super) fn check_name(name: &str) -> Result<&str, AccountsError> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > CHARS_MAX || !name.chars().all(is_allowed) {
        let reason = format!("use 1 to {CHARS_MAX} characters, none of them a control character");
        return Err(AccountsError::bad("name", reason));
    }
    Ok(name)
}

/// Whether a name may have the character. Joiners are allowed: some scripts need them.
fn is_allowed(character: char) -> bool {
    let is_invisible = matches!(character,
        '\u{200b}' | '\u{200e}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !character.is_control() && !is_invisible
}

/// Returns the part of a name in which it differs from others: its lower case.
pub(super) fn key(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Whether a text has a name as whole words, in any case.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    let (text, name) = (text.to_lowercase(), key(name));
    if name.is_empty() {
        return false;
    }
    let is_edge = |beside: Option<char>| beside.is_none_or(|character| !character.is_alphanumeric());
    text.match_indices(&name).any(|(at, found)| {
        let (before, after) = (text.get(..at), text.get(at + found.len()..));
        is_edge(before.and_then(|before| before.chars().next_back()))
            && is_edge(after.and_then(|after| after.chars().next()))
    })
}

/// Checks the id of an experiment, or another key of a caller.
///
/// # Errors
/// If it is empty or longer than 200 bytes.
pub(super) fn check_key(field: &'static str, key: &str) -> Result<(), AccountsError> {
    const BYTES_MAX: usize = 200;
    if key.is_empty() || key.len() > BYTES_MAX {
        return Err(AccountsError::bad(field, format!("use 1 to {BYTES_MAX} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(check_name("  Zoë \u{200d}x ").unwrap(), "Zoë \u{200d}x");
        assert!(check_name(&"ö".repeat(80)).is_ok());
        let wrong = ["", " \t ", "a\nb", "a\0", "\u{202e}abc", "a\u{200b}b", "\u{2066}x", "\u{feff}x"];
        for name in wrong.iter().map(|name| (*name).to_owned()).chain([("ö").repeat(81)]) {
            assert!(check_name(&name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_are_found_as_whole_words_only() {
        for text in ["ann", "/people/Ann", "x ANN, y", "(ann)"] {
            assert!(mentions(text, "Ann"), "{text}");
        }
        for text in ["anna", "channel", "", "an n"] {
            assert!(!mentions(text, "Ann"), "{text}");
        }
        assert!(!mentions("anything", " "));
    }

    proptest! {
        #[test]
        fn checked_names_stay_as_they_are(name in "\\PC{0,90}") {
            if let Ok(kept) = check_name(&name) {
                prop_assert_eq!(check_name(kept).unwrap(), kept);
                prop_assert_eq!(key(kept), key(&name));
                let text = format!("a {kept} b");
                prop_assert!(mentions(&text, kept));
            }
        }
    }
}
