//! Reading and checking the rows of each format.

use std::fmt;

use dissent_domain::training::{Demonstration, Dialogue, Preference};
use dissent_models::template::Conversation;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::columns::{Columns, Shape};
use super::conversations::{RawConversation, RawMessages};
use super::format::Format;
use super::options::ReadOptions;
use super::preferences::{RawPreference, RawSafeRlhf, safe_rlhf};
use super::text_or_turns::{TextOrTurns, dialogue, prompt_and_completion};
use crate::jsonl::{FieldError, FieldErrorKind, InputError, JsonLines};

/// A row with its line number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row<T> {
    /// The line, from 1. It is not part of the fingerprint.
    #[serde(skip)]
    pub line: u64,
    /// The content of the row.
    #[serde(flatten)]
    pub value: T,
}

/// A completion that was judged alone, as good or bad.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unpaired {
    /// The prompt.
    pub prompt: Dialogue,
    /// The judged completion.
    pub completion: String,
    /// Whether the completion is good.
    pub label: bool,
}

/// The prompt of a prompt-only row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptRow {
    /// The prompt.
    pub prompt: Dialogue,
}

/// A text without a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextRow {
    /// The text.
    pub text: String,
}

/// All rows of a file, which have one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Prompts with a chosen and a rejected completion.
    Preferences(Vec<Row<Preference>>),
    /// Prompts with a completion to imitate.
    Demonstrations(Vec<Row<Demonstration>>),
    /// Conversations to imitate.
    Conversations(Vec<Row<Conversation>>),
    /// Completions that are labelled good or bad.
    Unpaired(Vec<Row<Unpaired>>),
    /// Texts without prompts.
    Texts(Vec<Row<TextRow>>),
    /// Prompts without completions.
    Prompts(Vec<Row<PromptRow>>),
}

impl Rows {
    pub(super) fn empty(format: Format) -> Self {
        match format {
            Format::Preference | Format::ImplicitPreference | Format::HhRlhf | Format::SafeRlhf => {
                Self::Preferences(Vec::new())
            }
            Format::PromptCompletion | Format::Alpaca => Self::Demonstrations(Vec::new()),
            Format::Messages | Format::ShareGpt => Self::Conversations(Vec::new()),
            Format::Unpaired => Self::Unpaired(Vec::new()),
            Format::Text => Self::Texts(Vec::new()),
            Format::PromptOnly => Self::Prompts(Vec::new()),
        }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Preferences(rows) => rows.len(),
            Self::Demonstrations(rows) => rows.len(),
            Self::Conversations(rows) => rows.len(),
            Self::Unpaired(rows) => rows.len(),
            Self::Texts(rows) => rows.len(),
            Self::Prompts(rows) => rows.len(),
        }
    }

    /// Returns whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the hash of the contents of all rows, in order.
    pub(super) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // Neither hashing nor writing plain data as JSON can fail.
        let _ = serde_json::to_writer(&mut hasher, self);
        hasher.finalize().to_hex().to_string()
    }

    /// Parses the current line as a row.
    pub(super) fn push(
        &mut self,
        line: u64,
        lines: &JsonLines<Columns>,
        shape: Shape,
        options: &ReadOptions,
    ) -> Result<(), InputError> {
        let current = CurrentLine { line, lines, shape };
        match self {
            Self::Preferences(rows) => rows.push(Row { line, value: current.preference(options)? }),
            Self::Demonstrations(rows) => rows.push(Row { line, value: current.demonstration()? }),
            Self::Conversations(rows) => rows.push(Row { line, value: current.conversation()? }),
            Self::Unpaired(rows) => rows.push(Row { line, value: current.unpaired()? }),
            Self::Texts(rows) => rows.push(Row { line, value: current.text()? }),
            Self::Prompts(rows) => rows.push(Row { line, value: current.prompt_row()? }),
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct RawCompletion {
    prompt: TextOrTurns,
    completion: TextOrTurns,
}

#[derive(Deserialize)]
struct RawUnpaired {
    prompt: TextOrTurns,
    completion: TextOrTurns,
    #[serde(deserialize_with = "truth")]
    label: bool,
}

/// Reads a label: true, false, 1 or 0.
fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Label;

    impl Visitor<'_> for Label {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false, 1 or 0")
        }

        fn visit_bool<E>(self, label: bool) -> Result<bool, E> {
            Ok(label)
        }

        fn visit_u64<E: de::Error>(self, label: u64) -> Result<bool, E> {
            match label {
                0 => Ok(false),
                1 => Ok(true),
                _ => Err(E::invalid_value(de::Unexpected::Unsigned(label), &self)),
            }
        }

        fn visit_i64<E: de::Error>(self, label: i64) -> Result<bool, E> {
            u64::try_from(label)
                .map_err(|_| E::invalid_value(de::Unexpected::Signed(label), &self))
                .and_then(|label| self.visit_u64(label))
        }

        // Tables with missing labels hold the others as fractions.
        fn visit_f64<E: de::Error>(self, label: f64) -> Result<bool, E> {
            match label.to_bits() {
                bits if bits == 0_f64.to_bits() => Ok(false),
                bits if bits == 1_f64.to_bits() => Ok(true),
                _ => Err(E::invalid_value(de::Unexpected::Float(label), &self)),
            }
        }
    }

    deserializer.deserialize_any(Label)
}

