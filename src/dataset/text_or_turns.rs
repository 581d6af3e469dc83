//! Plain texts and dialogues, with the rules for prompts and completions.

use std::fmt;

use dissent_domain::training::{Dialogue, Message, Role};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::jsonl::FieldErrorKind::{Empty, Invalid, WrongType};
use crate::jsonl::{FieldError, Object};

/// A text, or a dialogue as a list of turns.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TextOrTurns {
    Text(String),
    Turns(Vec<Message>),
}

/// A turn, which has no other keys with a value: they would be lost.
pub(super) struct RawTurn {
    role: Role,
    content: String,
}

impl<'de> Deserialize<'de> for RawTurn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TurnVisitor;

        impl<'de> Visitor<'de> for TurnVisitor {
            type Value = RawTurn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of role and content")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<RawTurn, A::Error> {
                let (mut role, mut content) = (None, None);
                while let Some(key) = fields.next_key::<String>()? {
                    match key.as_str() {
                        "role" => role = Some(fields.next_value()?),
                        "content" => content = Some(fields.next_value()?),
                        _ => {
                            fields.next_value::<NoValue>()?;
                        }
                    }
                }
                Ok(RawTurn {
                    role: role.ok_or_else(|| A::Error::missing_field("role"))?,
                    content: content.ok_or_else(|| A::Error::missing_field("content"))?,
                })
            }
        }

        deserializer.deserialize_map(TurnVisitor)
    }
}

/// A value that must be null.
struct NoValue;

impl<'de> Deserialize<'de> for NoValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<IgnoredAny>::deserialize(deserializer)? {
            None => Ok(Self),
            Some(_) => Err(D::Error::custom(
                "not read here: rows of messages in supervised fine-tuning render it, other rows have role and content \
                 only",
            )),
        }
    }
}

/// Returns the role of a speaker as ShareGPT and its relatives name it.
pub(super) fn speaker(name: &str) -> Option<&'static str> {
    match name.to_ascii_lowercase().as_str() {
        "system" => Some("system"),
        "human" | "user" => Some("user"),
        "gpt" | "assistant" | "model" | "bot" | "chatgpt" => Some("assistant"),
        _ => None,
    }
}

impl From<Object<RawTurn>> for Message {
    fn from(Object(RawTurn { role, content }): Object<RawTurn>) -> Self {
        Self { role, content }
    }
}

impl<'de> Deserialize<'de> for TextOrTurns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTurnsVisitor;

        impl<'de> Visitor<'de> for TextOrTurnsVisitor {
            type Value = TextOrTurns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of {role, content}")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextOrTurns, E> {
                Ok(TextOrTurns::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, turns: A) -> Result<TextOrTurns, A::Error> {
                let turns = Vec::<Object<RawTurn>>::deserialize(SeqAccessDeserializer::new(turns))?;
                Ok(TextOrTurns::Turns(turns.into_iter().map(Message::from).collect()))
            }
        }

        deserializer.deserialize_any(TextOrTurnsVisitor)
    }
}

/// The field `prompt` of a row: a text, or turns of which the last is not the assistant's. It is written as
/// it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptField(pub Dialogue);

impl<'de> Deserialize<'de> for PromptField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextOrTurns::deserialize(deserializer)? {
            TextOrTurns::Text(text) => Ok(Self(Dialogue::Text(text))),
            TextOrTurns::Turns(turns) => {
                checked_turns(turns, "").map(Self).map_err(|error| D::Error::custom(error.reason))
            }
        }
    }
}

impl Serialize for PromptField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Dialogue::Text(text) => text.serialize(serializer),
            Dialogue::Messages(turns) => turns.serialize(serializer),
        }
    }
}

/// Splits the last turn off a dialogue. It is the completion, so its speaker must be the assistant.
pub(super) fn split_completion(
    mut turns: Vec<Message>,
    field: &str,
) -> Result<(Vec<Message>, String), FieldError> {
    match turns.pop() {
        Some(Message { role: Role::Assistant, content }) => Ok((turns, content)),
        Some(_) => Err(FieldError::new(field, Invalid, "must end with a turn of the assistant")),
        None => Err(FieldError::new(field, Empty, "must not be empty")),
    }
}

pub(super) fn prompt_and_completion(
    prompt: TextOrTurns,
    completion: TextOrTurns,
    field: &str,
) -> Result<(Dialogue, String), FieldError> {
    let prompt = asked_by_user(dialogue(prompt)?, &completion);
    let conversational = matches!(prompt, Dialogue::Messages(_));
    Ok((prompt, self::completion(completion, field, conversational)?))
}

/// Turns a plain prompt into a turn of the user, if its completion is a turn.
pub(super) fn asked_by_user(prompt: Dialogue, completion: &TextOrTurns) -> Dialogue {
    match (prompt, completion) {
        (Dialogue::Text(content), TextOrTurns::Turns(_)) => {
            Dialogue::Messages(vec![Message { role: Role::User, content }])
        }
        (prompt, _) => prompt,
    }
}

/// Returns a completion: a text after a plain prompt, one turn of the assistant after a dialogue.
pub(super) fn completion(
    value: TextOrTurns,
    field: &str,
    conversational: bool,
) -> Result<String, FieldError> {
    match value {
        TextOrTurns::Text(text) if !conversational => Ok(text),
        TextOrTurns::Text(_) => {
            Err(FieldError::new(field, WrongType, "must be a list of {role, content}, like the prompt"))
        }
        TextOrTurns::Turns(_) if !conversational => {
            Err(FieldError::new(field, WrongType, "must be a text, like the prompt"))
        }
        TextOrTurns::Turns(turns) => match <[Message; 1]>::try_from(turns) {
            Ok([Message { role: Role::Assistant, content }]) => Ok(content),
            Ok(_) | Err(_) => Err(FieldError::new(field, Invalid, "must be one turn of the assistant")),
        },
    }
}

pub(super) fn dialogue(prompt: TextOrTurns) -> Result<Dialogue, FieldError> {
    match prompt {
        TextOrTurns::Text(text) if text.trim().is_empty() => {
            Err(FieldError::new("prompt", Empty, "must not be empty"))
        }
        TextOrTurns::Text(text) => Ok(Dialogue::Text(text)),
        TextOrTurns::Turns(turns) => checked_turns(turns, "prompt"),
    }
}

/// Puts a system text before a dialogue. An empty text is none.
///
/// # Errors
/// If the dialogue begins with a system turn already.
pub(crate) fn with_system(dialogue: Dialogue, system: Option<String>) -> Result<Dialogue, FieldError> {
    let Some(content) = system.filter(|content| !content.trim().is_empty()) else { return Ok(dialogue) };
    let mut turns = match dialogue {
        Dialogue::Text(text) => vec![Message { role: Role::User, content: text }],
        Dialogue::Messages(turns) => turns,
    };
    if turns.first().is_some_and(|first| first.role == Role::System) {
        let reason = "the prompt begins with a system turn already: keep one of the two";
        return Err(FieldError::new("system", Invalid, reason));
    }
    turns.insert(0, Message { role: Role::System, content });
    Ok(Dialogue::Messages(turns))
}

pub(super) fn checked_turns(turns: Vec<Message>, field: &str) -> Result<Dialogue, FieldError> {
    match turns.last() {
        None => Err(FieldError::new(field, Invalid, "must have a turn before the completion")),
        Some(Message { role: Role::Assistant, .. }) => Err(FieldError::new(
            field,
            Invalid,
            "must end with a turn of the user or system, not of the assistant",
        )),
        Some(_) => Ok(Dialogue::Messages(turns)),
    }
}
