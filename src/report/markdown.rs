//! The report as Markdown, for issues, chats and version control.

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, escape_formatter};

use super::charts::Charts;
use super::data::ReportData;
use super::page::{Page, environment};
use super::text;

const TEMPLATE: &str = include_str!("template.md");

/// The report as CommonMark with tables.
///
/// # Errors
/// If the template fails, which is a fault of the program.
pub fn markdown(data: &ReportData) -> anyhow::Result<String> {
    let mut environment = environment()?;
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("markdown".into()));
    // Every text is untrusted unless the template says otherwise.
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(untrusted) if !value.is_safe() => Ok(out.write_str(&text::markdown(untrusted))?),
        Some(trusted) => Ok(out.write_str(trusted)?),
        None if value.is_number() => Ok(write!(out, "{value}")?),
        None => escape_formatter(out, state, value),
    });
    environment.add_filter("quote", |text: &str| Value::from_safe_string(text::markdown_quote(text)));
    environment.add_template("report", TEMPLATE)?;
    let charts = Charts::default();
    let text = environment.get_template("report")?.render(Serde(Page::new(data, &charts)))?;
    // The lines of the macros before the text.
    Ok(text.trim_start().to_owned())
}
