//! The fields of a line and the kinds of their values, from which the format is recognised.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::format::Format;
use super::transcript;
use crate::jsonl::{FieldError, FieldErrorKind};

/// The kind of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FieldKind {
    /// No value, or `null`, which tables write for a missing value.
    #[default]
    Absent,
    /// A text.
    Text,
    /// A text that begins like an HH-RLHF transcript.
    Transcript,
    /// A list, which is usually a dialogue.
    List,
    /// Any other value.
    Other,
}

impl FieldKind {
    fn is_present(self) -> bool {
        self != Self::Absent
    }
}

/// The fields by which formats differ.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Columns {
    prompt: FieldKind,
    chosen: FieldKind,
    rejected: FieldKind,
    completion: FieldKind,
    label: FieldKind,
    messages: FieldKind,
    text: FieldKind,
    response_0: FieldKind,
    response_1: FieldKind,
}

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

impl Columns {
    /// Returns the shape of the line, for the given format or the recognised one.
    ///
    /// # Errors
    /// If no format has these fields.
    pub(super) fn shape(&self, given: Option<Format>) -> Result<Shape, FieldError> {
        let format = match given {
            Some(format) => format,
            None => self.recognise()?,
        };
        let main_field = match format {
            Format::Preference | Format::ImplicitPreference => self.chosen,
            Format::PromptCompletion | Format::Unpaired => self.completion,
            Format::PromptOnly => self.prompt,
            Format::Messages => FieldKind::List,
            Format::HhRlhf | Format::SafeRlhf | Format::Text => FieldKind::Text,
        };
        Ok(Shape { format, conversational: main_field == FieldKind::List })
    }

    /// Recognises the format. Formats with more specific fields come first, because data sets have
    /// additional columns.
    fn recognise(&self) -> Result<Format, FieldError> {
        if self.response_0.is_present() && self.response_1.is_present() {
            return Ok(Format::SafeRlhf);
        }
        if self.chosen.is_present() && self.rejected.is_present() {
            return Ok(self.recognise_preference());
        }
        if self.prompt.is_present() && self.completion.is_present() {
            return Ok(if self.label.is_present() { Format::Unpaired } else { Format::PromptCompletion });
        }
        if self.messages.is_present() {
            Ok(Format::Messages)
        } else if self.text.is_present() {
            Ok(Format::Text)
        } else if self.prompt.is_present() {
            Ok(Format::PromptOnly)
        } else {
            let known: Vec<String> =
                Format::ALL.iter().map(|format| format!("{format} ({})", format.fields())).collect();
            let reason = format!("no known format has these fields: use one of {}", known.join("; "));
            Err(FieldError::new("", FieldErrorKind::Format, reason))
        }
    }

    fn recognise_preference(&self) -> Format {
        // Some data sets repeat the prompt as a plain column beside whole dialogues. TRL's
        // maybe_extract_prompt ignores that column too.
        let prompt_is_repeated = self.chosen == FieldKind::List && self.prompt != FieldKind::List;
        if self.prompt.is_present() && !prompt_is_repeated {
            Format::Preference
        } else if self.chosen == FieldKind::Transcript {
            Format::HhRlhf
        } else {
            Format::ImplicitPreference
        }
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
        Ok(FieldKind::Absent)
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
