//! What a study found, for people (HTML, Markdown) and for machines (JSON).

mod charts;
mod line;

use std::path::Path;

use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::arms::ArmsResult;
use super::labelled::LabelledResult;
use super::prediction::Predictions;
use super::verdict;
use crate::report::charts::Chart;
use crate::report::page;
use crate::text;
use charts::{LineChart, Row, Scale};
pub(super) use line::Line;

/// The version of the JSON form: a field may be added under the same name, nothing else changes.
pub const SCHEMA: &str = "dissent.study/1";

const HTML: &str = include_str!("template.html");
const MARKDOWN: &str = include_str!("template.md");

/// A whole study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The study's name.
    pub study: String,
    /// Its seed.
    pub seed: u64,
    /// What it says, the answer to its question first.
    pub verdict: Vec<String>,
    /// What was done, in sentences.
    pub method: Vec<String>,
    /// The result on given answers.
    pub labelled: Option<LabelledResult>,
    /// The result of experiments.
    pub arms: Option<ArmsResult>,
    /// The configuration, as it was given.
    pub configuration: String,
}

/// What the templates see.
#[derive(Serialize)]
struct Page<'a> {
    report: &'a StudyReport,
    predictions: Option<&'a Predictions>,
    auroc: Option<Chart>,
    recall: Option<Chart>,
    gold: Option<Chart>,
    errors: Option<Chart>,
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
        Ok(Self { report, predictions, auroc, recall, gold, errors })
    }
}

fn auroc_chart(predictions: &Predictions) -> anyhow::Result<Option<Chart>> {
    let row = |prediction: &super::prediction::Prediction| Row {
        name: prediction.rule.clone(),
        plain: prediction.auroc,
        held: prediction.auroc_at_equal_margin,
    };
    let rows: Vec<Row> = predictions.rules.iter().map(row).collect();
    charts::forest("How well each rule predicts the proxy's errors", "AUROC", 0.5, &rows)
}

/// Lines drawn at most: more cannot be told apart.
const LINES_MAX: usize = 7;

fn recall_chart(predictions: &Predictions) -> anyhow::Result<Option<Chart>> {
    let line = |prediction: &super::prediction::Prediction| Line {
        name: prediction.rule.clone(),
        points: prediction.at.iter().filter_map(|at| Some((at.share, at.recall?))).collect(),
    };
    let lines: Vec<Line> = predictions.rules.iter().take(LINES_MAX).map(line).collect();
    charts::lines(&LineChart {
        title: "Errors found by budget",
        x: "pairs looked at",
        y: "errors found",
        scales: [Scale::Share; 2],
        lines: &lines,
    })
}

fn gold_chart(arms: &ArmsResult) -> anyhow::Result<Option<Chart>> {
    let lines = arms.lines(|point| point.gold);
    let chart = LineChart {
        title: "Gold reward of the tuned policy by labels",
        x: "labels",
        y: "gold reward on held-out prompts",
        scales: [Scale::Count, Scale::Plain],
        lines: &lines,
    };
    charts::lines(&chart)
}

fn error_chart(arms: &ArmsResult) -> anyhow::Result<Option<Chart>> {
    let lines = arms.lines(|point| point.proxy_error);
    let chart = LineChart {
        title: "Errors of the refined proxy by labels",
        x: "labels",
        y: "held-out pairs ordered wrongly",
        scales: [Scale::Count, Scale::Share],
        lines: &lines,
    };
    charts::lines(&chart)
}

/// The report as JSON on one line, without characters that could act on a terminal.
///
/// # Errors
/// If a number cannot be represented.
pub fn json(report: &StudyReport) -> anyhow::Result<String> {
    Ok(text::ascii_controls(serde_json::to_string(report)?) + "\n")
}

