//! The table of runs as text, Markdown, CSV, HTML and JSON.

use minijinja::context;
use minijinja::value::Serde;

use super::figures::{Difference, Figure};
use super::{ComparedRun, RunComparison};
use crate::progress::clock;
use crate::report::page;
use crate::text::{signed, visible};

const HTML: &str = include_str!("template.html");

/// A column for people: its heading and its cell.
type Column = (&'static str, fn(&ComparedRun) -> String);

const COLUMNS: [Column; 14] = [
    ("run", |run| run.figures.experiment.clone()),
    ("state", |run| run.figures.state.words().to_owned()),
    ("seed", |run| run.figures.seed.to_string()),
    ("rule", |run| match run.figures.budget {
        Some(budget) => format!("{} {budget}", run.figures.rule),
        None => run.figures.rule.clone(),
    }),
    ("rounds", |run| run.figures.rounds.to_string()),
    ("|PACS|", |run| number(run.figures.mean_abs_pacs, 2)),
    ("tau", |run| run.figures.kendall_tau.map_or_else(missing, |tau| signed(tau, 2))),
    ("judgements", |run| run.figures.judgements.to_string()),
    ("proxy wrong", |run| match run.figures.preferences {
        0 => missing(),
        all => format!("{} of {all}", run.figures.contradicted),
    }),
    ("gold before", |run| figure(run.figures.gold_before)),
    ("gold after", |run| figure(run.figures.gold_after)),
    ("gold gain", |run| difference(run.figures.gold_gain)),
    ("gold, to the first run", |run| difference(run.gold_difference)),
    ("time", |run| clock(run.figures.seconds)),
];

/// What the errors of the table mean.
const NOTE: &str = "± is the standard error over held-out prompts. A difference with an interval, [low, high] at 95 %, is \
                    paired by prompt. One with ± is not: its error takes both means as independent.";

fn missing() -> String {
    "–".to_owned()
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(missing, |value| format!("{value:.digits$}"))
}

fn figure(value: Option<Figure>) -> String {
    value.map_or_else(missing, |Figure { mean, error }| format!("{} ± {error:.3}", signed(mean, 3)))
}

fn difference(value: Option<Difference>) -> String {
    value.map_or_else(missing, |Difference { mean, error, interval, .. }| match interval {
        Some([low, high]) => format!("{} [{}, {}]", signed(mean, 3), signed(low, 3), signed(high, 3)),
        None => format!("{} ± {error:.3}", signed(mean, 3)),
    })
}

fn cells(comparison: &RunComparison) -> Vec<Vec<String>> {
    let row = |run: &ComparedRun| COLUMNS.iter().map(|(_, cell)| visible(&cell(run))).collect();
    comparison.runs.iter().map(row).collect()
}

/// Returns the table for a terminal.
pub(crate) fn text(comparison: &RunComparison) -> String {
    let rows = cells(comparison);
    // A column that no run has a value for is left out.
    let shown: Vec<usize> =
        (0..COLUMNS.len()).filter(|&index| rows.iter().any(|row| row[index] != missing())).collect();
    let width = |index: usize| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.chain([COLUMNS[index].0.chars().count()]).max().unwrap_or(0)
    };
    let mut out = String::new();
    let mut line = |cell: &dyn Fn(usize) -> String| {
        let cells = shown.iter().map(|&index| {
            let (cell, width) = (cell(index), width(index));
            // Names and words to the left, numbers to the right.
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if matches!(index, 0 | 1 | 3) { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    };
    line(&|index| COLUMNS[index].0.to_owned());
    rows.iter().for_each(|row| line(&|index| row[index].clone()));
    out.push_str(NOTE);
    out.push('\n');
    out
}

/// Returns the table as Markdown.
pub(crate) fn markdown(comparison: &RunComparison) -> String {
    let escaped = |cell: &str| crate::text::markdown(cell).replace('|', "\\|");
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(COLUMNS.iter().map(|(heading, _)| heading.replace('|', "\\|")).collect());
    out.push_str(&line(COLUMNS.iter().map(|_| "---".to_owned()).collect()));
    for row in cells(comparison) {
        out.push_str(&line(row.iter().map(|cell| escaped(cell)).collect()));
    }
    out.push('\n');
    out.push_str(NOTE);
    out.push('\n');
    out
}

/// Returns the table as one HTML page.
///
/// # Errors
/// If the template fails, which is a bug.
pub(crate) fn html(comparison: &RunComparison) -> anyhow::Result<String> {
    let mut environment = page::html_environment()?;
    environment.add_template("compare", HTML)?;
    let headings: Vec<&str> = COLUMNS.iter().map(|(heading, _)| *heading).collect();
    let rows = cells(comparison);
    let page = context! { headings => Serde(headings), rows => Serde(rows), note => NOTE };
    Ok(environment.get_template("compare")?.render(page)?.trim_start().to_owned())
}

/// Returns every figure as JSON.
///
/// # Errors
/// Never: every figure is a number, a text or null.
pub(crate) fn json(comparison: &RunComparison) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(comparison)? + "\n")
}

/// Returns every figure as comma-separated values with a header, for data frames.
///
/// # Errors
/// If a run cannot be written, which is a bug.
pub(crate) fn csv(comparison: &RunComparison) -> anyhow::Result<String> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    for (index, run) in comparison.runs.iter().enumerate() {
        let mut columns = Vec::new();
        flatten("", &serde_json::to_value(run)?, &mut columns);
        let columns = with_all_figures(columns);
        if index == 0 {
            writer.write_record(columns.iter().map(|(name, _)| name))?;
        }
        writer.write_record(columns.iter().map(|(_, value)| value))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// The parts of a mean and of a difference.
const FIGURE: [&str; 2] = ["mean", "error"];
const DIFFERENCE: [&str; 6] = ["mean", "error", "low", "high", "paired", "prompts"];

fn flatten(name: &str, value: &serde_json::Value, columns: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name}_{member}") };
                flatten(&name, value, columns);
            }
        }
        serde_json::Value::Array(bounds) => {
            for (bound, value) in ["low", "high"].iter().zip(bounds) {
                let name = name.strip_suffix("_interval").unwrap_or(name);
                columns.push((format!("{name}_{bound}"), value.to_string()));
            }
        }
        serde_json::Value::String(text) => columns.push((name.to_owned(), visible(text))),
        serde_json::Value::Null => columns.push((name.to_owned(), String::new())),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            columns.push((name.to_owned(), value.to_string()));
        }
    }
}

/// Gives a missing figure the columns of a present one, so that all runs have the same columns.
fn with_all_figures(columns: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut found: std::collections::BTreeMap<String, String> = columns.iter().cloned().collect();
    let mut all = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let structured = [
        ("gold_before", FIGURE.as_slice()),
        ("gold_after", &FIGURE),
        ("gold_gain", &DIFFERENCE),
        ("proxy_before", &FIGURE),
        ("proxy_after", &FIGURE),
        ("gold_difference", &DIFFERENCE),
    ];
    for (name, value) in columns {
        let of =
            structured.iter().find(|(figure, _)| name == *figure || name.starts_with(&format!("{figure}_")));
        match of {
            None => all.push((name, value)),
            Some((figure, parts)) if seen.insert(*figure) => {
                let part = |part: &&str| {
                    let name = format!("{figure}_{part}");
                    let value = found.remove(&name).unwrap_or_default();
                    (name, value)
                };
                all.extend(parts.iter().map(part).collect::<Vec<_>>());
            }
            Some(_) => {}
        }
    }
    all
}
