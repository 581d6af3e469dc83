//! Tokenises the rows of a file for a training, and counts the rows that are skipped.

use anyhow::Context as _;
use dissent_domain::training::{Demonstration, Preference};
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::template::{Conversation, LearntTurns, PromptTemplate, encode_text};
use dissent_models::training::{TokenPair, TrainingData, TrainingSequence};
use dissent_models::{InvalidKind, ModelError};
use serde_json::{Value, json};

use crate::dataset::{Dataset, Row, SftRows, SkippedRows, TextRow, row_error};
use crate::error::BadInput;
use crate::jsonl::{FieldError, FieldErrorKind};

/// Kind of rows that a training needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    /// Completions to imitate.
    Imitation,
    /// Pairs of whole texts, each to be scored.
    Scores,
    /// As [`RowKind::Scores`], with a safety label of each completion.
    Costs,
    /// Pairs of completions whose log-probabilities are compared.
    Preferences,
}

/// The examples of a file, tokenised.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Examples {
    pub(super) data: TrainingData,
    pub(super) skipped: Skipped,
}

/// Rows that a training does not use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Skipped {
    /// Rows above the largest length.
    pub(super) too_long: SkippedRows,
    /// Unpaired rows without a counterpart, or with a bad completion where completions are imitated.
    pub(super) unmatched: SkippedRows,
}

impl Skipped {
    /// Returns the counts for `training.json`.
    pub(super) fn counts(&self) -> Value {
        json!({"too_long": self.too_long.rows, "unmatched": self.unmatched.rows})
    }

    /// Returns a message for each reason that skipped a row.
    pub(super) fn messages(&self, max_length: u32) -> Vec<String> {
        let mut messages = Vec::new();
        if self.too_long.rows > 0 {
            messages.push(format!(
                "skipped {} above {max_length} tokens, the first in line {} (the limit is --max-length or the model's context)",
                rows(self.too_long.rows),
                self.too_long.first_line
            ));
        }
        if self.unmatched.rows > 0 {
            messages.push(format!(
                "skipped {} without a counterpart, or with a bad completion, the first in line {}",
                rows(self.unmatched.rows),
                self.unmatched.first_line
            ));
        }
        messages
    }
}

fn rows(count: usize) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// Rows of the kind that a training needs, before they are tokenised.
pub(super) enum TrainingRows {
    Demonstrations(Vec<Row<Demonstration>>),
    Conversations(Vec<Row<Conversation>>),
    Texts(Vec<Row<TextRow>>),
    Pairs(Vec<Row<Preference>>),
}

impl TrainingRows {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Demonstrations(rows) => rows.is_empty(),
            Self::Conversations(rows) => rows.is_empty(),
            Self::Texts(rows) => rows.is_empty(),
            Self::Pairs(rows) => rows.is_empty(),
        }
    }
}

/// Converts a data set to rows of a kind. Returns them with the rows that have no counterpart.
///
/// # Errors
/// If the data set does not have such rows.
pub(super) fn rows_of_kind(
    dataset: Dataset,
    row_kind: RowKind,
) -> anyhow::Result<(TrainingRows, SkippedRows)> {
    match row_kind {
        RowKind::Imitation => Ok(match dataset.sft_rows()? {
            (SftRows::Demonstrations(rows), unmatched) => (TrainingRows::Demonstrations(rows), unmatched),
            (SftRows::Conversations(rows), unmatched) => (TrainingRows::Conversations(rows), unmatched),
            (SftRows::Texts(rows), unmatched) => (TrainingRows::Texts(rows), unmatched),
        }),
        RowKind::Scores | RowKind::Preferences | RowKind::Costs => {
            let file = dataset.file.clone();
            let pairs = dataset.preferences()?;
            if row_kind == RowKind::Costs
                && let Some(row) = pairs.rows.iter().find(|row| row.value.is_unsafe.is_none())
            {
                let reason = "missing safety label: a cost model needs is_response_0_safe and is_response_1_safe, or \
                              is_chosen_safe and is_rejected_safe";
                let error = FieldError::new("is_response_0_safe", FieldErrorKind::Missing, reason);
                return Err(row_error(&file, row.line, error).into());
            }
            Ok((TrainingRows::Pairs(pairs.rows), pairs.skipped))
        }
    }
}

