//! Plain texts and dialogues, with the rules for prompts and completions.

use std::fmt;

use dissent_domain::training::{Dialogue, Message, Role};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, SeqAccess, Visitor};

use crate::jsonl::FieldErrorKind::{Empty, Invalid, WrongType};
use crate::jsonl::{FieldError, Object};

/// A text, or a dialogue as a list of turns.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TextOrTurns {
    Text(String),
    Turns(Vec<Message>),
}

#[derive(Deserialize)]
pub(super) struct RawTurn {
    role: Role,
    content: String,
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
    let prompt = dialogue(prompt)?;
    let conversational = matches!(prompt, Dialogue::Messages(_));
    Ok((prompt, self::completion(completion, field, conversational)?))
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
