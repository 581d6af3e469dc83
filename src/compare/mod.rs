//! Many runs in one table.

mod figures;
mod render;
mod runs;

use serde::Serialize;

use figures::Difference;
pub(crate) use render::{csv, html, json, markdown, text};
pub(crate) use runs::RunFigures;

/// The version of the JSON form. Under the same version, fields are added but never changed.
const SCHEMA: &str = "dissent.compare/1";

/// Runs beside each other. The first one is the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunComparison {
    schema: &'static str,
    runs: Vec<ComparedRun>,
}

/// A run with its difference from the baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ComparedRun {
    #[serde(flatten)]
    figures: RunFigures,
    /// Gold reward of the last policy minus that of the baseline's; `None` for the baseline, or if one of
    /// them has none.
    gold_difference: Option<Difference>,
}

impl RunComparison {
    /// Compares runs with the first of them.
    pub(crate) fn of(runs: Vec<RunFigures>) -> Self {
        let baseline = runs.first().cloned();
        let compared = runs.into_iter().enumerate().map(|(index, figures)| {
            let first = baseline.as_ref().filter(|_| index > 0);
            let gold = |run: &RunFigures| Some((run.gold_after?, run.held_out_prompts?));
            let pair = first.and_then(gold).zip(gold(&figures));
            let last = |run: &RunFigures| run.evaluations[1].clone();
            let paired = first.and_then(last).zip(last(&figures));
            let paired = paired.and_then(|(before, after)| Difference::paired_gold(&before, &after));
            let unpaired = pair
                .map(|((before, one), (after, other))| Difference::unpaired(after, before, one.min(other)));
            let gold_difference = paired.or(unpaired);
            ComparedRun { figures, gold_difference }
        });
        Self { schema: SCHEMA, runs: compared.collect() }
    }
}
