//! Reading and checking the rows of each format.

use dissent_domain::training::{Demonstration, Dialogue, Message, Preference};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::columns::{Columns, Shape};
use super::format::Format;
use super::options::ReadOptions;
use super::preferences::{RawPreference, RawSafeRlhf, safe_rlhf};
use super::text_or_turns::{
    RawTurn, TextOrTurns, checked_turns, dialogue, prompt_and_completion, split_completion,
};
use crate::jsonl::{FieldError, FieldErrorKind, InputError, JsonLines, Object};

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
            Format::PromptCompletion | Format::Messages => Self::Demonstrations(Vec::new()),
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
    label: bool,
}

#[derive(Deserialize)]
struct RawMessages {
    messages: Vec<Object<RawTurn>>,
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
        check(self.lines.reparse()?).map_err(|error| self.lines.invalid(self.line, error))
    }

    fn preference(&self, options: &ReadOptions) -> Result<Preference, InputError> {
        if self.shape.format == Format::SafeRlhf {
            return self.parsed(|raw: RawSafeRlhf| safe_rlhf(raw, options.preferred));
        }
        self.parsed(|raw: RawPreference| raw.checked(self.shape.format, options.margins))
    }

    fn demonstration(&self) -> Result<Demonstration, InputError> {
        if self.shape.format == Format::Messages {
            return self.parsed(|raw: RawMessages| {
                let turns = raw.messages.into_iter().map(Message::from).collect();
                let (prompt, completion) = split_completion(turns, "messages")?;
                Ok(Demonstration { prompt: checked_turns(prompt, "messages")?, completion })
            });
        }
        self.parsed(|raw: RawCompletion| {
            let (prompt, completion) = prompt_and_completion(raw.prompt, raw.completion, "completion")?;
            Ok(Demonstration { prompt, completion })
        })
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
