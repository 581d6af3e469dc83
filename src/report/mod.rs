//! The report of an experiment as HTML, Markdown or JSON, and its summary for a terminal.
//!
//! [`ReportData`] folds the recorded events of one round; all formats are views of it. The JSON form
//! ([`json`], [`SCHEMA`]) has the fields of the struct. It holds the figures of every prompt and completion,
//! but only the texts of the most conflicting ones.

mod build;
pub(crate) mod charts;
mod data;
mod drift;
mod fold;
mod html;
mod learning;
pub(crate) mod lift;
mod markdown;
mod outcomes;
pub(crate) mod page;
mod prompt_figures;
mod summary;
mod tendencies;
mod topics;
mod wording;

use std::path::Path;

pub use data::*;
pub use html::html;
pub use learning::{Change, Curve, FeedbackFigures, Figure, LearningFigures, Measured, TrainingFigures};
pub use lift::LiftFigures;
pub use markdown::markdown;
pub use outcomes::{ChosenBy, OutcomeFigures};
pub use summary::{summary, summary_json};
pub use tendencies::{Property, Tendency};
pub use topics::{TopicFigures, TopicRow};

use crate::{files, text};

/// Returns the report as JSON on one line, with control characters escaped.
///
/// # Errors
/// If a number has no JSON form. Recorded numbers always have one.
pub fn json(data: &ReportData) -> anyhow::Result<String> {
    Ok(text::ascii_controls(serde_json::to_string(data)?) + "\n")
}

/// Writes the report as an HTML page into a data folder, atomically. Creates the folder of the file if it is
/// missing.
///
/// # Errors
/// If the folder or the file cannot be written.
pub fn write_html(data: &ReportData, path: &Path) -> anyhow::Result<()> {
    files::write_in_data_folder(html(data)?, path)
}
