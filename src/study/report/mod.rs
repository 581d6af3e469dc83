//! The report of a study as HTML, Markdown and JSON.

mod charts;
pub(super) mod line;

use std::path::Path;

use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::arms::ArmsResult;
use super::labelled::LabelledResult;
use super::opponents::OpponentTable;
use super::prediction::Predictions;
use super::verdict;
use crate::report::charts::{Chart, Scale};
use crate::report::page;
use crate::text;
use charts::{LineChart, Lines, Row};
use line::Line;

/// The version of the JSON form. Under the same version, fields are added but never changed.
pub const SCHEMA: &str = "dissent.study/1";

const HTML: &str = include_str!("template.html");
const MARKDOWN: &str = include_str!("template.md");

/// The result of a study with its method and configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The name of the study.
    pub study: String,
    /// The seed of the study.
    pub seed: u64,
    /// The conclusions in sentences, the most important one first.
    pub verdict: Vec<String>,
    /// The method in sentences.
    pub method: Vec<String>,
    /// The result on labelled completions.
    pub labelled: Option<LabelledResult>,
    /// The result of experiments.
    pub arms: Option<ArmsResult>,
    /// The text of the configuration file.
    pub configuration: String,
}

/// The data of the templates.
#[derive(Serialize)]
struct Page<'a> {
    report: &'a StudyReport,
    predictions: Option<&'a Predictions>,
    opponents: Option<&'a OpponentTable>,
    auroc: Option<Chart>,
    recall: Option<Lines>,
    gold: Option<Lines>,
    errors: Option<Lines>,
}

impl<'a> Page<'a> {
    fn new(report: &'a StudyReport) -> anyhow::Result<Self> {
        let labelled = report.labelled.as_ref().map(|labelled| &labelled.predictions);
        let predictions = labelled.or(report.arms.as_ref().and_then(|arms| arms.predictions.as_ref()));
        let (auroc, recall) = match predictions {
            Some(predictions) => (auroc_chart(predictions)?, recall_chart(predictions)?),
            None => (None, None),
        };
        let (gold, errors) = match &report.arms {
            Some(arms) => (gold_chart(arms)?, error_chart(arms)?),
            None => (None, None),
        };
        let opponents = opponents_of(report.labelled.as_ref(), report.arms.as_ref());
        Ok(Self { report, predictions, opponents, auroc, recall, gold, errors })
    }
}

/// Returns the comparison of opponents of either kind of study.
fn opponents_of<'a>(
    labelled: Option<&'a LabelledResult>,
    arms: Option<&'a ArmsResult>,
) -> Option<&'a OpponentTable> {
    labelled.map_or(arms.and_then(|arms| arms.opponents.as_ref()), |labelled| labelled.opponents.as_ref())
}

fn auroc_chart(predictions: &Predictions) -> anyhow::Result<Option<Chart>> {
    let row = |prediction: &super::prediction::Prediction| Row {
        name: prediction.rule.clone(),
        all: prediction.auroc,
        at_equal_margin: prediction.auroc_at_equal_margin,
    };
    let rows: Vec<Row> = predictions.rules.iter().map(row).collect();
    charts::forest("How well each rule predicts the proxy's errors", "AUROC", 0.5, &rows)
}

/// Limit of the lines of a chart: more are hard to distinguish.
const LINES_MAX: usize = 7;

fn recall_chart(predictions: &Predictions) -> anyhow::Result<Option<Lines>> {
    let line = |prediction: &super::prediction::Prediction| Line {
        name: prediction.rule.clone(),
        points: prediction.at.iter().filter_map(|at| Some((at.share, at.recall?))).collect(),
    };
    let lines: Vec<Line> = predictions.rules.iter().take(LINES_MAX).map(line).collect();
    charts::lines(&LineChart {
        title: "Errors found by budget",
        x: "checked pairs",
        y: "found errors",
        scales: [Scale::Share; 2],
        lines: &lines,
    })
}

fn gold_chart(arms: &ArmsResult) -> anyhow::Result<Option<Lines>> {
    let lines = arms.lines(|point| point.gold);
    let chart = LineChart {
        title: "Gold reward of the tuned policy by number of judgements",
        x: "judgements",
        y: "held-out gold reward",
        scales: [Scale::Count, Scale::Linear],
        lines: &lines,
    };
    charts::lines(&chart)
}

fn error_chart(arms: &ArmsResult) -> anyhow::Result<Option<Lines>> {
    let lines = arms.lines(|point| point.proxy_error);
    let chart = LineChart {
        title: "Errors of the refined proxy by number of judgements",
        x: "judgements",
        y: "wrong held-out pairs",
        scales: [Scale::Count, Scale::Share],
        lines: &lines,
    };
    charts::lines(&chart)
}

