//! Finds the texts of a file: the comments and string literals of Rust, the paragraphs of Markdown.

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::LitStr;

/// Text of a file, in paragraphs without line breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// The line on which it begins, from 1.
    pub line: usize,
    pub paragraphs: Vec<String>,
}

/// Returns the comments of a Rust file and, if asked, its string literals. Literals of an inline module of
/// tests are data and left out.
///
/// # Errors
/// Fails if the file is not Rust.
pub(super) fn texts_of_rust(source: &str, with_literals: bool) -> Result<Vec<Text>> {
    let mut texts = comments(source);
    if with_literals {
        let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(source);
        // A file cut at its tests is still a sequence of tokens.
        let tokens: TokenStream = code.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
        literals(tokens, &mut texts);
    }
    Ok(texts)
}

/// Returns the blocks of lines that hold only a comment. Lines of a block have the same marker.
fn comments(source: &str) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    let mut block_marker = "";
    let mut block_line = 0;
    for (index, line) in source.lines().chain([""]).enumerate() {
        let (marker, body) = comment(line.trim_start());
        if marker != block_marker {
            if !block.is_empty() {
                texts.push(Text { line: block_line, paragraphs: paragraphs(block.drain(..)) });
            }
            block_marker = marker;
            block_line = index + 1;
        }
        if !marker.is_empty() {
            block.push(body);
        }
    }
    texts
}

/// Returns the marker of a comment line and the text after it; an empty marker for a line of code.
fn comment(line: &str) -> (&'static str, &str) {
    for marker in ["///", "//!", "//"] {
        if let Some(body) = line.strip_prefix(marker) {
            return (marker, body);
        }
    }
    ("", line)
}

/// Appends the string literals, but not those of attributes: documentation is read as comments.
fn literals(tokens: TokenStream, texts: &mut Vec<Text>) {
    let mut after_hash = false;
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let is_attribute = after_hash && group.delimiter() == proc_macro2::Delimiter::Bracket;
                if !is_attribute || has_help(group.stream()) {
                    literals(group.stream(), texts);
                }
                after_hash = false;
            }
            TokenTree::Literal(literal) => {
                after_hash = false;
                let line = literal.span().start().line;
                if let Ok(string) = syn::parse2::<LitStr>(TokenTree::Literal(literal).into()) {
                    let mut found = paragraphs(string.value().lines());
                    found.retain(|paragraph| !is_word_list(paragraph));
                    texts.push(Text { line, paragraphs: found });
                }
            }
            TokenTree::Punct(punct) => {
                after_hash = punct.as_char() == '#' || after_hash && punct.as_char() == '!'
            }
            TokenTree::Ident(_) => after_hash = false,
        }
    }
}

/// Whether a paragraph is a list of words without punctuation, such as a lexicon.
fn is_word_list(paragraph: &str) -> bool {
    !paragraph.contains(['.', ',', ':', ';', '?', '!', '{', '('])
}

/// Whether an attribute holds text for users: help of clap, or the message of an error.
fn has_help(attribute: TokenStream) -> bool {
    let first = attribute.into_iter().next().map(|token| token.to_string());
    matches!(first.as_deref(), Some("arg" | "command" | "error"))
}

/// Returns the paragraphs of a Markdown page.
pub(super) fn texts_of_markdown(source: &str) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut begin = 0;
    let lines: Vec<&str> = source.lines().collect();
    let mut in_code = false;
    for (index, line) in lines.iter().copied().chain([""]).enumerate() {
        in_code ^= line.trim_start().starts_with("```");
        if line.trim().is_empty() && !in_code {
            let text = paragraphs(lines[begin..index].iter().copied());
            if !text.is_empty() {
                texts.push(Text { line: begin + 1, paragraphs: text });
            }
            begin = index + 1;
        }
    }
    texts
}

/// Joins lines to paragraphs. An empty line, an item of a list and an indented line begin a new one. Code
/// blocks, tables, headings and examples of commands are left out.
fn paragraphs<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut paragraphs = Vec::new();
    let mut current = String::new();
    let mut in_code = false;
    for line in lines {
        let text = line.trim();
        let is_fence = text.starts_with("```");
        in_code ^= is_fence;
        let is_left_out =
            is_fence || in_code || text.is_empty() || text.starts_with(['|', '#', '<']) || is_command(text);
        if is_left_out || begins_item(text) || line.starts_with("    ") || is_columns(text) {
            paragraphs.extend((!current.is_empty()).then(|| std::mem::take(&mut current)));
        }
        if !is_left_out && !is_columns(text) {
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(text);
        }
    }
    paragraphs.extend((!current.is_empty()).then_some(current));
    paragraphs
}

/// Whether a line is a row of aligned columns, as in an example of a help text.
fn is_columns(text: &str) -> bool {
    text.contains("  ")
}

/// Whether a line of a help text is an example of a command.
fn is_command(text: &str) -> bool {
    ["dissent ", "cargo ", "curl "].iter().any(|program| text.starts_with(program))
}

/// Whether a line begins an item of a list.
fn begins_item(text: &str) -> bool {
    let number = text.trim_start_matches(|character: char| character.is_ascii_digit());
    text.starts_with(['-', '*', '+']) || number.len() < text.len() && number.starts_with(['.', ')'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: usize, paragraphs: &[&str]) -> Text {
        Text { line, paragraphs: paragraphs.iter().map(|paragraph| (*paragraph).to_owned()).collect() }
    }

    #[test]
    fn comments_are_joined_over_lines_and_split_at_markers() {
        let source =
            "//! Of a\n//! file.\n\n/// Of an item.\n///\n/// More.\nfn f() {} // trailing\n// A remark.\n";
        let found = texts_of_rust(source, false).unwrap();
        let expected =
            [text(1, &["Of a file."]), text(4, &["Of an item.", "More."]), text(8, &["A remark."])];
        assert_eq!(found, expected);
    }

    #[test]
    fn literals_of_macros_and_help_are_read_but_not_other_attributes() {
        let source = "#[expect(lint, reason = \"a\")]\n#[command(about = \"b.\")]\nfn f() { info!(x = 1, \"c.\\n\\nd e.\"); }\n";
        assert_eq!(texts_of_rust(source, true).unwrap(), [text(2, &["b."]), text(3, &["c.", "d e."])]);
    }

    #[test]
    fn literals_of_inline_tests_are_left_out() {
        let source = "const A: &str = \"a.\";\n\n#[cfg(test)]\nmod tests {\n    const B: &str = \"b\";\n}\n";
        assert_eq!(texts_of_rust(source, true).unwrap(), [text(1, &["a."])]);
    }

    #[test]
    fn code_tables_and_headings_of_a_page_are_left_out() {
        let page = "# Head\n\nOne\ntwo.\n\n- an item\n- another\n\n```sh\nls\n\nls\n```\n\n| a | b |\n";
        assert_eq!(texts_of_markdown(page), [text(3, &["One two."]), text(6, &["- an item", "- another"])]);
    }
}
