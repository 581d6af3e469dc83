//! Lift: how well selection rules find the errors of the proxy, from judgements of some of the pairs.
//!
//! A pair is an *error* if its judgement prefers the completion with the lower reward. A tie is none. The
//! judged pairs are of two strata: those that the rule selected, and the audit's uniform draws from all
//! others. Within a stratum, judged pairs stand for those not judged, so every figure is an estimate for
//! *all* pairs of the round (post-stratified Horvitz–Thompson). Without an audit nothing is known of the
//! other pairs, and there is no lift.
//!
//! Intervals are at 95 %, over prompts: the pairs of a prompt are not independent.

mod estimate;
mod population;
mod rules;

use serde::Serialize;

pub use population::proxy_error;
pub use rules::{ErrorsFound, RuleLift, TooFewDraws};

use crate::analysis::Interval;
use crate::conflict::Rule;
use crate::experiment::Experiment;
use population::Population;
use rules::Judged;

/// The lift table of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lift {
    /// The rule in use.
    pub rule: Rule,
    /// Number of pairs, over all rounds.
    pub pairs: usize,
    /// Judged pairs that the rule selected.
    pub selected: usize,
    /// Judged pairs that the audit drew.
    pub audited: usize,
    /// Errors among the judged pairs of the rule.
    pub selected_errors: f64,
    /// Errors among the judged pairs of the audit.
    pub audited_errors: f64,
    /// Estimated share of errors among all pairs: what random pairs find a label.
    pub random: Interval,
    /// The rules, the one in use first.
    pub rules: Vec<RuleLift>,
    /// What the numbers say of the rule in use.
    pub conclusion: Conclusion,
}

/// Answer to the question: does the rule find more errors than random pairs?
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Conclusion {
    /// It finds more: the interval of the difference lies above 0.
    Yes,
    /// It finds fewer: the interval lies below 0.
    No,
    /// The difference is small: the whole interval lies within [`SMALL`] of 0.
    Same,
    /// The interval contains 0 and large differences.
    NotEnough {
        /// Labels that would tell, if the difference is as estimated: `None` if more than ten times those so
        /// far.
        more_labels: Option<u64>,
    },
}

/// The largest difference in errors a label that counts as none.
pub const SMALL: f64 = 0.05;

/// Why an experiment has no lift table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLift {
    /// The experiment asks for no feedback.
    #[error(
        "the experiment only measures conflict: it asks nobody, so there are no judgements to learn from"
    )]
    NoFeedback,
    /// The plan has no audit share.
    #[error(
        "the experiment has no audit share: it asked only what its rule selected, so nothing shows what the rule missed"
    )]
    NoAudit,
    /// Too few pairs are judged.
    #[error(
        "{judged} of {needed} audit pairs are judged that a first estimate takes: collect more judgements"
    )]
    TooFew {
        /// Judged pairs of the audit.
        judged: usize,
        /// Those needed.
        needed: usize,
    },
    /// No pair that the rule selected is judged.
    #[error("no pair that the rule selected is judged yet")]
    NothingSelected,
}

/// Fewest judged pairs of the audit for an estimate.
pub const AUDITED_MIN: usize = 4;

/// Estimates the lift of every rule from the judgements so far.
///
/// # Errors
/// If the judgements cannot tell anything.
pub fn lift(experiment: &Experiment) -> Result<Lift, NoLift> {
    let plan = experiment.plan().ok_or(NoLift::NoFeedback)?;
    let learning = plan.learning.as_ref().ok_or(NoLift::NoFeedback)?;
    let judged = |is_uniform: bool| {
        let comparisons = experiment.rounds().iter().flat_map(|round| round.learning().comparisons());
        let of_kind = comparisons.filter(|comparison| comparison.request.propensity.is_some() == is_uniform);
        of_kind.filter(|comparison| !comparison.judgements.is_empty()).count()
    };
    let (selected, audited) = (judged(false), judged(true));
    if learning.feedback.audit <= 0.0 && audited == 0 {
        return Err(NoLift::NoAudit);
    }
    if audited < AUDITED_MIN {
        return Err(NoLift::TooFew { judged: audited, needed: AUDITED_MIN });
    }
    if selected == 0 {
        return Err(NoLift::NothingSelected);
    }
    Ok(of_population(&Population::of(experiment, plan), plan.conflict.selection.rule))
}

fn of_population(population: &Population, in_use: Rule) -> Lift {
    let judged_pairs = Judged::of(population, in_use);
    let rules = judged_pairs.table();
    let judged = population.selected() + population.audited();
    let conclusion = rules.first().map_or(Conclusion::NotEnough { more_labels: None }, |row| {
        row.versus_random
            .map_or(Conclusion::NotEnough { more_labels: None }, |difference| conclude(&difference, judged))
    });
    Lift {
        rule: in_use,
        pairs: population.pairs(),
        selected: population.selected(),
        audited: population.audited(),
        selected_errors: population.errors(false),
        audited_errors: population.errors(true),
        random: judged_pairs.random(),
        rules,
        conclusion,
    }
}

/// Decides by the interval of a difference, from `labels` judged pairs.
fn conclude(difference: &Interval, labels: usize) -> Conclusion {
    if difference.low > 0.0 {
        return Conclusion::Yes;
    }
    if difference.high < 0.0 {
        return Conclusion::No;
    }
    if difference.low > -SMALL && difference.high < SMALL {
        return Conclusion::Same;
    }
    // The width falls with the root of the number of labels.
    let reach = (difference.high - difference.low) / 2.0;
    let times = (reach / difference.mean.abs().max(SMALL)).powi(2);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most ten times the labels"
    )]
    let more_labels =
        (times <= 10.0).then(|| ((times - 1.0).max(0.0) * labels as f64).ceil().max(1.0) as u64);
    Conclusion::NotEnough { more_labels }
}

#[cfg(test)]
mod tests;
