//! Selection under other settings: selects each round again from the recorded scores. No model runs. From the
//! second round on, the scores come from models that learnt from the recorded feedback.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::conflict::{self, ConflictError};
use crate::event::{
    ConflictMeasured, Event, FeedbackEvent, FeedbackRequested, PromptEvent, RoundEvent, RoundOpened,
};
use crate::id::PromptId;
use crate::plan::Plan;
use crate::round::PromptProgress;
use crate::round::prompts::Prompts;
use crate::round::selection::RoundSelection;

/// Overlap of two selections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Overlap {
    /// Number in both.
    pub kept: u64,
    /// Number only under the changed settings.
    pub new: u64,
    /// Number only in the recorded selection.
    pub dropped: u64,
    /// kept / (kept + new + dropped), in [0, 1]; 1 where both are empty.
    pub jaccard: f64,
}

impl Overlap {
    fn of<T: Ord>(recorded: &BTreeSet<T>, changed: &BTreeSet<T>) -> Self {
        let kept = recorded.intersection(changed).count() as u64;
        Self::counted(kept, changed.len() as u64 - kept, recorded.len() as u64 - kept)
    }

    fn counted(kept: u64, new: u64, dropped: u64) -> Self {
        let either = kept + new + dropped;
        let jaccard = if either == 0 { 1.0 } else { kept as f64 / either as f64 };
        Self { kept, new, dropped, jaccard }
    }

    fn plus(self, other: Self) -> Self {
        Self::counted(self.kept + other.kept, self.new + other.new, self.dropped + other.dropped)
    }
}

/// Size of a selection and of the feedback that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Cost {
    /// Selected completions.
    #[serde(rename = "answers")]
    pub completions: u64,
    /// Prompts with a selected completion.
    pub prompts: u64,
    /// Comparisons; without feedback, those with the default opponent.
    pub comparisons: u64,
    /// Judgements that they need: the overlap of each, at most the budget of a round.
    pub labels: u64,
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        Self {
            completions: self.completions + other.completions,
            prompts: self.prompts + other.prompts,
            comparisons: self.comparisons + other.comparisons,
            labels: self.labels + other.labels,
        }
    }
}

/// Comparison of two selections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compared {
    /// The recorded selection.
    pub recorded: Cost,
    /// The selection under the changed settings.
    pub changed: Cost,
    /// Judgements of `changed` that the log does not have.
    pub labels_missing: u64,
    /// Overlap of the selected completions.
    #[serde(rename = "answers")]
    pub completions: Overlap,
    /// Overlap of the comparisons, in either order of display.
    pub comparisons: Overlap,
}

impl Compared {
    fn none() -> Self {
        let nothing = Overlap::counted(0, 0, 0);
        Self {
            recorded: Cost::default(),
            changed: Cost::default(),
            labels_missing: 0,
            completions: nothing,
            comparisons: nothing,
        }
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            recorded: self.recorded.plus(other.recorded),
            changed: self.changed.plus(other.changed),
            labels_missing: self.labels_missing + other.labels_missing,
            completions: self.completions.plus(other.completions),
            comparisons: self.comparisons.plus(other.comparisons),
        }
    }
}

/// One prompt under both settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptCompared {
    /// The prompt.
    pub prompt_id: PromptId,
    /// The mean|PACS| under the changed settings.
    pub mean_abs_pacs: f64,
    /// The Kendall-tau distance under the changed settings; `None` if degenerate.
    pub kendall_tau_distance: Option<f64>,
    /// Selected completions as recorded, ascending.
    pub recorded: Vec<u32>,
    /// Selected completions under the changed settings, ascending.
    pub changed: Vec<u32>,
    /// Comparisons as recorded, each with the lower completion first.
    pub recorded_comparisons: Vec<[u32; 2]>,
    /// Comparisons under the changed settings, each with the lower completion first.
    pub changed_comparisons: Vec<[u32; 2]>,
}

impl PromptCompared {
    /// Whether both settings select the same from this prompt.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.recorded == self.changed && self.recorded_comparisons == self.changed_comparisons
    }
}

/// One round under both settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundCompared {
    /// The round.
    pub round: u32,
    /// Counts and overlaps.
    pub compared: Compared,
    /// The prompts with a selection under either settings, in the order of the prompt file.
    pub prompts: Vec<PromptCompared>,
}

/// Rounds under both settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WhatIfOutcome {
    /// The rounds with a recorded selection, in order.
    pub rounds: Vec<RoundCompared>,
    /// Rounds without a selection so far. They are not compared.
    pub undecided: Vec<u32>,
    /// Totals over `rounds`.
    pub total: Compared,
}

/// Folds a history under two plans: the recorded one and a changed one.
#[derive(Debug)]
pub struct WhatIf {
    recorded: Plan,
    changed: Plan,
    /// Log-probabilities by the changed plan's kind, of prompts without a measured conflict. Empty if both
    /// plans have the same kind.
    logprobs: HashMap<PromptId, Vec<f64>>,
    rounds: Vec<RoundHistory>,
}