/// Tokenises rows and skips those above `max_length` tokens.
pub(super) struct RowTokenizer<'a> {
    pub(super) file: &'a str,
    pub(super) template: &'a PromptTemplate,
    pub(super) tokenizer: &'a TextTokenizer,
    pub(super) row_kind: RowKind,
    pub(super) max_length: u32,
    /// The turns that supervised fine-tuning learns; TRL's choice for the kind of rows if `None`.
    pub(super) learnt: Option<LearntTurns>,
}

impl RowTokenizer<'_> {
    pub(super) fn examples(&self, rows: &TrainingRows, unmatched: SkippedRows) -> anyhow::Result<Examples> {
        let mut too_long = SkippedRows::default();
        let data = match rows {
            TrainingRows::Demonstrations(rows) => TrainingData::Demonstrations(self.kept(
                rows,
                |row| self.demonstration(row),
                sequence_tokens,
                &mut too_long,
            )?),
            TrainingRows::Conversations(rows) => TrainingData::Demonstrations(self.kept(
                rows,
                |row| {
                    let learnt = self.learnt.unwrap_or(LearntTurns::All);
                    self.template.encode_conversation(self.tokenizer, row, learnt)
                },
                sequence_tokens,
                &mut too_long,
            )?),
            TrainingRows::Texts(rows) => TrainingData::Demonstrations(self.kept(
                rows,
                |row| self.text(row),
                sequence_tokens,
                &mut too_long,
            )?),
            TrainingRows::Pairs(rows) => {
                TrainingData::Pairs(self.kept(rows, |row| self.pair(row), pair_tokens, &mut too_long)?)
            }
        };
        if data.is_empty() {
            let reason = format!(
                "{}: all {} rows are above {} tokens: raise --max-length",
                self.file, too_long.rows, self.max_length
            );
            return Err(BadInput(reason).into());
        }
        Ok(Examples { data, skipped: Skipped { too_long, unmatched } })
    }

    fn demonstration(&self, row: &Demonstration) -> Result<TrainingSequence, ModelError> {
        match self.learnt {
            None | Some(LearntTurns::Last) => self.template.encode_demonstration(self.tokenizer, row),
            Some(learnt) => self.template.encode_conversation(self.tokenizer, &row.into(), learnt),
        }
    }

    fn text(&self, row: &TextRow) -> Result<TrainingSequence, ModelError> {
        match self.learnt {
            None | Some(LearntTurns::All) => encode_text(self.tokenizer, &row.text),
            Some(LearntTurns::Assistant | LearntTurns::Last) => {
                Err(ModelError::invalid(InvalidKind::Data, "a text has no turns: leave --loss-on out"))
            }
        }
    }

    fn pair(&self, row: &Preference) -> Result<TokenPair, ModelError> {
        match self.row_kind {
            RowKind::Preferences => self.template.encode_preference(self.tokenizer, row),
            RowKind::Imitation | RowKind::Scores | RowKind::Costs => {
                self.template.encode_comparison(self.tokenizer, row)
            }
        }
    }

    fn kept<T, U>(
        &self,
        rows: &[Row<T>],
        encode: impl Fn(&T) -> Result<U, ModelError>,
        tokens: impl Fn(&U) -> usize,
        too_long: &mut SkippedRows,
    ) -> anyhow::Result<Vec<U>> {
        let mut kept = Vec::new();
        for row in rows {
            let encoded = encode(&row.value).with_context(|| format!("{}:{}", self.file, row.line))?;
            if tokens(&encoded) as u64 > u64::from(self.max_length) {
                too_long.add(row.line);
            } else {
                kept.push(encoded);
            }
        }
        Ok(kept)
    }
}

fn sequence_tokens(sequence: &TrainingSequence) -> usize {
    sequence.ids.len()
}

/// Returns the token count of the longer completion: each completion of a pair is a separate sequence.
fn pair_tokens(pair: &TokenPair) -> usize {
    pair.chosen.ids.len().max(pair.rejected.ids.len())
}
