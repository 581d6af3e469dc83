//! Prepares a template's source: newlines, the tags that only transformers knows, and names that are refused.

use std::borrow::Cow;

use super::dialect::Dialect;

/// The filter that puts the marks of [`super::render`] around its text.
pub(super) const SPAN_FILTER: &str = "assistant_span";

/// Returns the source as minijinja renders it like Jinja2.
///
/// The tags `{% generation %}` and `{% endgeneration %}` mark the assistant's text for training and print
/// nothing. They become a scope, which keeps their effect on white space and on assignments; with
/// `mark_spans` a filter. In texts, comments and raw blocks they stay.
///
/// # Errors
/// If the template uses a construct that is refused; the message names it.
pub(super) fn prepare(source: &str, dialect: Dialect, mark_spans: bool) -> Result<String, String> {
    let (begin, end) = if mark_spans {
        (format!("filter {SPAN_FILTER}"), "endfilter")
    } else {
        ("with".to_owned(), "endwith")
    };
    if dialect == Dialect::First {
        refuse_changed(source)?;
    }
    // Jinja2 turns all newlines into \n, in texts too.
    let source: Cow<'_, str> = if source.contains('\r') {
        source.replace("\r\n", "\n").replace('\r', "\n").into()
    } else {
        source.into()
    };
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source.as_ref();
    let mut macros = 0_usize;
    while let Some((text, tag, after)) = next_tag(rest) {
        prepared.push_str(text);
        rest = after;
        let inside = inside(tag);
        match (tag.starts_with("{%"), inside.split_whitespace().next().unwrap_or_default()) {
            (true, "generation") if inside == "generation" => {
                prepared.push_str(&tag.replacen("generation", &begin, 1));
                continue;
            }
            (true, "endgeneration") if inside == "endgeneration" => {
                prepared.push_str(&tag.replacen("endgeneration", end, 1));
                continue;
            }
            (true, "raw") if inside == "raw" => {
                let end = end_of_raw(rest);
                prepared.push_str(tag);
                prepared.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            (true, "macro") => macros += 1,
            (true, "endmacro") => macros = macros.saturating_sub(1),
            _ => {}
        }
        if macros > 0
            && !tag.starts_with("{#")
            && let Some(name) = names(inside).find(|name| ["kwargs", "varargs"].contains(name))
        {
            return Err(format!("uses {name} in a macro, which is not supported"));
        }
        prepared.push_str(tag);
    }
    prepared.push_str(rest);
    Ok(prepared)
}

/// Constructs that version 0.1 rendered otherwise than Jinja2.
fn refuse_changed(source: &str) -> Result<(), String> {
    const CHANGED: [&str; 9] = [
        "\r",
        "sort_keys",
        "separators",
        "ensure_ascii",
        "is iterable",
        "is sequence",
        "is not sequence",
        "pprint",
        ".title(",
    ];
    match CHANGED.iter().find(|construct| source.contains(**construct)) {
        Some(construct) => Err(format!(
            "uses {construct:?}, which version 0.1 rendered otherwise: begin a new experiment with the present rules"
        )),
        None => Ok(()),
    }
}

/// Returns the text before the next tag, the tag, and the rest; `None` if there is no whole tag.
fn next_tag(source: &str) -> Option<(&str, &str, &str)> {
    let start = source
        .match_indices('{')
        .map(|(at, _)| at)
        .find(|at| matches!(source.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')))?;
    let (text, tail) = source.split_at(start);
    let length = match tail.as_bytes()[1] {
        b'#' => tail.find("#}")? + 2,
        kind => code_length(tail, if kind == b'{' { "}}" } else { "%}" })?,
    };
    let (tag, rest) = tail.split_at(length);
    Some((text, tag, rest))
}

/// Returns the length of a tag with code: up to its end outside texts and brackets.
fn code_length(tag: &str, end: &str) -> Option<usize> {
    let mut quote = None;
    let mut brackets = 0_usize;
    let mut characters = tag.char_indices().skip(2);
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) => quote = (open != character).then_some(open),
            (None, '"' | '\'') => quote = Some(character),
            (None, _) if brackets == 0 && tag[at..].starts_with(end) => return Some(at + end.len()),
            (None, '{' | '[' | '(') => brackets += 1,
            (None, '}' | ']' | ')') => brackets = brackets.saturating_sub(1),
            (None, _) => {}
        }
    }
    None
}

