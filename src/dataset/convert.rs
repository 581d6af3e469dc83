//! From the rows that a file has to those that a training learns from.

use std::collections::HashMap;

use dissent_domain::training::{Demonstration, Dialogue, Preference};

use super::rows::{Row, Rows, TextRow, Unpaired};
use super::{Dataset, Format, row_error};
use crate::jsonl::InputError;

/// Preferences, and what of the file is none.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceRows {
    /// The preferences.
    pub rows: Vec<Row<Preference>>,
    /// What was left.
    pub left: SkippedRows,
}

/// Rows of a file that a training has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SkippedRows {
    /// How many.
    pub rows: usize,
    /// The line of the first of them; 0 where there is none.
    pub first_line: u64,
}

impl SkippedRows {
    /// Counts one more.
    pub fn add(&mut self, line: u64) {
        if self.rows == 0 {
            self.first_line = line;
        }
        self.rows += 1;
    }
}

/// What supervised fine-tuning learns from.
#[derive(Debug, Clone, PartialEq)]
pub enum ImitationRows {
    /// Answers to prompts.
    Demonstrations(Vec<Row<Demonstration>>),
    /// Whole texts.
    Texts(Vec<Row<TextRow>>),
}

impl Dataset {
    /// The rows as preferences. Unpaired rows are put together: each good answer with each bad one to the
    /// same prompt, in the order of the file; a row without a counterpart is left.
    ///
    /// # Errors
    /// If the rows are of another kind.
    pub fn preferences(self) -> Result<PreferenceRows, InputError> {
        match self.rows {
            Rows::Preferences(rows) => Ok(PreferenceRows { rows, left: SkippedRows::default() }),
            Rows::Unpaired(rows) => Ok(paired(rows)),
            Rows::Demonstrations(_) | Rows::Texts(_) | Rows::Prompts(_) => Err(self.unsuitable(
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

    /// The rows as answers to imitate; of unpaired rows the good ones, the others are left.
    ///
    /// # Errors
    /// If the rows are of another kind.
    pub fn imitated(self) -> Result<(ImitationRows, SkippedRows), InputError> {
        match self.rows {
            Rows::Demonstrations(rows) => Ok((ImitationRows::Demonstrations(rows), SkippedRows::default())),
            Rows::Texts(rows) => Ok((ImitationRows::Texts(rows), SkippedRows::default())),
            Rows::Unpaired(rows) => {
                let mut left = SkippedRows::default();
                let mut good = Vec::new();
                for Row { line, value } in rows {
                    if value.label {
                        let Unpaired { prompt, completion, .. } = value;
                        good.push(Row { line, value: Demonstration { prompt, completion } });
                    } else {
                        left.add(line);
                    }
                }
                Ok((ImitationRows::Demonstrations(good), left))
            }
            Rows::Preferences(_) | Rows::Prompts(_) => Err(self.unsuitable(
                "answers to imitate",
                &[Format::PromptCompletion, Format::Messages, Format::Text, Format::Unpaired],
            )),
        }
    }

    /// The prompts of the rows, each once, in the order in which they first appear.
    ///
    /// # Errors
    /// If the rows have none.
    pub fn prompts(self) -> Result<Vec<Row<Dialogue>>, InputError> {
        let prompts: Vec<Row<Dialogue>> = match self.rows {
            Rows::Preferences(rows) => rows.into_iter().map(|row| row.map(|value| value.prompt)).collect(),
            Rows::Demonstrations(rows) => rows.into_iter().map(|row| row.map(|value| value.prompt)).collect(),
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
            "the rows are {} ({}), and {wanted} are needed: {}",
            self.format,
            self.format.fields(),
            formats.join("; ")
        );
        row_error(&self.file, 1, "", reason)
    }
}

impl<T> Row<T> {
    /// The same line with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Row<U> {
        Row { line: self.line, value: change(self.value) }
    }
}

fn paired(rows: Vec<Row<Unpaired>>) -> PreferenceRows {
    let mut by_prompt: HashMap<Dialogue, [Vec<usize>; 2]> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let sides = by_prompt.entry(row.value.prompt.clone()).or_default();
        sides[usize::from(row.value.label)].push(index);
    }
    let mut preferences = Vec::new();
    let mut left = SkippedRows::default();
    for row in &rows {
        let Some([bad, good]) = by_prompt.get(&row.value.prompt) else { continue };
        if bad.is_empty() || good.is_empty() {
            left.add(row.line);
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
    PreferenceRows { rows: preferences, left }
}
