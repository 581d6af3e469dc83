//! A Markdown page as its checks see it: fenced blocks, prose lines, links, code spans and heading ids.

/// The book, below the workspace.
pub(super) const BOOK: &str = "docs/book";

/// A fenced code block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// Line of the opening fence, from 1.
    pub(super) line: usize,
    /// The words after the opening fence, split at commas and spaces: the language, then its tags.
    pub(super) info: Vec<String>,
    /// The lines between the fences.
    pub(super) text: String,
}

impl Fence {
    pub(super) fn has(&self, tag: &str) -> bool {
        self.info.iter().any(|word| word == tag)
    }
}

/// A page, split into prose and fenced blocks.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Lines outside of fences, with their numbers from 1.
    pub(super) prose: Vec<(usize, String)>,
    /// Fenced blocks, in order.
    pub(super) fences: Vec<Fence>,
}

impl Page {
    pub(super) fn parse(markdown: &str) -> Self {
        let mut page = Self::default();
        let mut open: Option<(String, Fence)> = None;
        for (line, text) in (1..).zip(markdown.lines()) {
            let trimmed = text.trim_start();
            let marker: String = trimmed.chars().take_while(|&c| c == '`' || c == '~').collect();
            match &mut open {
                Some((closing, _)) if marker.len() >= closing.len() && trimmed == marker => {
                    page.fences.extend(open.take().map(|(_, fence)| fence));
                }
                Some((_, fence)) => {
                    fence.text.push_str(text);
                    fence.text.push('\n');
                }
                None if marker.len() >= 3 => {
                    let words = trimmed[marker.len()..].split([',', ' ']);
                    let info = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
                    open = Some((marker, Fence { line, info, text: String::new() }));
                }
                None => page.prose.push((line, text.to_owned())),
            }
        }
        page
    }

    /// Returns the targets of links and images outside of code, with their lines.
    pub(super) fn links(&self) -> Vec<(usize, String)> {
        let of = |(line, text): &(usize, String)| {
            let (plain, _) = without_code(text);
            let inline = plain.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
            let definition = plain.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
            let targets = inline.chain(definition.map(|(_, target)| target.trim()));
            targets.map(|target| (*line, target.to_owned())).collect::<Vec<_>>()
        };
        self.prose.iter().flat_map(of).collect()
    }

    /// Returns the code spans of the prose, with their lines.
    pub(super) fn code_spans(&self) -> Vec<(usize, String)> {
        let of = |(line, text): &(usize, String)| {
            without_code(text).1.into_iter().map(|span| (*line, span)).collect::<Vec<_>>()
        };
        self.prose.iter().flat_map(of).collect()
    }

    /// Returns the ids of the page's headings, as forges and mdBook make them.
    pub(super) fn heading_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for (_, text) in &self.prose {
            let title = text.trim_start_matches('#');
            if title.len() == text.len() || !title.starts_with(' ') {
                continue;
            }
            let id = slug(title.trim());
            let again = ids.iter().filter(|known| **known == id).count();
            ids.push(if again == 0 { id } else { format!("{id}-{again}") });
        }
        ids
    }
}

/// Returns a heading's id: letters, digits, `-` and `_` in lower case, and `-` for a space. Other
/// characters are omitted.
fn slug(title: &str) -> String {
    let kept = title.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

/// Returns a line without its code spans, and the spans.
fn without_code(text: &str) -> (String, Vec<String>) {
    let mut parts = text.split('`');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    let mut spans = Vec::new();
    while let Some(span) = parts.next() {
        match parts.next() {
            Some(after) => {
                spans.push(span.to_owned());
                plain.push_str(after);
            }
            None => plain.push_str(span),
        }
    }
    (plain, spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\nSee [one](a.md#x) and ![two](b.png \"t\"), not `[x](y)`; `src/lib.rs`.\n\n\
        ```sh,runnable\necho '](no.md)'\n```\n\n## A `second` part, 2\n## A `second` part, 2\n[ref]: c.md\n";

    #[test]
    fn links_are_found_outside_of_code_only() {
        let links: Vec<String> = Page::parse(PAGE).links().into_iter().map(|(_, target)| target).collect();
        assert_eq!(links, ["a.md#x", "b.png", "c.md"]);
    }

    #[test]
    fn fences_keep_their_tags_and_lines() {
        let page = Page::parse(PAGE);
        assert_eq!(page.fences.len(), 1);
        assert!(page.fences[0].has("sh") && page.fences[0].has("runnable"));
        assert_eq!((page.fences[0].line, page.fences[0].text.as_str()), (5, "echo '](no.md)'\n"));
    }

    #[test]
    fn repeated_headings_get_a_number() {
        assert_eq!(Page::parse(PAGE).heading_ids(), ["a-page", "a-second-part-2", "a-second-part-2-1"]);
    }

    #[test]
    fn code_spans_are_found_with_their_lines() {
        assert_eq!(Page::parse(PAGE).code_spans()[1], (3, "src/lib.rs".to_owned()));
    }
}
