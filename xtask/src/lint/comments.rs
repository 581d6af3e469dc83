//! The width of comments, which rustfmt does not check.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::workspace_dir;
use crate::process::output_of;

/// The longest comment line, in characters: `max_width` in rustfmt.toml.
const COLUMNS_MAX: usize = 110;

/// Fails if a line of a tracked Rust file that holds only a comment is longer than [`COLUMNS_MAX`].
pub(super) fn check() -> Result<()> {
    let workspace = workspace_dir();
    let listed = output_of(Command::new("git").args(["ls-files", "*.rs"]).current_dir(&workspace))?;
    let mut too_long = 0;
    for file in listed.lines() {
        let path = workspace.join(Path::new(file));
        // A file that is deleted and not yet committed is still listed.
        if !path.exists() {
            continue;
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        for (line, columns) in long_comments(&text) {
            println!("{file}:{line}: comment of {columns} columns");
            too_long += 1;
        }
    }
    if too_long > 0 {
        bail!("{too_long} comment lines are longer than {COLUMNS_MAX} columns: wrap them");
    }
    Ok(())
}

/// Returns the numbers and widths of comment lines that are too long.
fn long_comments(text: &str) -> impl Iterator<Item = (usize, usize)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line.chars().count()))
        .filter(|(_, columns)| *columns > COLUMNS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comment_lines_above_the_limit_are_found() {
        let fits = format!("// {}", "ä".repeat(COLUMNS_MAX - 3));
        let code = format!("let x = \"{}\";", "x".repeat(COLUMNS_MAX));
        let text = format!("{fits}\n    {fits}\n{code}\n/// {}\n", "x".repeat(COLUMNS_MAX));
        assert_eq!(long_comments(&text).collect::<Vec<_>>(), [(2, COLUMNS_MAX + 4), (4, COLUMNS_MAX + 4)]);
    }
}
