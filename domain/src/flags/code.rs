//! Code within a text: Markdown fences, code spans, and lines with the signs of code.

/// Signs that are frequent in code and rare in prose.
const SIGNS: &str = "{}[]()<>;=|_\\/*&#$`";

/// Whether a character is frequent in code and rare in prose.
pub(super) fn is_code_sign(character: char) -> bool {
    SIGNS.contains(character)
}

/// Whether a line begins or ends a Markdown block of code.
pub(super) fn is_fence(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("```") || line.starts_with("~~~")
}

/// Returns the lines outside of Markdown blocks of code.
pub(super) fn lines_outside_fences(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = is_fence(line);
        inside ^= fence;
        !inside && !fence
    })
}

/// Whether a line has at least two signs of code, and one in every dozen characters.
pub(super) fn is_code_line(line: &str) -> bool {
    let (mut signs, mut all) = (0, 0);
    for character in line.chars() {
        signs += usize::from(is_code_sign(character));
        all += 1;
    }
    signs >= 2 && 12 * signs >= all
}

/// Returns the text without blocks of code and without code spans, line by line.
pub(super) fn without_code(text: &str) -> String {
    let mut prose = String::with_capacity(text.len());
    for line in lines_outside_fences(text) {
        // Parts with an odd number lie between two backticks. The last one may lack its end.
        let parts: Vec<&str> = line.split('`').collect();
        let closed = parts.len() % 2 == 1;
        for (index, part) in parts.iter().enumerate() {
            let is_span = index % 2 == 1 && (closed || index + 1 < parts.len());
            prose.push_str(if is_span { " " } else { part });
        }
        prose.push('\n');
    }
    prose
}
