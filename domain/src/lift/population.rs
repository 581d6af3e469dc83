//! All pairs of an experiment, with what is known of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::conflict::{self, Pair, Rule, SelectionSettings};
use crate::experiment::Experiment;
use crate::feedback::Verdict;
use crate::id::PromptId;
use crate::learning::RequestedComparison;
use crate::plan::Plan;
use crate::round::Round;
use crate::round::pairing;
use crate::round::selection::{self, RoundSelection};

/// The pairs of all rounds.
pub(super) struct Population {
    pub(super) rounds: Vec<RoundPairs>,
    /// Number of prompts.
    pub(super) clusters: usize,
}

/// The pairs of one round.
pub(super) struct RoundPairs {
    /// Number of pairs.
    pub(super) pairs: usize,
    /// Number of pairs that the rule in use selected.
    pub(super) selected: usize,
    pub(super) judged: Vec<JudgedPair>,
    /// By rule: its score of each pair; absent for a rule that scores none.
    pub(super) scores: BTreeMap<&'static str, Vec<f64>>,
    /// By rule: the pairs that it asks about with as many labels as the round has.
    pub(super) choices: BTreeMap<&'static str, BTreeSet<usize>>,
    /// The pairs that the rule in use selected.
    pub(super) in_use: BTreeSet<usize>,
}

/// A judged pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct JudgedPair {
    /// Its place among the pairs of the round.
    pub(super) pair: usize,
    /// The prompt.
    pub(super) cluster: usize,
    /// 1 if the proxy orders it wrongly, 0 if not, ½ if the proxy finds the two equal and people do not.
    pub(super) error: f64,
    /// Whether the audit drew it.
    pub(super) is_uniform: bool,
}

impl Population {
    pub(super) fn of(experiment: &Experiment, plan: &Plan) -> Self {
        let mut clusters: BTreeMap<PromptId, usize> = BTreeMap::new();
        let rounds: Vec<RoundPairs> = experiment
            .rounds()
            .iter()
            .filter(|round| round.evaluation().is_some())
            .map(|round| RoundPairs::of(round, plan, &mut clusters))
            .collect();
        Self { rounds, clusters: clusters.len() }
    }

    pub(super) fn pairs(&self) -> usize {
        self.rounds.iter().map(|round| round.pairs).sum()
    }

    pub(super) fn judged(&self, is_uniform: bool) -> impl Iterator<Item = &JudgedPair> {
        self.rounds
            .iter()
            .flat_map(|round| &round.judged)
            .filter(move |judged| judged.is_uniform == is_uniform)
    }

    /// Judged pairs of the audit.
    pub(super) fn audited(&self) -> usize {
        self.judged(true).count()
    }

    /// Judged pairs of the rule.
    pub(super) fn selected(&self) -> usize {
        self.judged(false).count()
    }

    pub(super) fn errors(&self, is_uniform: bool) -> f64 {
        self.judged(is_uniform).map(|judged| judged.error).sum()
    }
}

impl RoundPairs {
    fn of(round: &Round, plan: &Plan, clusters: &mut BTreeMap<PromptId, usize>) -> Self {
        let measured: Vec<_> = round.prompt_states().measured().collect();
        let left_out = selection::left_out(plan, &measured);
        let scored = pairing::scored(&measured, &left_out);
        let pairs = conflict::pairs(&scored);
        let places: BTreeMap<Pair, usize> = pairs.iter().copied().zip(0..).collect();
        let prompts: BTreeMap<&PromptId, usize> =
            measured.iter().map(|prompt| prompt.prompt_id).zip(0..).collect();
        let place = |prompt_id: &PromptId, first: u32, second: u32| {
            let (low, high) = (first.min(second) as usize, first.max(second) as usize);
            places.get(&Pair { prompt: *prompts.get(prompt_id)?, first: low, second: high }).copied()
        };
        for prompt in &measured {
            let next = clusters.len();
            clusters.entry(prompt.prompt_id.clone()).or_insert(next);
        }
        // The focus is a choice of people: it belongs neither to the rule nor to the audit.
        let comparisons: Vec<&RequestedComparison> =
            round.learning().comparisons().iter().filter(|comparison| !comparison.request.is_focus).collect();
        let in_use: BTreeSet<usize> = comparisons
            .iter()
            .filter(|comparison| comparison.request.propensity.is_none())
            .filter_map(|RequestedComparison { request: e, .. }| place(&e.prompt_id, e.first, e.second))
            .collect();
        let judged = comparisons.iter().filter_map(|comparison| {
            let e = &comparison.request;
            Some(JudgedPair {
                pair: place(&e.prompt_id, e.first, e.second)?,
                cluster: *clusters.get(&e.prompt_id)?,
                error: proxy_error(comparison)?,
                is_uniform: e.propensity.is_some(),
            })
        });
        let judged = judged.collect();
        let (mut scores, mut choices) = (BTreeMap::new(), BTreeMap::new());
        for rule in Rule::ALL {
            let settings = settings_of(rule, plan, comparisons.len() as u64);
            if let Some(of_rule) = conflict::rule_scores(&settings, &scored, &pairs) {
                scores.insert(rule.name(), of_rule);
            }
            let changed = with_selection(plan, settings);
            let chosen = RoundSelection::of(&changed, round.number(), round.prompt_states());
            let chosen =
                chosen.comparisons().filter_map(|e| place(&e.prompt_id, e.first, e.second)).collect();
            choices.insert(rule.name(), chosen);
        }
        Self { pairs: pairs.len(), selected: in_use.len(), judged, scores, choices, in_use }
    }
}

/// The settings of a rule that asks about `labels` pairs: those of the plan for its own rule.
fn settings_of(rule: Rule, plan: &Plan, labels: u64) -> SelectionSettings {
    let planned = &plan.conflict.selection;
    let thresholds = if planned.rule == rule { planned.clone() } else { SelectionSettings::default() };
    SelectionSettings { rule, budget: Some(labels), ..thresholds }
}

/// The plan with another selection, and without audit and focus.
fn with_selection(plan: &Plan, selection: SelectionSettings) -> Plan {
    let mut changed = plan.clone();
    changed.conflict.selection = selection;
    if let Some(learning) = &mut changed.learning {
        learning.feedback.audit = 0.0;
        learning.feedback.focus = None;
    }
    changed
}

/// Returns the error of the proxy on a comparison; `None` if nobody judged it. It is 1 if the proxy orders
/// the two against the judgement. It is ½ if the proxy finds the two equal and people do not, and otherwise
/// 0, also for a tie.
#[must_use]
pub fn proxy_error(comparison: &RequestedComparison) -> Option<f64> {
    let [first, second] = comparison.rewards;
    let towards = match comparison.judgements.majority()? {
        Verdict::First => first - second,
        Verdict::Second => second - first,
        Verdict::Tie => return Some(0.0),
    };
    Some(if towards > 0.0 {
        0.0
    } else if towards < 0.0 {
        1.0
    } else {
        0.5
    })
}
