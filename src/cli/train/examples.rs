//! From the rows of a file to the tokens of a training, with a count of what was left out and why.

use anyhow::Context as _;
use dissent_domain::training::{Demonstration, Preference};
use dissent_models::ModelError;
use dissent_models::checkpoint::TextTokenizer;
use dissent_models::template::{PromptTemplate, encode_text};
use dissent_models::training::{TokenPair, TrainingData, TrainingSequence};
use serde_json::{Value, json};

use crate::dataset::{Dataset, Row, SftRows, SkippedRows, TextRow, row_error};
use crate::error::BadInput;

/// What a training wants of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    /// Answers to imitate.
    Imitation,
    /// Pairs of whole texts, to be scored.
    Scores,
    /// As [`RowKind::Scores`], and whether each answer is unsafe.
    Costs,
    /// Pairs of answers whose log-probabilities are compared.
    Preferences,
}

/// The examples of a file, tokenised.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Examples {
    pub(super) data: TrainingData,
    pub(super) left: LeftOut,
}

/// Rows that are not learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LeftOut {
    /// Longer than the longest example.
    pub(super) too_long: SkippedRows,
    /// Unpaired rows without a counterpart, or not to be imitated.
    pub(super) unmatched: SkippedRows,
}

impl LeftOut {
    /// For `training.json`.
    pub(super) fn counts(&self) -> Value {
        json!({"too_long": self.too_long.rows, "unmatched": self.unmatched.rows})
    }

    /// What a person should know of it, if anything.
    pub(super) fn say(&self, max_length: u32) -> Vec<String> {
        let mut said = Vec::new();
        if self.too_long.rows > 0 {
            said.push(format!(
                "left out {} longer than {max_length} tokens, the first in line {} (--max-length, or the model's context)",
                rows(self.too_long.rows),
                self.too_long.first_line
            ));
        }
        if self.unmatched.rows > 0 {
            said.push(format!(
                "left out {} that nothing is learnt from (no answer of the other kind to the same prompt, or a bad one \
                 where answers are imitated), the first in line {}",
                rows(self.unmatched.rows),
                self.unmatched.first_line
            ));
        }
        said
    }
}

fn rows(count: usize) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// Rows of the one kind that a training wants, before any tokenizer has seen them.
pub(super) enum TrainingRows {
    Demonstrations(Vec<Row<Demonstration>>),
    Texts(Vec<Row<TextRow>>),
    Pairs(Vec<Row<Preference>>),
}

impl TrainingRows {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Demonstrations(rows) => rows.is_empty(),
            Self::Texts(rows) => rows.is_empty(),
            Self::Pairs(rows) => rows.is_empty(),
        }
    }
}

/// Takes what is wanted from a data set.
pub(super) fn wanted(dataset: Dataset, wanted: RowKind) -> anyhow::Result<(TrainingRows, SkippedRows)> {
    match wanted {
        RowKind::Imitation => Ok(match dataset.sft_rows()? {
            (SftRows::Demonstrations(rows), left) => (TrainingRows::Demonstrations(rows), left),
            (SftRows::Texts(rows), left) => (TrainingRows::Texts(rows), left),
        }),
        RowKind::Scores | RowKind::Preferences | RowKind::Costs => {
            let file = dataset.file.clone();
            let pairs = dataset.preferences()?;
            if wanted == RowKind::Costs
                && let Some(row) = pairs.rows.iter().find(|row| row.value.is_unsafe.is_none())
            {
                let reason = "missing: a cost model learns which answers are unsafe from is_response_0_safe and \
                              is_response_1_safe, or is_chosen_safe and is_rejected_safe";
                return Err(row_error(&file, row.line, "is_response_0_safe", reason).into());
            }
            Ok((TrainingRows::Pairs(pairs.rows), pairs.skipped))
        }
    }
}

/// Tokenises rows, without those that are longer than `max_length`.
pub(super) struct RowTokenizer<'a> {
    pub(super) file: &'a str,
    pub(super) template: &'a PromptTemplate,
    pub(super) tokenizer: &'a TextTokenizer,
    pub(super) wanted: RowKind,
    pub(super) max_length: u32,
}

impl RowTokenizer<'_> {
    pub(super) fn examples(&self, rows: &TrainingRows, unmatched: SkippedRows) -> anyhow::Result<Examples> {
        let mut too_long = SkippedRows::default();
        let data = match rows {
            TrainingRows::Demonstrations(rows) => TrainingData::Demonstrations(self.kept(
                rows,
                |row| self.template.encode_demonstration(self.tokenizer, row),
                sequence_tokens,
                &mut too_long,
            )?),
            TrainingRows::Texts(rows) => TrainingData::Demonstrations(self.kept(
                rows,
                |row| encode_text(self.tokenizer, &row.text),
                sequence_tokens,
                &mut too_long,
            )?),
            TrainingRows::Pairs(rows) => {
                TrainingData::Pairs(self.kept(rows, |row| self.pair(row), pair_tokens, &mut too_long)?)
            }
        };
        if data.is_empty() {
            let reason = format!(
                "{}: not one of the {} rows is at most {} tokens long: raise --max-length",
                self.file, too_long.rows, self.max_length
            );
            return Err(BadInput(reason).into());
        }
        Ok(Examples { data, left: LeftOut { too_long, unmatched } })
    }

    fn pair(&self, row: &Preference) -> Result<TokenPair, ModelError> {
        match self.wanted {
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

/// Each answer of a pair is a sequence of its own.
fn pair_tokens(pair: &TokenPair) -> usize {
    pair.chosen.ids.len().max(pair.rejected.ids.len())
}
