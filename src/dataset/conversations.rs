//! Rows of messages: whole conversations, with the keys that chat templates read.

use dissent_models::template::Conversation;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::text_or_turns::speaker;
use crate::jsonl::FieldErrorKind::{Empty, Invalid, Missing, WrongType};
use crate::jsonl::{FieldError, Object};

/// The keys of a message that are rendered. Others are refused, because no template would miss them.
const MESSAGE_KEYS: [&str; 8] =
    ["role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"];
/// The speakers that chat templates know.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

#[derive(Deserialize)]
pub(super) struct RawMessages {
    messages: Vec<Map<String, Value>>,
    tools: Option<Value>,
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// A row of ShareGPT.
#[derive(Deserialize)]
pub(super) struct RawConversation {
    conversations: Vec<Object<RawTurn>>,
    tools: Option<Value>,
    chat_template_kwargs: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct RawTurn {
    from: String,
    value: String,
}

impl RawMessages {
    pub(super) fn checked(self) -> Result<Conversation, FieldError> {
        let messages = self.messages.into_iter().enumerate();
        let messages = messages.map(|(index, message)| checked_message(message, index));
        conversation(messages.collect::<Result<_, _>>()?, "messages", self.tools, self.chat_template_kwargs)
    }
}

impl RawConversation {
    pub(super) fn checked(self) -> Result<Conversation, FieldError> {
        let turns =
            self.conversations.into_iter().enumerate().map(|(index, Object(RawTurn { from, value }))| {
                let Some(role) = speaker(&from) else {
                    let reason = format!("unknown speaker {from:?}: use human, gpt or system");
                    return Err(FieldError::new(format!("conversations[{index}].from"), Invalid, reason));
                };
                Ok(Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), value.into())]))
            });
        let turns = turns.collect::<Result<_, _>>()?;
        conversation(turns, "conversations", self.tools, self.chat_template_kwargs)
    }
}

fn conversation(
    messages: Vec<Map<String, Value>>,
    field: &str,
    tools: Option<Value>,
    arguments: Option<Map<String, Value>>,
) -> Result<Conversation, FieldError> {
    match messages.last().and_then(|message| message.get("role")) {
        None => return Err(FieldError::new(field, Empty, "must not be empty")),
        Some(role) if role != "assistant" => {
            return Err(FieldError::new(field, Invalid, "must end with a turn of the assistant"));
        }
        Some(_) => {}
    }
    let mut template_arguments = arguments.unwrap_or_default();
    template_arguments.retain(|_, value| !value.is_null());
    Ok(Conversation { messages, tools: tools.map(checked_tools).transpose()?.flatten(), template_arguments })
}

/// Reads the tools, which tables hold as JSON in a text. An empty list means none.
fn checked_tools(tools: Value) -> Result<Option<Value>, FieldError> {
    let parsed = match &tools {
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => tools,
    };
    match without_nulls(parsed) {
        Value::Array(tools) if tools.is_empty() => Ok(None),
        Value::Array(tools) => Ok(Some(Value::Array(tools))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(FieldError::new(
                "tools",
                WrongType,
                "must be a list of tools, or a text with such a list as JSON",
            ))
        }
    }
}

fn checked_message(message: Map<String, Value>, index: usize) -> Result<Map<String, Value>, FieldError> {
    let field = |key: &str| format!("messages[{index}].{key}");
    let mut checked = Map::new();
    for (key, value) in message {
        if value.is_null() && key != "content" {
            continue;
        }
        if !MESSAGE_KEYS.contains(&key.as_str()) {
            let reason = format!("unknown key of a message: use {}, or remove it", MESSAGE_KEYS.join(", "));
            return Err(FieldError::new(field(&key), Invalid, reason));
        }
        checked.insert(key, without_nulls(value));
    }
    match checked.get("role").and_then(Value::as_str) {
        None => return Err(FieldError::new(field("role"), Missing, "missing")),
        Some(role) if !ROLES.contains(&role) => {
            let hint = speaker(role).map_or_else(|| ROLES.join(", "), |known| format!("{known} for {role}"));
            return Err(FieldError::new(
                field("role"),
                WrongType,
                format!("unknown role {role:?}: use {hint}"),
            ));
        }
        Some(_) => {}
    }
    match checked.get("content") {
        Some(Value::String(_)) => Ok(checked),
        None | Some(Value::Null) if checked.contains_key("tool_calls") => Ok(checked),
        None | Some(Value::Null) => Err(FieldError::new(field("content"), Missing, "missing")),
        Some(_) => {
            let reason = "must be a text: lists of parts, such as images, are not supported";
            Err(FieldError::new(field("content"), WrongType, reason))
        }
    }
}

/// Removes keys without a value, which tables add to every object of a column.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let present = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(present.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}
