//! The judgements that a fork of the selection can take over: its first comparisons are those of its origin.

use std::path::{Path, PathBuf};

use dissent_domain::event::{Event, FeedbackEvent, FeedbackReceived};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::{FeedbackSource, LearningPlan, Plan};
use serde::Serialize;

use crate::{files, history};

/// A line of a file that `dissent feedback import` reads.
#[derive(Serialize)]
struct Line<'a> {
    experiment: &'a ExperimentId,
    round: u32,
    comparison: u32,
    annotator: &'a str,
    verdict: dissent_domain::feedback::Verdict,
    first_unsafe: Option<bool>,
    second_unsafe: Option<bool>,
    comment: Option<&'a str>,
}

/// Writes people's judgements of one round of the origin, under the fork's name, into the data folder.
/// Returns the file and the number of judgements. `None` if there are none, or the fork selects other pairs.
///
/// # Errors
/// If the log cannot be read or the file cannot be written.
pub(super) fn write(
    log: &dyn EventLog,
    (origin, was): (&ExperimentId, &Plan),
    now: &Plan,
    round: u32,
    data_dir: &Path,
) -> anyhow::Result<Option<(PathBuf, usize)>> {
    if !has_same_selection(was, now) {
        return Ok(None);
    }
    let (mut lines, mut judgements) = (String::new(), 0);
    history::each(log, origin, None, &mut |recorded| {
        if let Event::Feedback(FeedbackEvent::Received(e)) = recorded.decode()?
            && e.round == round
        {
            lines += &(serde_json::to_string(&line(&e, &now.experiment))? + "\n");
            judgements += 1;
        }
        Ok(())
    })?;
    if judgements == 0 {
        return Ok(None);
    }
    let path = data_dir.join("judgements").join(format!("{}-round-{round}.jsonl", now.experiment));
    files::write_in_data_folder(&lines, &path)?;
    Ok(Some((path, judgements)))
}

/// Whether people judge in both plans, and rule, opponents, audit and draws are the same.
fn has_same_selection(was: &Plan, now: &Plan) -> bool {
    let (Some(old), Some(new)) = (&was.learning, &now.learning) else { return false };
    let selects = |LearningPlan { feedback, .. }: &LearningPlan| {
        (feedback.source, feedback.opponent, feedback.audit.to_bits(), feedback.degenerate)
    };
    old.feedback.source == FeedbackSource::People
        && selects(old) == selects(new)
        && (was.seed, &was.conflict, &was.sampling) == (now.seed, &now.conflict, &now.sampling)
}

fn line<'a>(e: &'a FeedbackReceived, experiment: &'a ExperimentId) -> Line<'a> {
    Line {
        experiment,
        round: e.round,
        comparison: e.comparison,
        annotator: &e.annotator,
        verdict: e.verdict,
        first_unsafe: e.is_unsafe.map(|[first, _]| first),
        second_unsafe: e.is_unsafe.map(|[_, second]| second),
        comment: e.comment.as_deref(),
    }
}
