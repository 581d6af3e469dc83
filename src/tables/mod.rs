//! Whole tables of an experiment: rows of events, for data frames, spreadsheets and pages.
//!
//! [`ExperimentTables`] folds the events; a [`Query`] filters, sorts and pages; [`write()`] writes JSON
//! lines, CSV or Parquet. All three have the same rows in the same order.

mod columns;
mod fold;
mod query;
mod write;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use columns::{Column, Kind};
pub(crate) use fold::ExperimentTables;
pub(crate) use query::Query;
pub(crate) use write::{Format, write};

use crate::error::BadInput;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TableName {
    /// A row a prompt and round.
    Prompts,
    /// A row a completion.
    Completions,
    /// A row a measured completion: how far policy and proxy disagree.
    Conflicts,
    /// A row a pair that people are asked about, with its judgements together.
    Comparisons,
    /// A row a judgement.
    Judgements,
    /// A row an event of a training.
    Trainings,
    /// A row an evaluation.
    Evaluations,
}

impl TableName {
    /// Every table.
    pub(crate) const ALL: [Self; 7] = [
        Self::Prompts,
        Self::Completions,
        Self::Conflicts,
        Self::Comparisons,
        Self::Judgements,
        Self::Trainings,
        Self::Evaluations,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prompts => "prompts",
            Self::Completions => "completions",
            Self::Conflicts => "conflicts",
            Self::Comparisons => "comparisons",
            Self::Judgements => "judgements",
            Self::Trainings => "trainings",
            Self::Evaluations => "evaluations",
        }
    }

    /// Its columns, in order.
    pub(crate) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Prompts => columns::PROMPTS,
            Self::Completions => columns::COMPLETIONS,
            Self::Conflicts => columns::CONFLICTS,
            Self::Comparisons => columns::COMPARISONS,
            Self::Judgements => columns::JUDGEMENTS,
            Self::Trainings => columns::TRAININGS,
            Self::Evaluations => columns::EVALUATIONS,
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TableName {
    type Err = BadInput;

    fn from_str(name: &str) -> Result<Self, BadInput> {
        // `dissent log export` calls the comparisons pairs.
        let name = if name == "pairs" { "comparisons" } else { name };
        Self::ALL.into_iter().find(|table| table.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            BadInput(format!("unknown table {name:?}: use one of {known}"))
        })
    }
}

/// A value of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Cell {
    /// It does not apply, or is not known yet.
    Null,
    Bool(bool),
    Int(i64),
    Number(f64),
    Text(Arc<str>),
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        // Parquet and CSV could hold others, JSON cannot.
        if value.is_finite() { Self::Number(value) } else { Self::Null }
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<&Arc<str>> for Cell {
    fn from(value: &Arc<str>) -> Self {
        Self::Text(value.clone())
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row: its place in the table, and its values in the order of the columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Rows keep their places while others are added.
    pub(crate) place: usize,
    pub(crate) cells: Vec<Cell>,
}

#[cfg(test)]
mod tests;
