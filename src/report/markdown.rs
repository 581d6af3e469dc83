//! The report as Markdown, for issues, chats and version control.

use minijinja::value::{Serde, Value};

use super::charts::Charts;
use super::data::ReportData;
use super::page::{Page, markdown_environment};
use crate::text;

const TEMPLATE: &str = include_str!("template.md");

/// Returns the report as CommonMark with tables.
///
/// # Errors
/// If the template fails, which is a bug.
pub fn markdown(data: &ReportData) -> anyhow::Result<String> {
    let mut environment = markdown_environment()?;
    environment.add_filter("quote", |text: &str| Value::from_safe_string(text::markdown_quote(text)));
    environment.add_template("report", TEMPLATE)?;
    let charts = Charts::default();
    let text = environment.get_template("report")?.render(Serde(Page::new(data, &charts)))?;
    // The macros leave empty lines before the text.
    Ok(text.trim_start().to_owned())
}
