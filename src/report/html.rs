//! The report as one HTML file that needs nothing else, and runs nothing.

use minijinja::value::Serde;

use super::charts::charts;
use super::data::ReportData;
use super::page::{Page, html_environment};

const TEMPLATE: &str = include_str!("template.html");

/// The report as a page.
///
/// # Errors
/// If the template or a chart fails, which is a fault of the program.
pub fn html(data: &ReportData) -> anyhow::Result<String> {
    let charts = charts(data)?;
    let mut environment = html_environment()?;
    environment.add_template("report", TEMPLATE)?;
    let page = environment.get_template("report")?.render(Serde(Page::new(data, &charts)))?;
    // The lines of the macros before the document.
    Ok(page.trim_start().to_owned())
}