/// Returns the code of a tag, without its marks for white space.
fn inside(tag: &str) -> &str {
    tag.get(2..tag.len().saturating_sub(2))
        .unwrap_or_default()
        .trim_matches(|character: char| character.is_whitespace() || "-+".contains(character))
}

/// Returns the length of the text up to the tag that ends a raw block.
fn end_of_raw(source: &str) -> usize {
    source
        .match_indices("{%")
        .map(|(at, _)| at)
        .find(|at| {
            source[*at..].find("%}").is_some_and(|length| inside(&source[*at..at + length + 2]) == "endraw")
        })
        .unwrap_or(source.len())
}

/// Returns the names in code that are neither in texts nor attributes.
fn names(code: &str) -> impl Iterator<Item = &str> {
    let mut rest = code;
    let mut attribute = false;
    std::iter::from_fn(move || {
        while let Some(first) = rest.chars().next() {
            if first == '"' || first == '\'' {
                let mut characters = rest.char_indices().skip(1);
                let mut end = rest.len();
                while let Some((at, character)) = characters.next() {
                    if character == '\\' {
                        characters.next();
                    } else if character == first {
                        end = at + 1;
                        break;
                    }
                }
                rest = &rest[end..];
                continue;
            }
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            if !is_name(first) {
                attribute = first == '.';
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let (name, after) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
            rest = after;
            if !std::mem::take(&mut attribute) {
                return Some(name);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> String {
        prepare(source, Dialect::Jinja2(crate::jinja::TemplateDate::default()), false).expect("a source")
    }

    #[test]
    fn generation_tags_are_replaced_outside_texts_only() {
        assert_eq!(prepared("{%- generation +%}x{% endgeneration -%}"), "{%- with +%}x{% endwith -%}");
        for same in [
            "{{ '{% generation %}' }}",
            "{% raw %}{% generation %}{% endraw %}",
            "{%- raw -%}{{ '{%- endraw -%}{{ x }}",
            "{# {% generation %} #}",
            "{{ {'a': {'b': '}}'}} }}{% set x = \"%}\" %}",
            "{{ \"\\\"{% generation %}\" }}",
            "{% set generation = 1 %}{{ generation }}",
            "{{ unfinished",
            "{% generation",
            "{",
        ] {
            assert_eq!(prepared(same), same);
        }
        assert_eq!(prepared("a\r\nb\rc"), "a\nb\nc");
    }

    #[test]
    fn implicit_arguments_of_macros_are_refused() {
        let refused =
            |source: &str| prepare(source, Dialect::Jinja2(crate::jinja::TemplateDate::default()), false);
        for name in ["kwargs", "varargs"] {
            let source = format!("{{% macro f(a) %}}{{{{ {name} }}}}{{% endmacro %}}");
            assert!(refused(&source).expect_err("refused").contains(name));
        }
        assert!(refused("{% macro f(a) %}{{ 'kwargs' ~ a.kwargs }}{% endmacro %}{{ kwargs }}").is_ok());
    }

    #[test]
    fn the_first_dialect_refuses_what_changed() {
        for source in ["a\r\nb", "{{ x | tojson(sort_keys=true) }}", "{{ x is sequence }}"] {
            assert!(prepare(source, Dialect::First, false).is_err(), "{source}");
        }
        assert!(prepare("{{ x | tojson }}", Dialect::First, false).is_ok());
    }
}
