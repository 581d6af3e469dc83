//! Rows of each format, read and checked.

use dissent_domain::training::{Demonstration, Dialogue, Message, Preference};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::columns::{Columns, Shape};
use super::compared::{RawPreference, RawSafeRlhf, safe_rlhf};
use super::format::Format;
use super::options::ReadOptions;
use super::text_or_turns::{
    RawTurn, Refusal, TextOrTurns, checked_turns, dialogue, last_answer, prompt_and_completion, refusal,
};
use crate::jsonl::{InputError, JsonLines, Object};

/// A row, and the line that it stands in, from 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row<T> {
    /// The line. Not part of what the row says.
    #[serde(skip)]
    pub line: u64,
    /// What it says.
    #[serde(flatten)]
    pub value: T,
}

/// An answer that someone found good or bad by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unpaired {
    /// What is asked.
    pub prompt: Dialogue,
    /// The answer.
    pub completion: String,
    /// Whether it is good.
    pub label: bool,
}

/// The prompt of a prompt-only row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptRow {
    /// What is asked.
    pub prompt: Dialogue,
}

/// A text without a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextRow {
    /// The text.
    pub text: String,
}

/// All rows of a file: they are of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Two answers, one of them preferred.
    Preferences(Vec<Row<Preference>>),
    /// Answers to imitate.
    Demonstrations(Vec<Row<Demonstration>>),
    /// Answers that are good or bad.
    Unpaired(Vec<Row<Unpaired>>),
    /// Texts to imitate from their beginning.
    Texts(Vec<Row<TextRow>>),
    /// Questions without answers.
    Prompts(Vec<Row<PromptRow>>),
}

impl Rows {
    pub(super) fn none_yet(format: Format) -> Self {
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

    /// How many there are.
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

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash of what all rows say, in their order.
    pub(super) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // Hashing cannot fail, nor can plain data fail to be written as JSON.
        let _ = serde_json::to_writer(&mut hasher, self);
        hasher.finalize().to_hex().to_string()
    }

    /// Reads the line that was read last as a row.
    pub(super) fn push(
        &mut self,
        line: u64,
        lines: &JsonLines<Columns>,
        shape: Shape,
        options: &ReadOptions,
    ) -> Result<(), InputError> {
        let read = Reading { line, lines, shape };
        match self {
            Self::Preferences(rows) => rows.push(Row { line, value: read.preference(options)? }),
            Self::Demonstrations(rows) => rows.push(Row { line, value: read.demonstration()? }),
            Self::Unpaired(rows) => rows.push(Row { line, value: read.unpaired()? }),
            Self::Texts(rows) => rows.push(Row { line, value: read.text()? }),
            Self::Prompts(rows) => rows.push(Row { line, value: read.prompt_row()? }),
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

/// The line that was read last.
struct Reading<'a> {
    line: u64,
    lines: &'a JsonLines<Columns>,
    shape: Shape,
}

impl Reading<'_> {
    fn parsed<T: DeserializeOwned, U>(
        &self,
        check: impl FnOnce(T) -> Result<U, Refusal>,
    ) -> Result<U, InputError> {
        check(self.lines.again()?).map_err(|(field, reason)| self.lines.error(self.line, field, reason))
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
                let (prompt, completion) = last_answer(turns, "messages")?;
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
                return refusal("text", "must not be empty");
            }
            Ok(TextRow { text: raw.text })
        })
    }

    fn prompt_row(&self) -> Result<PromptRow, InputError> {
        self.parsed(|raw: RawPrompt| Ok(PromptRow { prompt: dialogue(raw.prompt)? }))
    }
}
