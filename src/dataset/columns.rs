//! The fields of a row and the kinds of their values, from which the format is recognised.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::format::Format;
use super::transcript;
use crate::jsonl::{FieldError, FieldErrorKind};

/// The kind of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// `null`, which tables write for a missing value.
    Null,
    /// A text.
    Text,
    /// A text that begins like an HH-RLHF transcript.
    Transcript,
    /// A list, which is usually a dialogue.
    List,
    /// Any other value.
    Other,
}

/// All fields of a row.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Columns(BTreeMap<String, FieldKind>);

/// A format, with the form of its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) format: Format,
    /// Whether texts are lists of `{role, content}`.
    pub(super) conversational: bool,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conversational = if self.conversational { ", conversational" } else { "" };
        write!(f, "{} ({}{conversational})", self.format, self.format.fields())
    }
}

/// Columns that hold questions in data sets without a column `prompt`.
const QUESTIONS: [&str; 5] = ["question", "query", "instruction", "input", "problem"];
/// Columns that hold answers in data sets without a column `completion`.
const ANSWERS: [&str; 5] = ["answer", "response", "output", "solution", "target"];

impl Columns {
    /// Returns the kind of a field that is present; nothing if it is absent or null.
    fn get(&self, name: &str) -> Option<FieldKind> {
        self.0.get(name).copied().filter(|kind| *kind != FieldKind::Null)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn is_null(&self, name: &str) -> bool {
        self.0.get(name) == Some(&FieldKind::Null)
    }

    /// Returns the present fields that a format does not read.
    pub(super) fn unread(&self, format: Format) -> impl Iterator<Item = &str> {
        let present = self.0.iter().filter(|(_, kind)| **kind != FieldKind::Null);
        present.map(|(name, _)| name.as_str()).filter(move |name| !format.reads(name))
    }

    /// Returns the shape of the row, for the given format or the recognised one.
    ///
    /// # Errors
    /// If no format has these fields.
    pub(super) fn shape(&self, given: Option<Format>) -> Result<Shape, FieldError> {
        let format = match given {
            Some(format) => format,
            None => self.recognise()?,
        };
        if format == Format::Messages
            && matches!(self.get("messages"), Some(FieldKind::Text | FieldKind::Transcript))
        {
            let reason =
                "must be a list of {role, content}, found a text: if it holds JSON, write the list itself";
            return Err(FieldError::new("messages", FieldErrorKind::WrongType, reason));
        }
        let main_field = match format {
            Format::Preference | Format::ImplicitPreference => self.get("chosen"),
            Format::PromptCompletion | Format::Unpaired => self.get("completion"),
            Format::PromptOnly => self.get("prompt"),
            Format::Messages | Format::ShareGpt => Some(FieldKind::List),
            Format::HhRlhf | Format::SafeRlhf | Format::Text | Format::Alpaca => Some(FieldKind::Text),
        };
        Ok(Shape { format, conversational: main_field == Some(FieldKind::List) })
    }

    /// Returns the error of a field that the format of the rows before needs and that is null here.
    pub(super) fn null_field(&self, format: Format) -> Option<FieldError> {
        let name = format.needed().iter().find(|name| self.is_null(name))?;
        let reason = format!("null, but {format} rows need a value: fill it in, or remove the row");
        Some(FieldError::new(*name, FieldErrorKind::Missing, reason))
    }

    /// Recognises the format. Formats with more specific fields come first, because data sets have
    /// additional columns.
    fn recognise(&self) -> Result<Format, FieldError> {
        if self.has("response_0") && self.has("response_1") {
            return Ok(Format::SafeRlhf);
        }
        if self.has("chosen") && self.has("rejected") {
            return self.recognise_preference();
        }
        if self.has("prompt") && self.has("completion") {
            return Ok(if self.has("label") { Format::Unpaired } else { Format::PromptCompletion });
        }
        if self.has("messages") {
            Ok(Format::Messages)
        } else if self.has("conversations") {
            Ok(Format::ShareGpt)
        } else if self.has("text") {
            Ok(Format::Text)
        } else if self.has("prompt") {
            self.recognise_prompt()
        } else if self.has("instruction") && self.has("output") {
            Ok(Format::Alpaca)
        } else {
            Err(self.unknown())
        }
    }

    fn recognise_prompt(&self) -> Result<Format, FieldError> {
        match ["chosen", "rejected", "completion"].into_iter().find(|name| self.is_null(name)) {
            Some(name) => {
                let reason = "null: fill it in, or read prompts only with --format prompt-only";
                Err(FieldError::new(name, FieldErrorKind::Missing, reason))
            }
            None => Ok(Format::PromptOnly),
        }
    }

    fn recognise_preference(&self) -> Result<Format, FieldError> {
        // Some data sets repeat the prompt as a plain column beside whole dialogues. TRL's
        // maybe_extract_prompt ignores that column too.
        let is_dialogue = self.get("chosen") == Some(FieldKind::List);
        let prompt_is_repeated = is_dialogue && self.get("prompt") != Some(FieldKind::List);
        if self.has("prompt") && !prompt_is_repeated {
            return Ok(Format::Preference);
        }
        if self.get("chosen") == Some(FieldKind::Transcript) {
            return Ok(Format::HhRlhf);
        }
        if !is_dialogue && let Some(question) = QUESTIONS.into_iter().find(|name| self.has(name)) {
            let reason = "not read beside chosen and rejected: rename it to prompt, or, if both texts begin with the \
                          prompt, use --format implicit-preference";
            return Err(FieldError::new(question, FieldErrorKind::Format, reason));
        }
        Ok(Format::ImplicitPreference)
    }

    /// Returns the error of a row that no format has, with the likely cause.
    fn unknown(&self) -> FieldError {
        if let Some(name) =
            Format::ALL.iter().flat_map(|format| format.needed()).find(|name| self.is_null(name))
        {
            let reason = "null: fill it in, or remove the row";
            return FieldError::new(*name, FieldErrorKind::Missing, reason);
        }
        let question = QUESTIONS.into_iter().find(|name| self.has(name));
        let answer = ANSWERS.into_iter().find(|name| self.has(name) && Some(*name) != question);
        let hint = match (question, answer) {
            (Some(question), Some(answer)) => {
                format!("rename {question} to prompt and {answer} to completion, or ")
            }
            (None | Some(_), _) => String::new(),
        };
        let known: Vec<String> =
            Format::ALL.iter().map(|format| format!("{format} ({})", format.fields())).collect();
        let reason = format!("no known format has these fields: {hint}use one of {}", known.join("; "));
        FieldError::new("", FieldErrorKind::Format, reason)
    }
}

impl<'de> Deserialize<'de> for FieldKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldKindVisitor)
    }
}

struct FieldKindVisitor;

impl<'de> Visitor<'de> for FieldKindVisitor {
    type Value = FieldKind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<FieldKind, E> {
        Ok(FieldKind::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<FieldKind, E> {
        Ok(if transcript::is_transcript(text) { FieldKind::Transcript } else { FieldKind::Text })
    }

    fn visit_bool<E>(self, _: bool) -> Result<FieldKind, E> {
        Ok(FieldKind::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<FieldKind, E> {
        Ok(FieldKind::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<FieldKind, E> {
        Ok(FieldKind::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<FieldKind, E> {
        Ok(FieldKind::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<FieldKind, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(FieldKind::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<FieldKind, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(FieldKind::Other)
    }
}
