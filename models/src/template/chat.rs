//! Chat templates: Jinja programs that come with a model.

use std::ops::Range;

use dissent_domain::training::Message;
use serde_json::{Map, Value, json};

use super::turns::{Conversation, role};
use crate::checkpoint::{ReadingRules, TextTokenizer};
use crate::error::{InvalidKind, ModelError};
use crate::jinja::{self, Dialect, SPAN_END, SPAN_START, TemplateDate};

/// Everything that a chat template sees besides the special tokens.
#[derive(Debug, Clone, Copy)]
pub struct ChatInput<'a> {
    /// The turns: objects with `role`, `content` and the further keys that the template knows.
    pub messages: &'a [Value],
    /// Descriptions of tools; `None` is `none` in the template.
    pub tools: Option<&'a [Value]>,
    /// Documents to answer from; `None` is `none` in the template.
    pub documents: Option<&'a [Value]>,
    /// Further variables, such as `enable_thinking`. They override special tokens.
    pub variables: Option<&'a Map<String, Value>>,
    /// Whether the text ends with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// The date that the template sees as the current one.
    pub date: TemplateDate,
}

/// Renders messages with the model's template, up to the assistant's turn if `add_generation_prompt`.
pub(super) fn render(
    tokenizer: &TextTokenizer,
    messages: &[Message],
    add_generation_prompt: bool,
    date: TemplateDate,
) -> Result<String, ModelError> {
    let messages: Vec<Value> = messages
        .iter()
        .map(|message| json!({"role": role(message.role), "content": message.content}))
        .collect();
    let (tools, documents, variables) = (None, None, None);
    render_chat(
        tokenizer,
        &ChatInput { messages: &messages, tools, documents, variables, add_generation_prompt, date },
    )
}

/// Renders a chat as transformers' `apply_chat_template` does. Keys of a message that are null are left out.
/// A message's reasoning is passed under each of its usual names.
///
/// # Errors
/// [`ModelError::Invalid`] if the model has no chat template, if it fails, or if it uses a construct that is
/// not supported.
pub fn render_chat(tokenizer: &TextTokenizer, input: &ChatInput<'_>) -> Result<String, ModelError> {
    render_with(tokenizer, input, false)
}

/// Renders a conversation with the model's template, with its tools and further arguments.
pub(super) fn render_conversation(
    tokenizer: &TextTokenizer,
    conversation: &Conversation,
    add_generation_prompt: bool,
    date: TemplateDate,
) -> Result<String, ModelError> {
    let messages = messages(conversation);
    render_with(tokenizer, &input(conversation, &messages, add_generation_prompt, date), false)
}

fn messages(conversation: &Conversation) -> Vec<Value> {
    conversation.messages.iter().cloned().map(Value::Object).collect()
}

fn input<'a>(
    conversation: &'a Conversation,
    messages: &'a [Value],
    add_generation_prompt: bool,
    date: TemplateDate,
) -> ChatInput<'a> {
    ChatInput {
        messages,
        tools: conversation.tools.as_ref().and_then(Value::as_array).map(Vec::as_slice),
        documents: None,
        variables: Some(&conversation.template_arguments),
        add_generation_prompt,
        date,
    }
}

/// Returns the parts that the template marks with `{% generation %}`, in bytes of the rendered text; nothing
/// if it marks none.
///
/// # Errors
/// As [`render_chat`], and [`ModelError::Invalid`] if the marked text is not `whole`.
pub(super) fn generation_spans(
    tokenizer: &TextTokenizer,
    conversation: &Conversation,
    whole: &str,
    date: TemplateDate,
) -> Result<Option<Vec<Range<usize>>>, ModelError> {
    let messages = messages(conversation);
    let marked = render_with(tokenizer, &input(conversation, &messages, false, date), true)?;
    let (mut plain, mut spans, mut start) = (String::with_capacity(whole.len()), Vec::new(), 0);
    for character in marked.chars() {
        match character {
            SPAN_START => start = plain.len(),
            SPAN_END => spans.push(start..plain.len()),
            other => plain.push(other),
        }
    }
    if spans.is_empty() {
        return Ok(None);
    }
    if plain != whole {
        return Err(ModelError::invalid(
            InvalidKind::Template,
            "the model's chat template changes the text inside its {% generation %} marks: learn all or last",
        ));
    }
    Ok(Some(spans))
}

/// Renders a chat. With `mark_spans`, the text of `{% generation %}` is between [`SPAN_START`] and
/// [`SPAN_END`].
fn render_with(
    tokenizer: &TextTokenizer,
    input: &ChatInput<'_>,
    mark_spans: bool,
) -> Result<String, ModelError> {
    let source = tokenizer.chat_template_for(input.tools.is_some()).map_err(|reason| {
        ModelError::invalid(InvalidKind::Template, format!("{reason}: use raw, or a text with {{prompt}}"))
    })?;
    let mut context: Map<String, Value> =
        tokenizer.template_tokens().map(|(name, text)| (name.to_owned(), text.into())).collect();
    let array = |items: Option<&[Value]>| items.map_or(Value::Null, |items| items.to_vec().into());
    context.insert("messages".to_owned(), input.messages.iter().map(normalised).collect());
    context.insert("tools".to_owned(), array(input.tools));
    context.insert("documents".to_owned(), array(input.documents));
    context.insert("add_generation_prompt".to_owned(), input.add_generation_prompt.into());
    for (name, value) in input.variables.into_iter().flatten() {
        context.insert(name.clone(), value.clone());
    }
    let dialect = match tokenizer.reading() {
        ReadingRules::V1 => Dialect::First,
        ReadingRules::V2 => Dialect::Jinja2(input.date),
    };
    jinja::render(source, &context, dialect, mark_spans).map_err(|reason| {
        ModelError::invalid(InvalidKind::Template, format!("the model's chat template {reason}"))
    })
}

/// Returns a message without its null keys, and with its reasoning under every usual name.
pub(crate) fn normalised(message: &Value) -> Value {
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let Value::Object(fields) = message else { return message.clone() };
    let mut fields: Map<String, Value> = fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        if !fields.contains_key("thinking") {
            fields.shift_insert(0, "thinking".to_owned(), reasoning.clone());
        }
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    fields.into()
}

#[cfg(test)]
mod tests {
    use dissent_domain::training::Role;

    use super::*;
    use crate::checkpoint::tokenizer::tests::{tokenizer, with_both_tokens};

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn run(template: &str) -> Result<String, ModelError> {
        let date = TemplateDate::default();
        render(&tokenizer(Some(template)), &[message(Role::User, "say \"<hi>\"")], true, date)
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
        let date = TemplateDate::default();
        for case in golden["cases"].as_array().expect("cases") {
            let tokenizer = with_both_tokens(case["template"].as_str().expect("template"));
            let name = &case["name"];
            assert_eq!(
                render(&tokenizer, std::slice::from_ref(&user), true, date).expect("prompt"),
                case["prompt"],
                "{name}"
            );
            assert_eq!(render(&tokenizer, &both, false, date).expect("whole"), case["whole"], "{name}");
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
        assert!(refusal("{{ strftime_now('%Q') }}").contains("%Q"));
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
        assert!(run(&"x".repeat((1 << 20) + 1)).is_err());
    }
}
