//! The summary of a report, for the end of a run.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::data::{ConflictingCompletion, ReportData, SetAside, Status};
use super::learning::{LearningFigures, agreement_rows, is_better, is_paired, table};
use super::wording;
use crate::text::{self, excerpt, visible};

/// Completions shown of each direction of conflict.
const SHOWN: usize = 2;
const EXCERPT_CHARS: usize = 60;
/// Columns of a terminal line.
const COLUMNS: usize = 110;
const SET_ASIDE_CHARS: usize = 240;

/// Returns a report in 10 to 25 lines, with control characters escaped and without a final newline.
///
/// Lines have at most 110 columns, except the reason why a prompt was set aside.
#[must_use]
pub fn summary(data: &ReportData) -> String {
    let counts = &data.counts;
    let mut out = format!("{} · round {} · {}\n", data.experiment, data.round, wording::status(data));
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!(
        "  {} from {}, {}; {} degenerate, {} set aside",
        text::count(counts.completions, "completion"),
        text::count(counts.sampled.into(), "prompt"),
        text::count(counts.tokens, "token"),
        text::grouped(counts.degenerate.into()),
        text::grouped(counts.set_aside.into()),
    ));
    if let Some(truncated) = wording::truncated(data) {
        wrapped(&truncated).into_iter().for_each(&mut line);
    }
    if let Some(SetAside { prompt_id, step, reason }) = data.set_aside.first() {
        let first = format!("set aside: {prompt_id} by the {} step: {reason}", step.name());
        line(format!("  {}", excerpt(&visible(&first), SET_ASIDE_CHARS)));
    }
    let headlines = wording::headlines(data);
    for headline in &headlines {
        line(format!("  {:<31} {:>6}   ({})", headline.term, headline.value, headline.noise));
    }
    if let Some(first) = headlines.first() {
        line(format!("  {}", first.meaning));
    }
    if data.status == Status::Complete && data.counts.measured > 0 && headlines.is_empty() {
        line(format!("  {}", wording::nothing_measured(data)));
    }
    line(format!("  selected: {}", wording::selected(data)));
    if let Some(learning) = &data.learning {
        learning_lines(learning).into_iter().for_each(&mut line);
    }
    for (title, completions) in [
        ("Completions that the proxy favours:", &data.proxy_favours),
        ("Completions that the policy favours:", &data.policy_favours),
    ] {
        if !completions.is_empty() {
            line(format!("  {title}"));
        }
        completions.iter().take(SHOWN).for_each(|completion| line(completion_line(completion)));
    }
    out.truncate(out.trim_end().len());
    out
}

/// Returns lines with the feedback, the figures before and after, and the warnings.
fn learning_lines(learning: &LearningFigures) -> Vec<String> {
    let mut lines = Vec::new();
    for feedback in &learning.feedback {
        let contradicted =
            feedback.contradicted.map(|contradicted| format!(", {contradicted} against the reward model"));
        lines.push(format!(
            "  feedback of round {}: {} of {}; {}{}",
            feedback.round,
            text::count(feedback.judgements, "judgement"),
            text::count(feedback.comparisons.into(), "comparison"),
            text::count(feedback.preferences.unwrap_or(0).into(), "preference"),
            contradicted.unwrap_or_default(),
        ));
    }
    lines.push("  Do conflicts find the proxy's errors, better than random pairs?".to_owned());
    lines.extend(wrapped(&learning.lift.answer));
    lines.push("  Is the new policy better?".to_owned());
    lines.extend(wrapped(&is_better(learning)));
    let rows = table(learning);
    if !rows.is_empty() {
        let difference = if is_paired(learning) { "difference (95 %, paired)" } else { "difference" };
        lines.push(format!(
            "  {:<36} {:>16} {:>16} {:>30}",
            "on held-out prompts", "before", "after", difference
        ));
    }
    for row in rows {
        let clear = if row.is_clear { " *" } else { "" };
        lines.push(format!(
            "  {:<36} {:>16} {:>16} {:>30}{clear}",
            row.name, row.before, row.after, row.difference
        ));
    }
    let agreement = agreement_rows(learning);
    if !agreement.is_empty() {
        lines.push(format!(
            "  {:<36} {:>16} {:>16} {:>30}",
            "ordered as the gold reward", "first proxy", "current model", "difference (95 %, paired)"
        ));
    }
    for row in agreement {
        let clear = if row.is_clear { " *" } else { "" };
        let name = format!("completions {}", row.completions);
        lines.push(format!(
            "  {name:<36} {:>16} {:>16} {:>30}{clear}",
            row.proxy, row.refined, row.difference
        ));
    }
    let clear_rows = table(learning).iter().filter(|row| row.is_clear).count();
    if clear_rows > 0 || agreement_rows(learning).iter().any(|row| row.is_clear) {
        lines.push(
            "  * clear: the interval excludes 0, also after correction for the number of rows".to_owned(),
        );
    }
    for warning in &learning.warnings {
        lines.push(format!("  reward hacking is suspected: {}", warning.signs.join("; ")));
    }
    lines
}

/// Breaks a text into indented lines that fit a terminal.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("    {word}")),
        }
    }
    lines
}

/// Returns the summary as JSON: the figures of [`json`](super::json) without its lists, and the path of the
/// page.
#[must_use]
pub fn summary_json(data: &ReportData, page: &Path) -> Value {
    json!({
        "schema": data.schema,
        "experiment": data.experiment,
        "round": data.round,
        "status": data.status,
        "counts": data.counts,
        "figures": data.figures,
        "learning": data.learning,
        "report": page,
    })
}

fn completion_line(shown: &ConflictingCompletion) -> String {
    let completion = &shown.completion;
    let mut out = format!("    PACS {}  ", text::signed(completion.figures.pacs.unwrap_or(0.0), 2));
    // Writing to a string cannot fail.
    let _ = write!(out, "{}#{}", visible(shown.prompt_id.as_str()), completion.sample);
    let text = excerpt(&visible(&completion.text), EXCERPT_CHARS);
    let _ = write!(out, "  “{text}”");
    out
}
