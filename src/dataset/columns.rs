//! What a line shows of itself before it is read as a row: which fields it has, and of what kind they are.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::format::Format;
use super::transcript;

/// What stands in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Nothing, or `null`, which is what tables write where a row has no such value.
    #[default]
    Absent,
    /// A text.
    Text,
    /// A text that begins as an HH-RLHF transcript does.
    Transcript,
    /// A list: a dialogue, most likely.
    List,
    /// Anything else.
    Other,
}

impl Kind {
    fn is_there(self) -> bool {
        self != Self::Absent
    }
}

/// The fields of a line that tell its format.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Columns {
    prompt: Kind,
    chosen: Kind,
    rejected: Kind,
    completion: Kind,
    label: Kind,
    messages: Kind,
    text: Kind,
    response_0: Kind,
    response_1: Kind,
}

/// A format, and whether its texts are dialogues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) format: Format,
    /// Lists of `{role, content}` rather than plain texts.
    pub(super) conversational: bool,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conversational = if self.conversational { ", conversational" } else { "" };
        write!(f, "{} ({}{conversational})", self.format, self.format.fields())
    }
}

impl Columns {
    /// The shape of the line, its format being given or recognised; or what is wrong with its fields.
    pub(super) fn shape(&self, given: Option<Format>) -> Result<Shape, String> {
        let format = match given {
            Some(format) => format,
            None => self.recognise()?,
        };
        let telling = match format {
            Format::Preference | Format::ImplicitPreference => self.chosen,
            Format::PromptCompletion | Format::Unpaired => self.completion,
            Format::PromptOnly => self.prompt,
            Format::Messages => Kind::List,
            Format::HhRlhf | Format::SafeRlhf | Format::Text => Kind::Text,
        };
        Ok(Shape { format, conversational: telling == Kind::List })
    }

    /// The format with the most telling fields first: data sets carry columns beside those that are learnt
    /// from.
    fn recognise(&self) -> Result<Format, String> {
        if self.response_0.is_there() && self.response_1.is_there() {
            return Ok(Format::SafeRlhf);
        }
        if self.chosen.is_there() && self.rejected.is_there() {
            return Ok(self.recognise_preference());
        }
        if self.prompt.is_there() && self.completion.is_there() {
            return Ok(if self.label.is_there() { Format::Unpaired } else { Format::PromptCompletion });
        }
        if self.messages.is_there() {
            Ok(Format::Messages)
        } else if self.text.is_there() {
            Ok(Format::Text)
        } else if self.prompt.is_there() {
            Ok(Format::PromptOnly)
        } else {
            let known: Vec<String> =
                Format::ALL.iter().map(|format| format!("{format} ({})", format.fields())).collect();
            Err(format!("has the fields of no known format: {}", known.join("; ")))
        }
    }

    fn recognise_preference(&self) -> Format {
        // Some data sets repeat the prompt as a plain column beside whole dialogues (as TRL's
        // maybe_extract_prompt).
        let prompt_is_repeated = self.chosen == Kind::List && self.prompt != Kind::List;
        if self.prompt.is_there() && !prompt_is_repeated {
            Format::Preference
        } else if self.chosen == Kind::Transcript {
            Format::HhRlhf
        } else {
            Format::ImplicitPreference
        }
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Absent)
    }

    fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
        Ok(if transcript::is_one(text) { Kind::Transcript } else { Kind::Text })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
        Ok(Kind::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Kind::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Kind, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Kind::Other)
    }
}
