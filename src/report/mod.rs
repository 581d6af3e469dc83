//! What an experiment found, for people: as HTML, Markdown or JSON, and in a few lines for a terminal.
//!
//! [`ReportData`] folds the recorded events of one round; everything else is a view of it. Its JSON form
//! ([`json`], [`SCHEMA`]) is the struct field by field: numbers of every prompt and answer, texts of the most
//! conflicting ones only.

mod build;
pub(crate) mod charts;
mod data;
mod fold;
mod html;
mod learning;
mod markdown;
pub(crate) mod page;
mod summary;
mod words;

use std::path::Path;

pub use data::*;
pub use html::html;
pub use learning::{Change, Curve, FeedbackFigures, Figure, LearningFigures, Measured, TrainingFigures};
pub use markdown::markdown;
pub use summary::{summary, summary_json};

use crate::{files, text};

/// The report as JSON on one line, without characters that could act on a terminal.
///
/// # Errors
/// If a number cannot be represented; none that was recorded can fail to be.
pub fn json(data: &ReportData) -> anyhow::Result<String> {
    Ok(text::ascii_controls(serde_json::to_string(data)?) + "\n")
}

/// Writes the report as a page, whole or not at all, making the folder if there is none.
///
/// # Errors
/// If the folder or the file cannot be written.
pub fn write_html(data: &ReportData, path: &Path) -> anyhow::Result<()> {
    files::write(html(data)?, path)
}