/// Returns the report as JSON on one line, with control characters escaped.
///
/// # Errors
/// If a number has no JSON form.
pub fn json(report: &StudyReport) -> anyhow::Result<String> {
    Ok(text::ascii_controls(serde_json::to_string(report)?) + "\n")
}

/// Returns the report as one self-contained HTML file without scripts.
///
/// # Errors
/// If the template or a chart fails, which is a bug.
pub fn html(report: &StudyReport) -> anyhow::Result<String> {
    let mut environment = with_filters(page::html_environment()?);
    environment.add_template("study", HTML)?;
    let page = environment.get_template("study")?.render(Serde(Page::new(report)?))?;
    Ok(page.trim_start().to_owned())
}

/// Returns the report as CommonMark with tables.
///
/// # Errors
/// If the template fails, which is a bug.
pub fn markdown(report: &StudyReport) -> anyhow::Result<String> {
    let mut environment = with_filters(page::markdown_environment()?);
    environment.add_template("study", MARKDOWN)?;
    let page = environment.get_template("study")?.render(Serde(Page::new(report)?))?;
    Ok(page.trim_start().to_owned())
}

/// Adds the filters that only the report of a study uses.
fn with_filters(mut environment: Environment<'static>) -> Environment<'static> {
    environment.add_filter("code", |text: &str| Value::from_safe_string(fenced(text)));
    environment.add_filter("interval", |value: Value, digits: usize| mean_and_ends(value, digits));
    environment.add_filter("ends", |value: Value, digits: usize| ends(value, digits));
    environment.add_filter("mean", |value: Value, digits: usize| mean(value, digits));
    environment.add_filter("amount", amount);
    environment.add_filter("percent", percent);
    environment
}

/// Returns an indented code block, which no fence in the text can end.
fn fenced(text: &str) -> String {
    text::visible(text).lines().map(|line| format!("    {line}\n")).collect()
}

/// Formats a figure with its interval; a dash if it is undefined.
fn mean_and_ends(value: Value, digits: usize) -> Result<String, minijinja::Error> {
    let ends = ends(value.clone(), digits)?;
    let mean = mean(value, digits)?;
    Ok(if ends.is_empty() { mean } else { format!("{mean} ({ends})") })
}

/// Formats a figure; a dash if it is undefined.
fn mean(value: Value, digits: usize) -> Result<String, minijinja::Error> {
    if value.is_none() { Ok("–".to_owned()) } else { member(&value, "mean", digits) }
}

/// Formats the interval of a figure; empty if it is undefined.
fn ends(value: Value, digits: usize) -> Result<String, minijinja::Error> {
    if value.is_none() {
        return Ok(String::new());
    }
    Ok(format!("{} to {}", member(&value, "low", digits)?, member(&value, "high", digits)?))
}

/// Formats a field of an interval, with a true minus sign and without a negative zero.
fn member(value: &Value, name: &str, digits: usize) -> Result<String, minijinja::Error> {
    let text = format!("{:.digits$}", value.get_attr(name).and_then(f64::try_from)?);
    let is_zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    Ok(if is_zero { text.replace('-', "") } else { text.replace('-', "−") })
}

/// Formats a share in per cent; a dash if it is undefined.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

/// Formats a mean of counts with one decimal, or without decimals if it is an integer.
fn amount(count: f64) -> String {
    let text = format!("{count:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Writes all three formats into a folder, each atomically. Returns the path of the HTML page.
///
/// # Errors
/// If a format cannot be made or written.
pub fn write(report: &StudyReport, folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let path = |extension: &str| folder.join(format!("{}.{extension}", report.study));
    crate::files::write(&json(report)?, &path("json"))?;
    crate::files::write(&markdown(report)?, &path("md"))?;
    let page = path("html");
    crate::files::write(&html(report)?, &page)?;
    Ok(page)
}

/// Returns the verdict, for a terminal.
#[must_use]
pub fn summary(report: &StudyReport) -> String {
    report.verdict.join("\n")
}

/// Returns the conclusions of a study in sentences.
#[must_use]
pub fn verdict_of(labelled: Option<&LabelledResult>, arms: Option<&ArmsResult>) -> Vec<String> {
    let mut sentences = arms.map(ArmsResult::verdict).unwrap_or_default();
    let predictions =
        labelled.map(|labelled| &labelled.predictions).or(arms.and_then(|arms| arms.predictions.as_ref()));
    sentences.extend(predictions.map(verdict::of_predictions).unwrap_or_default());
    sentences.extend(opponents_of(labelled, arms).and_then(verdict::of_opponents));
    sentences
}
