//! The report in a few lines, for the end of a run.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::data::{ConflictingAnswer, ReportData, SetAside, Status};
use super::learning::{LearningFigures, table};
use super::words;
use crate::text::{self, excerpt, visible};

/// Answers shown of either type.
const SHOWN: usize = 2;
const EXCERPT_CHARS: usize = 60;
const SET_ASIDE_CHARS: usize = 240;

/// A report in 10 to 15 lines of at most about 100 columns (but for the reason why a prompt was set aside),
/// safe for a terminal; without a final line feed.
#[must_use]
pub fn summary(data: &ReportData) -> String {
    let counts = &data.counts;
    let mut out = format!("{} · round {} · {}\n", data.experiment, data.round, words::status(data));
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!(
        "  {} from {}, {}; {} degenerate, {} set aside",
        text::count(counts.completions, "answer"),
        text::count(counts.sampled.into(), "prompt"),
        text::count(counts.tokens, "token"),
        text::grouped(counts.degenerate.into()),
        text::grouped(counts.set_aside.into()),
    ));
    if let Some(SetAside { prompt_id, step, reason }) = data.set_aside.first() {
        let first = format!("set aside: {prompt_id} by the {} step: {reason}", step.name());
        line(format!("  {}", excerpt(&visible(&first), SET_ASIDE_CHARS)));
    }
    let headlines = words::headlines(data);
    for headline in &headlines {
        line(format!("  {:<31} {:>6}   ({})", headline.term, headline.value, headline.noise));
    }
    if let Some(first) = headlines.first() {
        line(format!("  {}", first.meaning));
    }
    if data.status == Status::Complete && data.counts.measured > 0 && headlines.is_empty() {
        line(format!("  {}", words::nothing_measured(data)));
    }
    line(format!("  selected: {}", words::selected(data)));
    if let Some(learning) = &data.learning {
        learnt(learning).into_iter().for_each(&mut line);
    }
    for (title, answers) in [
        ("The proxy loves what the policy finds unlikely:", &data.proxy_favours),
        ("The policy favours what the proxy dislikes:", &data.policy_favours),
    ] {
        if !answers.is_empty() {
            line(format!("  {title}"));
        }
        answers.iter().take(SHOWN).for_each(|answer| line(case(answer)));
    }
    out.truncate(out.trim_end().len());
    out
}

/// Before and after, and what to be wary of.
fn learnt(learning: &LearningFigures) -> Vec<String> {
    let mut lines = Vec::new();
    for feedback in &learning.feedback {
        let contradicted = feedback
            .contradicted
            .map(|contradicted| format!(", {contradicted} of them against the reward model"));
        lines.push(format!(
            "  feedback of round {}: {} of {}; {}{}",
            feedback.round,
            text::count(feedback.judgements, "judgement"),
            text::count(feedback.comparisons.into(), "comparison"),
            text::count(feedback.preferences.unwrap_or(0).into(), "preference"),
            contradicted.unwrap_or_default(),
        ));
    }
    let rows = table(learning);
    if !rows.is_empty() {
        lines.push(format!(
            "  {:<33} {:>17} {:>17} {:>19}",
            "on held-out prompts", "before", "after", "difference"
        ));
    }
    for row in rows {
        lines.push(format!("  {:<33} {:>17} {:>17} {:>19}", row.name, row.before, row.after, row.difference));
    }
    for warning in &learning.warnings {
        lines.push(format!("  reward hacking is suspected: {}", warning.signs.join("; ")));
    }
    lines
}

/// The same for machines: the figures of [`json`](super::json) without its lists, and where the page is.
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

fn case(case: &ConflictingAnswer) -> String {
    let mut out = format!("    PACS {}  ", text::signed(case.answer.figures.pacs.unwrap_or(0.0), 2));
    // Writing to a string cannot fail.
    let _ = write!(out, "{}#{}", visible(case.prompt_id.as_str()), case.answer.completion);
    let text = excerpt(&visible(&case.answer.text), EXCERPT_CHARS);
    let _ = write!(out, "  “{text}”");
    out
}