/// The report as one HTML file that needs nothing else, and runs nothing.
///
/// # Errors
/// If the template or a chart fails, which is a fault of the program.
pub fn html(report: &StudyReport) -> anyhow::Result<String> {
    let mut environment = with_filters(page::html_environment()?);
    environment.add_template("study", HTML)?;
    let page = environment.get_template("study")?.render(Serde(Page::new(report)?))?;
    Ok(page.trim_start().to_owned())
}

/// The report as CommonMark with tables.
///
/// # Errors
/// If the template fails, which is a fault of the program.
pub fn markdown(report: &StudyReport) -> anyhow::Result<String> {
    let mut environment = with_filters(page::markdown_environment()?);
    environment.add_template("study", MARKDOWN)?;
    let page = environment.get_template("study")?.render(Serde(Page::new(report)?))?;
    Ok(page.trim_start().to_owned())
}

/// With what only a study writes.
fn with_filters(mut environment: Environment<'static>) -> Environment<'static> {
    environment.add_filter("code", |text: &str| Value::from_safe_string(fenced(text)));
    environment.add_filter("interval", |value: Value, digits: usize| written(value, digits));
    environment.add_filter("ends", |value: Value, digits: usize| ends(value, digits));
    environment.add_filter("mean", |value: Value, digits: usize| mean(value, digits));
    environment.add_filter("amount", amount);
    environment
}

/// A block of code: indented, so that no fence in the text can end it.
fn fenced(text: &str) -> String {
    text::visible(text).lines().map(|line| format!("    {line}\n")).collect()
}

/// A figure with its interval; a dash where there is none.
fn written(value: Value, digits: usize) -> Result<String, minijinja::Error> {
    let ends = ends(value.clone(), digits)?;
    let mean = mean(value, digits)?;
    Ok(if ends.is_empty() { mean } else { format!("{mean} ({ends})") })
}

/// A figure; a dash where there is none.
fn mean(value: Value, digits: usize) -> Result<String, minijinja::Error> {
    if value.is_none() { Ok("–".to_owned()) } else { member(&value, "mean", digits) }
}

/// The interval of a figure; nothing where there is none.
fn ends(value: Value, digits: usize) -> Result<String, minijinja::Error> {
    if value.is_none() {
        return Ok(String::new());
    }
    Ok(format!("{} to {}", member(&value, "low", digits)?, member(&value, "high", digits)?))
}

/// With a minus that cannot be taken for a hyphen, and none before a zero.
fn member(value: &Value, name: &str, digits: usize) -> Result<String, minijinja::Error> {
    let text = format!("{:.digits$}", value.get_attr(name).and_then(f64::try_from)?);
    let is_zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    Ok(if is_zero { text.replace('-', "") } else { text.replace('-', "−") })
}

/// A mean of counts: with a digit behind the point where it is no whole number.
fn amount(count: f64) -> String {
    let text = format!("{count:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Writes all three forms into a folder, each whole or not at all; the path of the page.
///
/// # Errors
/// If a form cannot be made or written.
pub fn write(report: &StudyReport, folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let path = |extension: &str| folder.join(format!("{}.{extension}", report.study));
    crate::files::write(&json(report)?, &path("json"))?;
    crate::files::write(&markdown(report)?, &path("md"))?;
    let page = path("html");
    crate::files::write(&html(report)?, &page)?;
    Ok(page)
}

/// The answer in a few lines, for a terminal.
#[must_use]
pub fn summary(report: &StudyReport) -> String {
    report.verdict.join("\n")
}

/// What a study says.
#[must_use]
pub fn verdict_of(labelled: Option<&LabelledResult>, arms: Option<&ArmsResult>) -> Vec<String> {
    let mut sentences = arms.map(ArmsResult::verdict).unwrap_or_default();
    let predictions =
        labelled.map(|labelled| &labelled.predictions).or(arms.and_then(|arms| arms.predictions.as_ref()));
    sentences.extend(predictions.map(verdict::of_predictions).unwrap_or_default());
    sentences
}