/// A round under both plans, with its recorded comparisons.
#[derive(Debug)]
struct RoundHistory {
    number: u32,
    recorded: Prompts,
    changed: Prompts,
    selected: BTreeSet<(PromptId, u32)>,
    /// The comparisons by number, each with its number of judgements.
    requested: Vec<(PromptId, [u32; 2], u64)>,
    decided: bool,
}

type SelectedPair = (PromptId, u32);
type Pair = (PromptId, [u32; 2]);

impl WhatIf {
    /// A fold for an experiment with the plan `recorded`, which measures and selects as in `changed`.
    #[must_use]
    pub fn new(recorded: Plan, changed: Plan) -> Self {
        Self { recorded, changed, logprobs: HashMap::new(), rounds: Vec::new() }
    }

    /// Applies the next event.
    ///
    /// # Errors
    /// If conflict cannot be measured on recorded scores.
    pub fn apply(&mut self, event: &Event) -> Result<(), ConflictError> {
        if let Some(e) = event.body::<RoundOpened>() {
            self.rounds.push(RoundHistory {
                number: e.round,
                recorded: Prompts::new(e.prompts),
                changed: Prompts::new(e.prompts),
                selected: BTreeSet::new(),
                requested: Vec::new(),
                decided: false,
            });
            return Ok(());
        }
        let Some(round) = self.rounds.last_mut() else { return Ok(()) };
        match event {
            Event::Prompt(e) => self.apply_to_prompt(e)?,
            Event::Round(e) => round.apply_round(e),
            Event::Feedback(e) => round.apply_feedback(e),
            // The models of the recorded history stay.
            Event::Experiment(_) | Event::Operator(_) | Event::Training(_) | Event::Evaluation(_) => {}
        }
        Ok(())
    }

    fn apply_to_prompt(&mut self, event: &PromptEvent) -> Result<(), ConflictError> {
        let Some(round) = self.rounds.last_mut() else { return Ok(()) };
        round.recorded.evolve(event);
        match event {
            PromptEvent::Sampled(e) => {
                let kind = self.changed.conflict.logprob;
                if kind != self.recorded.conflict.logprob {
                    let logprobs = e.completions.iter().map(|completion| completion.logprob_as(kind));
                    self.logprobs.insert(e.prompt.prompt_id.clone(), logprobs.collect());
                }
                round.changed.evolve(event);
            }
            PromptEvent::Measured(e) => {
                let again = measured_again(&round.recorded, self.logprobs.remove(&e.prompt_id), e)?;
                round.changed.evolve(&PromptEvent::Measured(again));
            }
            PromptEvent::Admitted(_) | PromptEvent::Scored(_) | PromptEvent::SetAside(_) => {
                round.changed.evolve(event);
            }
        }
        Ok(())
    }

    /// Returns the comparison of the two plans.
    #[must_use]
    pub fn outcome(&self) -> WhatIfOutcome {
        let (decided, undecided): (Vec<_>, Vec<_>) = self.rounds.iter().partition(|round| round.decided);
        let rounds: Vec<RoundCompared> =
            decided.into_iter().map(|round| round.compared(&self.recorded, &self.changed)).collect();
        WhatIfOutcome {
            total: rounds.iter().fold(Compared::none(), |total, round| total.plus(&round.compared)),
            rounds,
            undecided: undecided.into_iter().map(|round| round.number).collect(),
        }
    }
}

/// Measures the conflict by the changed plan; returns the recorded one where both plans have the same kind.
fn measured_again(
    prompts: &Prompts,
    logprobs: Option<Vec<f64>>,
    e: &ConflictMeasured,
) -> Result<ConflictMeasured, ConflictError> {
    match (logprobs, prompts.progress(&e.prompt_id)) {
        (Some(logprobs), Some(PromptProgress::Measured { rewards, .. })) => {
            Ok(ConflictMeasured { conflict: conflict::measure(rewards, &logprobs)?, ..e.clone() })
        }
        _ => Ok(e.clone()),
    }
}

fn unordered(e: &FeedbackRequested) -> [u32; 2] {
    [e.first.min(e.second), e.first.max(e.second)]
}

/// Selected completions and comparisons of a plan.
struct PlanSelection {
    completions: BTreeSet<SelectedPair>,
    pairs: BTreeSet<Pair>,
}

impl PlanSelection {
    fn of(round: u32, prompts: &Prompts, plan: &Plan) -> Self {
        let selection = RoundSelection::of(plan, round, prompts);
        Self {
            completions: selection.pairs().map(|e| (e.prompt_id, e.completion)).collect(),
            pairs: selection.comparisons().map(|e| (e.prompt_id.clone(), unordered(&e))).collect(),
        }
    }

