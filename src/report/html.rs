//! The report as one HTML file that needs nothing else, and runs nothing.

use minijinja::value::Serde;
use minijinja::{AutoEscape, HtmlEscape, escape_formatter};

use super::charts::charts;
use super::data::ReportData;
use super::page::{Page, environment};
use super::text::visible;

const TEMPLATE: &str = include_str!("template.html");

/// The report as a page.
///
/// # Errors
/// If the template or a chart fails, which is a fault of the program.
pub fn html(data: &ReportData) -> anyhow::Result<String> {
    let charts = charts(data)?;
    let mut environment = environment()?;
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    // Every text is untrusted unless the template says otherwise.
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) if !value.is_safe() => {
            write!(out, "{}", HtmlEscape(&visible(text)))?;
            Ok(())
        }
        _ => escape_formatter(out, state, value),
    });
    environment.add_template("report", TEMPLATE)?;
    let page = environment.get_template("report")?.render(Serde(Page::new(data, &charts)))?;
    // The lines of the macros before the document.
    Ok(page.trim_start().to_owned())
}
