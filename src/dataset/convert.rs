//! Conversion of a file's rows into training rows.

use std::collections::HashMap;

use dissent_domain::training::{Demonstration, Dialogue, Preference};
use dissent_models::template::Conversation;

use super::rows::{Row, Rows, TextRow, Unpaired};
use super::text_or_turns::checked_turns;
use super::{Dataset, Format, row_error};
use crate::jsonl::{FieldError, FieldErrorKind, InputError};

/// Preferences, and the number of rows without one.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceRows {
    /// The preferences.
    pub rows: Vec<Row<Preference>>,
    /// Unpaired rows without a counterpart.
    pub skipped: SkippedRows,
}

/// Rows of a file that a training does not use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SkippedRows {
    /// Number of rows.
    pub rows: usize,
    /// The first skipped line, from 1; 0 if no row was skipped.
    pub first_line: u64,
}

impl SkippedRows {
    /// Counts a skipped row.
    pub fn add(&mut self, line: u64) {
        if self.rows == 0 {
            self.first_line = line;
        }
        self.rows += 1;
    }
}

/// The rows of supervised fine-tuning.
#[derive(Debug, Clone, PartialEq)]
pub enum SftRows {
    /// Prompts with completions.
    Demonstrations(Vec<Row<Demonstration>>),
    /// Conversations.
    Conversations(Vec<Row<Conversation>>),
    /// Texts without prompts.
    Texts(Vec<Row<TextRow>>),
}

impl Dataset {
    /// Returns the rows as preferences. Unpaired rows are combined: each good completion with each bad one of
    /// the same prompt, in the order of the file. Rows without a counterpart are skipped.
    ///
    /// # Errors
    /// If the format has no preferences.
    pub fn preferences(self) -> Result<PreferenceRows, InputError> {
        match self.rows {
            Rows::Preferences(rows) => Ok(PreferenceRows { rows, skipped: SkippedRows::default() }),
            Rows::Unpaired(rows) => Ok(pair_up(rows)),
            Rows::Demonstrations(_) | Rows::Conversations(_) | Rows::Texts(_) | Rows::Prompts(_) => Err(self
                .unsuitable(
                    "preferences",
                    &[
                        Format::Preference,
                        Format::ImplicitPreference,
                        Format::HhRlhf,
                        Format::SafeRlhf,
                        Format::Unpaired,
                    ],
                )),
        }
    }

    /// Returns the rows for supervised fine-tuning. Bad unpaired rows are skipped.
    ///
    /// # Errors
    /// If the format has no demonstrations or texts.
    pub fn sft_rows(self) -> Result<(SftRows, SkippedRows), InputError> {
        match self.rows {
            Rows::Demonstrations(rows) => Ok((SftRows::Demonstrations(rows), SkippedRows::default())),
            Rows::Conversations(rows) => Ok((SftRows::Conversations(rows), SkippedRows::default())),
            Rows::Texts(rows) => Ok((SftRows::Texts(rows), SkippedRows::default())),
            Rows::Unpaired(rows) => {
                let mut skipped = SkippedRows::default();
                let mut good = Vec::new();
                for Row { line, value } in rows {
                    if value.label {
                        let Unpaired { prompt, completion, .. } = value;
                        good.push(Row { line, value: Demonstration { prompt, completion } });
                    } else {
                        skipped.add(line);
                    }
                }
                Ok((SftRows::Demonstrations(good), skipped))
            }
            Rows::Preferences(_) | Rows::Prompts(_) => Err(self.unsuitable(
                "demonstrations or texts",
                &[
                    Format::PromptCompletion,
                    Format::Messages,
                    Format::ShareGpt,
                    Format::Alpaca,
                    Format::Text,
                    Format::Unpaired,
                ],
            )),
        }
    }

    /// Returns the distinct prompts of the rows, in the order of their first appearance.
    ///
    /// # Errors
    /// If the format has no prompts.
    pub fn prompts(self) -> Result<Vec<Row<Dialogue>>, InputError> {
        let prompts: Vec<Row<Dialogue>> = match self.rows {
            Rows::Preferences(rows) => rows.into_iter().map(|row| row.map(|value| value.prompt)).collect(),
            Rows::Demonstrations(rows) => rows.into_iter().map(|row| row.map(|value| value.prompt)).collect(),
            Rows::Conversations(rows) => {
                let prompts = rows.into_iter().map(|row| conversation_prompt(&self.file, &row));
                prompts.collect::<Result<_, _>>()?
            }
            Rows::Unpaired(rows) => rows.into_iter().map(|row| row.map(|value| value.prompt)).collect(),
            Rows::Prompts(rows) => rows.into_iter().map(|row| row.map(|value| value.prompt)).collect(),
            Rows::Texts(_) => return Err(self.unsuitable("prompts", &[Format::PromptOnly])),
        };
        let mut seen = std::collections::HashSet::new();
        Ok(prompts.into_iter().filter(|row| seen.insert(row.value.clone())).collect())
    }

    fn unsuitable(&self, wanted: &str, formats: &[Format]) -> InputError {
        let formats: Vec<String> =
            formats.iter().map(|format| format!("{format} ({})", format.fields())).collect();
        let reason = format!(
            "the format is {} ({}), without {wanted}: use one of {}",
            self.format,
            self.format.fields(),
            formats.join("; ")
        );
        row_error(&self.file, 1, FieldError::new("", FieldErrorKind::Format, reason))
    }
}

impl<T> Row<T> {
    /// Converts the value and keeps the line.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Row<U> {
        Row { line: self.line, value: change(self.value) }
    }
}

/// Returns the turns before the last answer.
fn conversation_prompt(file: &str, row: &Row<Conversation>) -> Result<Row<Dialogue>, InputError> {
    let demonstration = row.value.demonstration().map_err(|field| {
        let reason = "not read in prompts: only supervised fine-tuning renders it";
        row_error(file, row.line, FieldError::new(field, FieldErrorKind::Invalid, reason))
    })?;
    let prompt = match demonstration.prompt {
        Dialogue::Messages(turns) => checked_turns(turns, "messages"),
        text @ Dialogue::Text(_) => Ok(text),
    };
    let prompt = prompt.map_err(|error| row_error(file, row.line, error))?;
    Ok(Row { line: row.line, value: prompt })
}

fn pair_up(rows: Vec<Row<Unpaired>>) -> PreferenceRows {
    let mut by_prompt: HashMap<Dialogue, [Vec<usize>; 2]> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let sides = by_prompt.entry(row.value.prompt.clone()).or_default();
        sides[usize::from(row.value.label)].push(index);
    }
    let mut preferences = Vec::new();
    let mut skipped = SkippedRows::default();
    for row in &rows {
        let Some([bad, good]) = by_prompt.get(&row.value.prompt) else { continue };
        if bad.is_empty() || good.is_empty() {
            skipped.add(row.line);
        } else if row.value.label {
            preferences.extend(bad.iter().map(|&bad| Row {
                line: row.line,
                value: Preference {
                    prompt: row.value.prompt.clone(),
                    chosen: row.value.completion.clone(),
                    rejected: rows[bad].value.completion.clone(),
                    margin: 0.0,
                    is_unsafe: None,
                },
            }));
        }
    }
    PreferenceRows { rows: preferences, skipped }
}
