//! Rows that do not fit into the context of a model.

use std::io::Write as _;

use clap::ValueEnum;
use dissent_models::{InvalidKind, ModelError};

use crate::error::BadInput;

/// Largest number of prompts that a message names.
const NAMED_MAX: usize = 3;

/// The treatment of rows that do not fit into the context of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TooLong {
    /// End with an error before a model runs.
    Refuse,
    /// Leave the row out.
    Skip,
    /// Keep the row, with null for the values that are missing.
    Null,
}

/// The rows that do not fit, found before a model runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TooLongRows {
    named: Vec<String>,
    rows: usize,
}

impl TooLongRows {
    /// Sorts out the check of one part of a row. Returns whether the part fits.
    ///
    /// # Errors
    /// Any other failure of the check.
    pub(super) fn fits(checked: Result<(), ModelError>) -> Result<bool, ModelError> {
        match checked {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.invalid_kind(), Some(InvalidKind::TooLong { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Counts a row that does not fit.
    pub(super) fn add(&mut self, prompt_id: &str) {
        self.rows += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(prompt_id.to_owned());
        }
    }

    /// Returns an error if rows do not fit and must.
    ///
    /// # Errors
    /// [`BadInput`] with the number of rows, the first prompts and the way out.
    pub(super) fn check(&self, treatment: TooLong) -> Result<(), BadInput> {
        if self.rows == 0 || treatment != TooLong::Refuse {
            return Ok(());
        }
        Err(BadInput(format!(
            "{}: shorten them, or use --too-long skip or --too-long null",
            self.described()
        )))
    }

    /// Prints the number of rows that do not fit. A closed stderr does not stop the command.
    pub(super) fn report(&self, treatment: TooLong) {
        if self.rows > 0 {
            let done = if treatment == TooLong::Skip { "left out" } else { "written with null" };
            let _ = writeln!(std::io::stderr(), "{}: {done}", self.described());
        }
    }

    fn described(&self) -> String {
        let rows =
            if self.rows == 1 { "1 prompt is".to_owned() } else { format!("{} prompts are", self.rows) };
        let more = if self.rows > self.named.len() { ", …" } else { "" };
        format!("{rows} too long for the model's context ({}{more})", self.named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_and_the_first_are_named() {
        let mut rows = TooLongRows::default();
        assert!(rows.check(TooLong::Refuse).is_ok());
        for id in ["a", "b", "c", "d"] {
            rows.add(id);
        }
        assert!(rows.check(TooLong::Skip).is_ok());
        assert_eq!(
            rows.check(TooLong::Refuse).unwrap_err().to_string(),
            "4 prompts are too long for the model's context (a, b, c, …): shorten them, or use --too-long skip or \
             --too-long null"
        );
    }
}
