//! The judgements that a run asks for.

use dissent_domain::conflict::{Rule, audit_beside};
use dissent_domain::plan::{FeedbackSource, Plan};
use serde::Serialize;

use crate::config::Config;

/// The judgements of a run, at most: equal comparisons are asked once, and thresholds select fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct LabelForecast {
    pub(super) rounds: u64,
    /// Comparisons of a round, at most.
    pub(super) comparisons_max: u64,
    /// Judgements of a round, at most.
    pub(super) judgements_max: u64,
    /// Whether people judge.
    pub(super) by_people: bool,
}

impl LabelForecast {
    pub(super) fn of(config: &Config, plan: &Plan) -> Self {
        let prompts = u64::from(plan.prompts.count);
        let samples = u64::from(config.generation.samples);
        let completions = prompts.saturating_mul(samples);
        let pairs = prompts.saturating_mul(samples.saturating_mul(samples.saturating_sub(1)) / 2);
        let rule = config.conflict.rule;
        let units = if rule.selects_pairs() { pairs } else { completions };
        let selected = match (rule, config.conflict.budget) {
            (Rule::None, _) => 0,
            (_, Some(budget)) => units.min(budget),
            (_, None) => units,
        };
        let rounds = u64::from(config.experiment.rounds);
        let Some(feedback) = &config.feedback else {
            return Self { rounds, comparisons_max: 0, judgements_max: 0, by_people: false };
        };
        // A budget contains the audit share; without a budget the audit comes on top.
        let audit = plan.learning.as_ref().map_or(0.0, |learning| learning.feedback.audit);
        let audited = if config.conflict.budget.is_some() { 0 } else { audit_beside(selected, audit) };
        let learning = plan.learning.as_ref();
        let focused = learning.and_then(|learning| learning.feedback.focus.as_ref()).map_or(0, |f| f.pairs);
        let comparisons_max = selected.saturating_add(audited).saturating_add(focused).min(pairs);
        let wanted = comparisons_max.saturating_mul(feedback.overlap.into());
        Self {
            rounds,
            comparisons_max,
            judgements_max: feedback.budget.map_or(wanted, |budget| budget.min(wanted)),
            by_people: feedback.source == FeedbackSource::People,
        }
    }

    pub(super) fn text(&self) -> String {
        let Self { rounds, comparisons_max, judgements_max, by_people } = self;
        if *comparisons_max == 0 {
            return "labels  none: conflict is measured and reported only\n".to_owned();
        }
        let judge = if *by_people { "people" } else { "the oracle" };
        let all = rounds.saturating_mul(*judgements_max);
        format!(
            "labels  at most {all} judgements by {judge}: {judgements_max} of {comparisons_max} comparisons in each of {}\n",
            crate::text::count(*rounds, "round")
        )
    }
}
