//! The report as one self-contained HTML file without scripts.

use minijinja::value::Serde;

use super::charts::charts;
use super::data::ReportData;
use super::page::{Page, html_environment};

const TEMPLATE: &str = include_str!("template.html");

/// Returns the report as an HTML page.
///
/// # Errors
/// If the template or a chart fails, which is a bug.
pub fn html(data: &ReportData) -> anyhow::Result<String> {
    let charts = charts(data)?;
    let mut environment = html_environment()?;
    environment.add_template("report", TEMPLATE)?;
    let page = environment.get_template("report")?.render(Serde(Page::new(data, &charts)))?;
    // The macros leave empty lines before the document.
    Ok(page.trim_start().to_owned())
}
