//! Commands for people to paste into a shell.

use std::borrow::Cow;

/// Quotes a word for a POSIX shell where it needs quotes. `KEY=VALUE` needs none, unless it is the command.
pub(crate) fn shell_word(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    // Only a NUL cannot be quoted, and no argument and no path has one.
    shlex::try_quote(word).unwrap_or(Cow::Borrowed(word))
}

/// Joins words to a command for a POSIX shell.
pub(crate) fn shell_command<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(shell_word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_splits_a_command_into_the_same_words() {
        let words = [
            "run",
            "a folder/it's.toml",
            "--set",
            "policy.template='{prompt}' $HOME `x` \"",
            "",
            "*",
            "a\nb",
            "=x",
            "a=b",
        ];
        let command = shell_command(words);
        let script = format!("printf '%s\\0' {command}");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let split: Vec<String> =
            String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect();
        assert_eq!(split, words);
        assert_eq!(shell_command(["dissent", "run", "a.toml"]), "dissent run a.toml");
    }
}
