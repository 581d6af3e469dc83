//! Chat templates: Jinja programs that come with a model. They run as in transformers, but with limits,
//! because they are untrusted.

use std::ops::Range;

use dissent_domain::training::{Message, Role};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::Conversation;
use crate::checkpoint::TextTokenizer;
use crate::error::{InvalidKind, ModelError};

/// The largest template that is run, in bytes.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The fuel of a template: about one unit per instruction or per 64 bytes of text.
const FUEL: u64 = 4_000_000;

/// Characters that mark the assistant's text: of a private use area, so no text means anything by them.
const SPAN_START: char = '\u{f8f0}';
const SPAN_END: char = '\u{f8f1}';
const SPAN_FILTER: &str = "assistant_span";

/// Renders messages with the model's template, up to the assistant's turn if `add_generation_prompt`.
pub(super) fn render(
    tokenizer: &TextTokenizer,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<String, ModelError> {
    let messages: Value = messages
        .iter()
        .map(|message| context! { role => role(message.role), content => message.content.as_str() })
        .collect();
    let arguments = context! { messages, add_generation_prompt, tools => () };
    render_with(tokenizer, arguments, false)
}

/// Renders a conversation with the model's template, as transformers' `apply_chat_template` with `tools` and
/// further arguments.
pub(super) fn render_conversation(
    tokenizer: &TextTokenizer,
    conversation: &Conversation,
    add_generation_prompt: bool,
) -> Result<String, ModelError> {
    render_with(tokenizer, arguments(conversation, add_generation_prompt), false)
}

fn arguments(conversation: &Conversation, add_generation_prompt: bool) -> Value {
    let Conversation { messages, tools, template_arguments } = conversation;
    let tools = tools.as_ref().map_or_else(|| Value::from(()), |tools| Value::from(Serde(tools)));
    let further = Value::from(Serde(template_arguments));
    context! { messages => Value::from(Serde(messages)), add_generation_prompt, tools, ..further }
}

/// Returns the parts that the template marks with `{% generation %}`, in bytes of the rendered text; nothing
/// if it marks none.
///
/// # Errors
/// As [`render`], and [`ModelError::Invalid`] if the marked text is not `whole`.
pub(super) fn generation_spans(
    tokenizer: &TextTokenizer,
    conversation: &Conversation,
    whole: &str,
) -> Result<Option<Vec<Range<usize>>>, ModelError> {
    if tokenizer.chat_template().is_none_or(|source| without_generation_tags(source) == source) {
        return Ok(None);
    }
    let marked = render_with(tokenizer, arguments(conversation, false), true)?;
    let (mut plain, mut spans, mut start) = (String::with_capacity(whole.len()), Vec::new(), 0);
    for character in marked.chars() {
        match character {
            SPAN_START => start = plain.len(),
            SPAN_END => spans.push(start..plain.len()),
            other => plain.push(other),
        }
    }
    if plain != whole {
        return Err(ModelError::invalid(
            InvalidKind::Template,
            "the model's chat template changes the text inside its {% generation %} marks: learn all or last",
        ));
    }
    Ok(Some(spans))
}

/// Runs the model's template. With `mark_spans`, the text of `{% generation %}` is between [`SPAN_START`] and
/// [`SPAN_END`].
fn render_with(tokenizer: &TextTokenizer, arguments: Value, mark_spans: bool) -> Result<String, ModelError> {
    let invalid = |reason: String| {
        ModelError::invalid(InvalidKind::Template, format!("the model's chat template {reason}"))
    };
    let source = tokenizer.chat_template().ok_or_else(|| {
        ModelError::invalid(
            InvalidKind::Template,
            "the model has no chat template: use raw, or a text with {prompt}",
        )
    })?;
    if source.len() > SOURCE_BYTES_MAX {
        return Err(invalid(format!("has {} bytes, the limit is {SOURCE_BYTES_MAX}", source.len())));
    }
    let source = if mark_spans { with_marked_spans(source) } else { without_generation_tags(source) };
    let mut environment = environment().map_err(|error| invalid(describe(&error)))?;
    environment.add_template("chat", &source).map_err(|error| invalid(describe(&error)))?;
    let template = environment.get_template("chat").map_err(|error| invalid(describe(&error)))?;
    let (bos_token, eos_token) = (special(tokenizer.bos_token()), special(tokenizer.eos_token()));
    template
        .render(context! { bos_token, eos_token, documents => (), ..arguments })
        .map_err(|error| invalid(describe(&error)))
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

/// A missing token is undefined, as in transformers.
fn special(token: Option<&str>) -> Value {
    token.map_or(Value::UNDEFINED, Value::from)
}

/// Returns the Jinja environment of transformers, without `strftime_now`: a prompt must not depend on the
/// date. Templates that use it check first whether it exists.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", to_json);
    environment.add_filter(SPAN_FILTER, |text: &str| format!("{SPAN_START}{text}{SPAN_END}"));
    Ok(environment)
}

fn describe(error: &Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let hint = if error.kind() == ErrorKind::UnknownFunction && detail.contains("strftime_now") {
        "; the template uses the current date, so runs differ: use a text with {prompt}"
    } else {
        ""
    };
    format!("fails{line}: {}{detail}{hint}", error.kind())
}

/// Replaces the tags `{% generation %}` and `{% endgeneration %}`, which mark the assistant's text for
/// training and print nothing. They become a condition that is always true, which keeps their effect on white
/// space.
fn without_generation_tags(source: &str) -> String {
    with_generation_tags_as(source, "if true", "endif")
}

/// Replaces the tags `{% generation %}` and `{% endgeneration %}` by a filter that marks their text.
fn with_marked_spans(source: &str) -> String {
    with_generation_tags_as(source, &format!("filter {SPAN_FILTER}"), "endfilter")
}

fn with_generation_tags_as(source: &str, begin: &str, end: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        let word =
            inside.trim_matches(|character: char| character.is_whitespace() || "-+".contains(character));
        plain.push_str(&rest[..start + 2]);
        match word {
            "generation" => plain.push_str(&inside.replace("generation", begin)),
            "endgeneration" => plain.push_str(&inside.replace("endgeneration", end)),
            _ => plain.push_str(inside),
        }
        plain.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    plain.push_str(rest);
    plain
}

/// JSON in the format of Python's `json.dumps`: a space after commas and colons, no escapes for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Python's other options are rare in templates. They are accepted and ignored.
    let _: Option<Value> = options.get("ensure_ascii")?;
    let _: Option<Value> = options.get("separators")?;
    let _: Option<Value> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut bytes = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(16)];
            let formatter = PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut Serializer::with_formatter(&mut bytes, PythonFormatter)).map_err(failed)?;
        }
    }
    String::from_utf8(bytes)
        .map(Value::from)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tokenizer::tests::{tokenizer, with_both_tokens};

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn run(template: &str) -> Result<String, ModelError> {
        render(&tokenizer(Some(template)), &[message(Role::User, "say \"<hi>\"")], true)
    }

    fn refusal(template: &str) -> String {
        run(template).expect_err("it must fail").to_string()
    }

    #[test]
    fn templates_render_as_in_transformers() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/chat_templates.json")).expect("golden");
        let user = message(Role::User, golden["prompt"].as_str().expect("prompt"));
        let completion = message(Role::Assistant, golden["answer"].as_str().expect("completion"));
        let both = [user.clone(), completion];
        for case in golden["cases"].as_array().expect("cases") {
            let tokenizer = with_both_tokens(case["template"].as_str().expect("template"));
            let name = &case["name"];
            assert_eq!(
                render(&tokenizer, std::slice::from_ref(&user), true).expect("prompt"),
                case["prompt"],
                "{name}"
            );
            assert_eq!(render(&tokenizer, &both, false).expect("whole"), case["whole"], "{name}");
        }
    }

    #[test]
    fn blocks_remove_their_line_as_in_transformers() {
        let template = "{% for message in messages %}\n    {% if true %}\n{{ message['content'] }}\n    {% endif %}\n{% endfor %}\nend";
        assert_eq!(run(template).expect("text"), "say \"<hi>\"\nend");
    }

    #[test]
    fn existing_special_tokens_are_defined_and_others_undefined() {
        assert_eq!(
            run("{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}").expect("text"),
            "<s>FalseTrue"
        );
    }

    #[test]
    fn json_is_formatted_as_in_python() {
        let text = run("{{ messages | tojson }}").expect("text");
        assert_eq!(text, r#"[{"role": "user", "content": "say \"<hi>\""}]"#);
        assert_eq!(run("{{ [1] | tojson(indent=2) }}").expect("text"), "[\n  1\n]");
    }

    #[test]
    fn python_methods_and_loop_controls_work() {
        let template = "{% for m in messages %}{{ m.content.split(' ')[0].upper() }}{% break %}{% endfor %}{{ ' x '.strip() }}";
        assert_eq!(run(template).expect("text"), "SAYx");
    }

    #[test]
    fn generation_tags_print_nothing() {
        assert_eq!(run("a {%- generation -%} b {% endgeneration %}c").expect("text"), "ab c");
    }

    #[test]
    fn raising_and_broken_templates_are_errors() {
        assert!(refusal("{{ raise_exception('no system role') }}").contains("no system role"));
        assert!(refusal("{% if %}").contains("line 1"));
        assert!(refusal("{{ strftime_now('%d') }}").contains("current date"));
        assert!(run("{{ strftime_now is defined }}").expect("text").contains("False"));
    }

    #[test]
    fn templates_have_bounded_time_and_output() {
        assert!(
            refusal("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}")
                .contains("fuel")
        );
        let doubling = "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}";
        assert!(run(doubling).is_err());
        assert!(run("{{ 'x' * 1000000000000 }}").is_err());
        assert!(run(&"x".repeat(SOURCE_BYTES_MAX + 1)).is_err());
    }
}