    fn cost(&self, plan: &Plan) -> Cost {
        let prompts: BTreeSet<&PromptId> = self.completions.iter().map(|(prompt_id, _)| prompt_id).collect();
        let comparisons = self.pairs.len() as u64;
        let (overlap, budget) = judgements_wanted(plan);
        Cost {
            completions: self.completions.len() as u64,
            prompts: prompts.len() as u64,
            comparisons,
            labels: (comparisons * overlap).min(budget),
        }
    }
}

/// Judgements that each comparison needs, and the budget of a round.
fn judgements_wanted(plan: &Plan) -> (u64, u64) {
    let feedback = plan.learning.as_ref().map(|learning| &learning.feedback);
    feedback
        .map_or((1, u64::MAX), |feedback| (u64::from(feedback.overlap), feedback.budget.unwrap_or(u64::MAX)))
}

impl RoundHistory {
    fn apply_round(&mut self, event: &RoundEvent) {
        match event {
            RoundEvent::PairSelected(e) => drop(self.selected.insert((e.prompt_id.clone(), e.completion))),
            RoundEvent::Evaluated(_) => self.decided = true,
            RoundEvent::Opened(_)
            | RoundEvent::RewardHackingSuspected(_)
            | RoundEvent::StopDecided(_)
            | RoundEvent::Closed(_) => {}
        }
    }

    fn apply_feedback(&mut self, event: &FeedbackEvent) {
        match event {
            FeedbackEvent::Requested(e) => self.requested.push((e.prompt_id.clone(), unordered(e), 0)),
            FeedbackEvent::Received(e) => {
                if let Some((.., judgements)) = self.requested.get_mut(e.comparison as usize) {
                    *judgements += 1;
                }
            }
            FeedbackEvent::Settled(_) => {}
        }
    }

    fn compared(&self, recorded: &Plan, changed: &Plan) -> RoundCompared {
        let pairs: BTreeSet<Pair> =
            self.requested.iter().map(|(prompt_id, pair, _)| (prompt_id.clone(), *pair)).collect();
        let was = if recorded.learning.is_some() {
            PlanSelection { completions: self.selected.clone(), pairs }
        } else {
            // Without feedback, both sides count the comparisons that the rule would request.
            PlanSelection {
                completions: self.selected.clone(),
                ..PlanSelection::of(self.number, &self.recorded, recorded)
            }
        };
        let would = PlanSelection::of(self.number, &self.changed, changed);
        let compared = Compared {
            recorded: was.cost(recorded),
            changed: would.cost(changed),
            labels_missing: self.labels_missing(&would, changed),
            completions: Overlap::of(&was.completions, &would.completions),
            comparisons: Overlap::of(&was.pairs, &would.pairs),
        };
        RoundCompared { round: self.number, compared, prompts: self.prompts(&was, &would) }
    }

    fn labels_missing(&self, would: &PlanSelection, changed: &Plan) -> u64 {
        let (overlap, budget) = judgements_wanted(changed);
        let known: BTreeMap<(&PromptId, [u32; 2]), u64> = self
            .requested
            .iter()
            .map(|(prompt_id, pair, judgements)| ((prompt_id, *pair), *judgements))
            .collect();
        let of = |(prompt_id, pair): &Pair| known.get(&(prompt_id, *pair)).copied().unwrap_or(0).min(overlap);
        let recorded: u64 = would.pairs.iter().map(of).sum();
        (would.pairs.len() as u64 * overlap).min(budget).saturating_sub(recorded)
    }

    fn prompts(&self, was: &PlanSelection, would: &PlanSelection) -> Vec<PromptCompared> {
        let (recorded, changed) = (by_prompt(&was.completions), by_prompt(&would.completions));
        let (recorded_pairs, changed_pairs) = (by_prompt(&was.pairs), by_prompt(&would.pairs));
        let prompts = self.changed.iter().filter_map(|(prompt_id, progress)| {
            let PromptProgress::Measured { conflict, .. } = progress else { return None };
            let compared = PromptCompared {
                prompt_id: prompt_id.clone(),
                mean_abs_pacs: conflict.mean_abs_pacs,
                kendall_tau_distance: conflict.kendall_tau_distance,
                recorded: recorded.get(prompt_id).cloned().unwrap_or_default(),
                changed: changed.get(prompt_id).cloned().unwrap_or_default(),
                recorded_comparisons: recorded_pairs.get(prompt_id).cloned().unwrap_or_default(),
                changed_comparisons: changed_pairs.get(prompt_id).cloned().unwrap_or_default(),
            };
            let nothing = compared.recorded.is_empty() && compared.changed.is_empty();
            (!nothing).then_some(compared)
        });
        prompts.collect()
    }
}

fn by_prompt<T: Copy>(chosen: &BTreeSet<(PromptId, T)>) -> BTreeMap<&PromptId, Vec<T>> {
    let mut found: BTreeMap<&PromptId, Vec<T>> = BTreeMap::new();
    for (prompt_id, of) in chosen {
        found.entry(prompt_id).or_default().push(*of);
    }
    found
}
