//! Escaping of untrusted text. A completion may contain any character, and must not affect the terminal, page
//! or document of its reader.

use std::fmt::Write as _;

/// Returns whether a character is invisible and changes the display of the text around it.
fn is_treacherous(c: char) -> bool {
    let is_direction =
        matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    // Joiners (U+200C, U+200D) are allowed: scripts and emoji need them.
    let is_invisible = matches!(c, '\u{00AD}' | '\u{180E}' | '\u{200B}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2065}' | '\u{206A}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}');
    c.is_control() || is_direction || is_invisible
}

/// Makes control, direction and invisible characters visible: `␛` for an escape, `⟨U+202E⟩` for an override.
/// Line feeds and tabs stay.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            '\u{7F}' => out.push('␡'),
            // Control pictures have the order of the control characters.
            '\0'..='\u{1F}' => out.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or('�')),
            c if is_treacherous(c) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "⟨U+{:04X}⟩", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Escapes every treacherous character of a JSON document without line breaks. Such characters occur only in
/// strings, so the document keeps its meaning.
pub(crate) fn ascii_controls(json: String) -> String {
    if !json.contains(is_treacherous) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + json.len() / 8);
    for c in json.chars() {
        if !is_treacherous(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Returns the beginning of a text on one line, at most `chars` characters, with an ellipsis if shortened.
pub(crate) fn excerpt(text: &str, chars: usize) -> String {
    let mut out = String::new();
    let mut left = chars;
    for word in text.split_whitespace() {
        let length = word.chars().count() + usize::from(!out.is_empty());
        if length > left {
            if out.is_empty() {
                out.extend(word.chars().take(chars));
            }
            out.push('…');
            return out;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        left -= length;
    }
    out
}

/// Escapes a text for a line of CommonMark, without markup, links or raw HTML.
pub(crate) fn markdown(text: &str) -> String {
    let text = visible(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let mut previous = ' ';
    while let Some(c) = rest.next() {
        let marks =
            matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&' | '$' | '@');
        // Many renderers turn bare addresses into links.
        let links = (c == ':' && rest.peek() == Some(&'/')) || (c == '.' && matches!(previous, 'w' | 'W'));
        if marks || links {
            out.push('\\');
        }
        out.push(if c.is_whitespace() { ' ' } else { c });
        previous = c;
    }
    out
}

/// Formats a text as a CommonMark quotation that keeps its lines.
pub(crate) fn markdown_quote(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().split('\n').map(str::trim_start).collect();
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        let continues = !line.is_empty() && lines.get(index + 1).is_some_and(|next| !next.is_empty());
        // Writing to a string cannot fail.
        let _ = writeln!(out, "> {}{}", markdown_line(line), if continues { "\\" } else { "" });
    }
    out
}

/// Escapes a whole line, including a first character that would begin a list or a rule.
fn markdown_line(line: &str) -> String {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = line.split_at(digits);
    let starts = if number.is_empty() { &['-', '+', '='][..] } else { &['.', ')'][..] };
    let escape = if rest.starts_with(starts) { "\\" } else { "" };
    format!("{number}{escape}{}", markdown(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn treacherous_characters_become_visible() {
        assert_eq!(visible("a\u{1b}[31mred\0\u{7f}\r\n\tb"), "a␛[31mred␀␡␍\n\tb");
        assert_eq!(visible("x\u{202E}y\u{9b}z\u{FEFF}\u{E0041}"), "x⟨U+202E⟩y⟨U+009B⟩z⟨U+FEFF⟩⟨U+E0041⟩");
        assert_eq!(visible("naïve 👩\u{200d}💻 עברית"), "naïve 👩\u{200d}💻 עברית");
    }

    #[test]
    fn json_with_escaped_controls_has_the_same_meaning() {
        let value = serde_json::json!({"text": "a\u{9b}\u{202E}b\u{E0041}\n\"é\""});
        let escaped = ascii_controls(value.to_string());
        assert!(!escaped.contains(is_treacherous), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn an_excerpt_is_one_line_within_its_limit() {
        assert_eq!(excerpt("two\n words ", 20), "two words");
        assert_eq!(excerpt("one two three", 8), "one two…");
        assert_eq!(excerpt("abcdefgh ij", 4), "abcd…");
        assert_eq!(excerpt("", 4), "");
    }

    #[test]
    fn markdown_shows_markup_as_text() {
        assert_eq!(
            markdown("<b>*x*</b> [a](http://e.org) `c`"),
            r"\<b\>\*x\*\</b\> \[a\](http\://e.org) \`c\`"
        );
        assert_eq!(markdown("+1.5 www.e.org a|b\nc"), r"+1.5 www\.e.org a\|b c");
    }

    #[test]
    fn a_quotation_keeps_its_lines_without_code_lists_or_headings() {
        assert_eq!(markdown_quote("one\n    two\n\n# three\n"), "> one\\\n> two\n> \n> \\# three\n");
        assert_eq!(markdown_quote("- a\n1. b\n2.5"), "> \\- a\\\n> 1\\. b\\\n> 2\\.5\n");
    }
}
