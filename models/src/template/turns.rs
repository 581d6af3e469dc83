//! The turns of a conversation, with the keys that chat templates read.

use dissent_domain::training::{Demonstration, Dialogue, Message, Role};
use serde::Serialize;
use serde_json::{Map, Value};

/// The turns of a conversation as a chat template reads them, the last one of the assistant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conversation {
    /// `role`, `content` and further keys such as `tool_calls`, as they are in the data.
    pub messages: Vec<Map<String, Value>>,
    /// The descriptions of the tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// Further arguments of the template (`chat_template_kwargs`).
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub template_arguments: Map<String, Value>,
}

/// The turns of a prompt and the completion after them.
impl From<&Demonstration> for Conversation {
    fn from(Demonstration { prompt, completion }: &Demonstration) -> Self {
        let turn = |role: &str, content: &str| {
            Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
        };
        let mut messages: Vec<_> = match prompt {
            Dialogue::Text(text) => vec![turn("user", text)],
            Dialogue::Messages(turns) => {
                turns.iter().map(|message| turn(role(message.role), &message.content)).collect()
            }
        };
        messages.push(turn("assistant", completion));
        Self { messages, tools: None, template_arguments: Map::new() }
    }
}

impl Conversation {
    /// Returns the turns before the last one, and the last one, without further keys.
    ///
    /// # Errors
    /// The key that a dialogue of plain turns cannot hold.
    pub fn demonstration(&self) -> Result<Demonstration, String> {
        if self.tools.is_some() {
            return Err("tools".to_owned());
        }
        if let Some(name) = self.template_arguments.keys().next() {
            return Err(format!("chat_template_kwargs.{name}"));
        }
        let turns = self.messages.iter().enumerate().map(|(index, message)| {
            let role = match text(message, "role") {
                "system" => Role::System,
                "user" => Role::User,
                "assistant" => Role::Assistant,
                _ => return Err(format!("messages[{index}].role")),
            };
            match message.keys().find(|key| !matches!(key.as_str(), "role" | "content")) {
                Some(key) => Err(format!("messages[{index}].{key}")),
                None => Ok(Message { role, content: text(message, "content").to_owned() }),
            }
        });
        let mut turns = turns.collect::<Result<Vec<_>, _>>()?;
        let completion = turns.pop().map(|turn| turn.content).unwrap_or_default();
        Ok(Demonstration { prompt: Dialogue::Messages(turns), completion })
    }

    pub(super) fn without(&self, key: &str) -> Self {
        let mut plain = self.clone();
        if key == "tools" {
            plain.tools = None;
        }
        for message in &mut plain.messages {
            message.remove(key);
        }
        plain
    }

    pub(super) fn has(&self, key: &str) -> bool {
        (key == "tools" && self.tools.is_some())
            || self.messages.iter().any(|message| message.contains_key(key))
    }

    pub(super) fn beginning(&self, turns: usize) -> Self {
        Self { messages: self.messages[..turns].to_vec(), ..self.clone() }
    }
}

pub(super) fn text<'a>(message: &'a Map<String, Value>, key: &str) -> &'a str {
    message.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}