/// A row of Alpaca. The input, if there is one, follows the instruction on a line of its own.
#[derive(Deserialize)]
struct RawAlpaca {
    instruction: String,
    input: Option<String>,
    output: String,
}

impl RawAlpaca {
    fn checked(self) -> Result<Demonstration, FieldError> {
        let prompt = match self.input.filter(|input| !input.is_empty()) {
            Some(input) => format!("{}\n{input}", self.instruction),
            None => self.instruction,
        };
        if prompt.trim().is_empty() {
            return Err(FieldError::new("instruction", FieldErrorKind::Empty, "must not be empty"));
        }
        Ok(Demonstration { prompt: Dialogue::Text(prompt), completion: self.output })
    }
}

#[derive(Deserialize)]
struct RawText {
    text: String,
}

#[derive(Deserialize)]
struct RawPrompt {
    prompt: TextOrTurns,
}

/// The current line.
struct CurrentLine<'a> {
    line: u64,
    lines: &'a JsonLines<Columns>,
    shape: Shape,
}

impl CurrentLine<'_> {
    fn parsed<T: DeserializeOwned, U>(
        &self,
        check: impl FnOnce(T) -> Result<U, FieldError>,
    ) -> Result<U, InputError> {
        check(self.lines.reparse(self.line)?).map_err(|error| self.lines.invalid(self.line, error))
    }

    fn preference(&self, options: &ReadOptions) -> Result<Preference, InputError> {
        if self.shape.format == Format::SafeRlhf {
            return self.parsed(|raw: RawSafeRlhf| safe_rlhf(raw, options.preferred));
        }
        self.parsed(|raw: RawPreference| raw.checked(self.shape.format, options.margins))
    }

    fn demonstration(&self) -> Result<Demonstration, InputError> {
        if self.shape.format == Format::Alpaca {
            return self.parsed(RawAlpaca::checked);
        }
        self.parsed(|raw: RawCompletion| {
            let (prompt, completion) = prompt_and_completion(raw.prompt, raw.completion, "completion")?;
            Ok(Demonstration { prompt, completion })
        })
    }

    fn conversation(&self) -> Result<Conversation, InputError> {
        if self.shape.format == Format::ShareGpt {
            return self.parsed(RawConversation::checked);
        }
        self.parsed(RawMessages::checked)
    }

    fn unpaired(&self) -> Result<Unpaired, InputError> {
        self.parsed(|raw: RawUnpaired| {
            let (prompt, completion) = prompt_and_completion(raw.prompt, raw.completion, "completion")?;
            Ok(Unpaired { prompt, completion, label: raw.label })
        })
    }

    fn text(&self) -> Result<TextRow, InputError> {
        self.parsed(|raw: RawText| {
            if raw.text.is_empty() {
                return Err(FieldError::new("text", FieldErrorKind::Empty, "must not be empty"));
            }
            Ok(TextRow { text: raw.text })
        })
    }

    fn prompt_row(&self) -> Result<PromptRow, InputError> {
        self.parsed(|raw: RawPrompt| Ok(PromptRow { prompt: dialogue(raw.prompt)? }))
    }
}
