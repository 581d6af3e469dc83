//! Selection for feedback: completions by threshold, quantile or budget of their conflict, pairs of
//! completions by their scores, and the baselines.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::pairs::{Pair, PairScore, ScoredCompletions, is_discordant, pair_scores, pairs};
use super::{Conflict, quantile, z_scores};
use crate::training::rso;

/// Selection rule. The rules `paper` to `random` select completions, and each selected completion is compared
/// with an opponent. The other rules select the pairs to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The rule of the paper: the completions with |PACS| ≥ δ of prompts with a Kendall-tau distance ≥ τ.
    #[default]
    Paper,
    /// The rule of the authors' code: every completion of the prompts with mean|PACS| > δ.
    Mean,
    /// The `budget` completions with the largest |PACS|.
    Budget,
    /// The completions whose |PACS| is at or above the `quantile` of all |PACS|.
    Quantile,
    /// The baseline: `budget` completions, drawn uniformly.
    Random,
    /// The `budget` pairs with the smallest reward margin |r₁ − r₂|.
    Margin,
    /// The `budget` pairs with the largest difference of PACS.
    Gap,
    /// The pairs with opposite orders by policy and proxy, by descending difference of PACS.
    Discordant,
    /// The `budget` pairs with the largest difference of PACS among those of about the same margin.
    EqualMargin,
    /// The `budget` pairs with the highest sum of two ranks: by difference of PACS, and by small margin.
    GapAndMargin,
    /// The `budget` pairs in which the policy's preference most outweighs the opposite preference of the
    /// proxy.
    Doubt,
    /// Pairs of completions kept by rejection sampling from the proxy (arXiv 2309.06657).
    Rso,
    /// Every pair: full feedback.
    All,
    /// Nothing: no feedback.
    None,
}

impl Rule {
    /// Every rule, in the order of help texts.
    pub const ALL: [Self; 14] = [
        Self::Paper,
        Self::Mean,
        Self::Budget,
        Self::Quantile,
        Self::Random,
        Self::Margin,
        Self::Gap,
        Self::Discordant,
        Self::EqualMargin,
        Self::GapAndMargin,
        Self::Doubt,
        Self::Rso,
        Self::All,
        Self::None,
    ];

    /// The name of the rule in configuration files, in events and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Mean => "mean",
            Self::Budget => "budget",
            Self::Quantile => "quantile",
            Self::Random => "random",
            Self::Margin => "margin",
            Self::Gap => "gap",
            Self::Discordant => "discordant",
            Self::EqualMargin => "equal_margin",
            Self::GapAndMargin => "gap_and_margin",
            Self::Doubt => "doubt",
            Self::Rso => "rso",
            Self::All => "all",
            Self::None => "none",
        }
    }

    /// The score by which the rule ranks pairs. `None` for rules that select completions, draw at random, or
    /// select nothing.
    #[must_use]
    pub fn pair_score(self) -> Option<PairScore> {
        match self {
            Self::Margin => Some(PairScore::Margin),
            Self::Gap | Self::Discordant | Self::All => Some(PairScore::Gap),
            Self::EqualMargin => Some(PairScore::EqualMargin),
            Self::GapAndMargin => Some(PairScore::GapAndMargin),
            Self::Doubt => Some(PairScore::Doubt),
            Self::Paper
            | Self::Mean
            | Self::Budget
            | Self::Quantile
            | Self::Random
            | Self::Rso
            | Self::None => None,
        }
    }

    /// Whether the rule selects pairs rather than completions.
    #[must_use]
    pub fn selects_pairs(self) -> bool {
        match self {
            Self::Paper | Self::Mean | Self::Budget | Self::Quantile | Self::Random => false,
            Self::Margin
            | Self::Gap
            | Self::Discordant
            | Self::EqualMargin
            | Self::GapAndMargin
            | Self::Doubt
            | Self::Rso
            | Self::All
            | Self::None => true,
        }
    }

    /// The unit of selection, in the plural.
    #[must_use]
    pub fn unit(self) -> &'static str {
        if self.selects_pairs() { "pairs" } else { "completions" }
    }

    /// Whether the rule needs a budget.
    #[must_use]
    pub fn needs_budget(self) -> bool {
        match self {
            Self::Budget
            | Self::Random
            | Self::Margin
            | Self::Gap
            | Self::EqualMargin
            | Self::GapAndMargin
            | Self::Doubt => true,
            Self::Paper
            | Self::Mean
            | Self::Quantile
            | Self::Discordant
            | Self::Rso
            | Self::All
            | Self::None => false,
        }
    }

    /// Whether the rule is a baseline without conflict: thresholds do not apply to it.
    #[must_use]
    pub fn is_baseline(self) -> bool {
        match self {
            Self::Random | Self::Margin | Self::Rso | Self::All | Self::None => true,
            Self::Paper
            | Self::Mean
            | Self::Budget
            | Self::Quantile
            | Self::Gap
            | Self::Discordant
            | Self::EqualMargin
            | Self::GapAndMargin
            | Self::Doubt => false,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Rule {
    type Err = SelectionError;

    fn from_str(name: &str) -> Result<Self, SelectionError> {
        let known = Self::ALL.into_iter().find(|rule| rule.name() == name);
        known.ok_or_else(|| SelectionError::UnknownRule(name.to_owned()))
    }
}

fn known_rules() -> String {
    Rule::ALL.map(Rule::name).join(", ")
}

/// Invalid selection settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelectionError {
    /// A name of no rule.
    #[error("unknown selection rule `{0}`: use one of {rules}", rules = known_rules())]
    UnknownRule(String),
    /// A setting is outside its range.
    #[error("{name} = {value} is out of range: use {range}")]
    OutOfRange {
        /// The setting's name.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The allowed range.
        range: &'static str,
    },
    /// A rule needs a budget, and none is set.
    #[error("the rule `{0}` needs a budget: the number of {unit} to select", unit = .0.unit())]
    NoBudget(Rule),
}

/// The rule and its parameters. A threshold that is set applies to every rule except the baselines (`random`,
/// `margin`, `rso`, `all`, `none`). One that is unset has the default of the rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionSettings {
    /// The rule.
    pub rule: Rule,
    /// δ ≥ 0: the smallest |PACS| of a selected completion; for a pair, the larger |PACS| counts. For
    /// `mean`, mean|PACS| of the prompt must exceed it. Unset: 1 for `paper` and `mean`, 0 for the others.
    pub delta: Option<f64>,
    /// τ in [0, 1]: the smallest Kendall-tau distance of a prompt to select from. Unset: 0.5 for `paper`, 0
    /// for the others.
    pub tau: Option<f64>,
    /// Largest number of completions or pairs to select, over all prompts. Some rules need it
    /// ([`Rule::needs_budget`]). Others then keep those with the largest |PACS| or difference of PACS.
    pub budget: Option<u64>,
    /// Q in [0, 1], for the rule `quantile`: the smallest |PACS| of a selected completion is this quantile of
    /// all |PACS|.
    pub quantile: f64,
}

impl Default for SelectionSettings {
    fn default() -> Self {
        Self { rule: Rule::default(), delta: None, tau: None, budget: None, quantile: 0.9 }
    }
}

impl SelectionSettings {
    /// Checks the range of every setting, and that a needed budget is set.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn validate(&self) -> Result<(), SelectionError> {
        let check = |ok: bool, name, value, range| {
            if ok { Ok(()) } else { Err(SelectionError::OutOfRange { name, value, range }) }
        };
        let unit = 0.0..=1.0;
        if let Some(delta) = self.delta {
            check((0.0..f64::INFINITY).contains(&delta), "delta", delta, "a finite number, 0 or more")?;
        }
        if let Some(tau) = self.tau {
            check(unit.contains(&tau), "tau", tau, "a Kendall-tau distance, 0 to 1")?;
        }
        check(unit.contains(&self.quantile), "quantile", self.quantile, "0 to 1")?;
        let lacks_budget = self.rule.needs_budget() && self.budget.is_none();
        if lacks_budget { Err(SelectionError::NoBudget(self.rule)) } else { Ok(()) }
    }

    /// The effective δ.
    #[must_use]
    pub fn effective_delta(&self) -> f64 {
        self.delta.unwrap_or(match self.rule {
            Rule::Paper | Rule::Mean => 1.0,
            Rule::Budget
            | Rule::Quantile
            | Rule::Random
            | Rule::Margin
            | Rule::Gap
            | Rule::Discordant
            | Rule::EqualMargin
            | Rule::GapAndMargin
            | Rule::Doubt
            | Rule::Rso
            | Rule::All
            | Rule::None => 0.0,
        })
    }

    /// The effective τ.
    #[must_use]
    pub fn effective_tau(&self) -> f64 {
        self.tau.unwrap_or(match self.rule {
            Rule::Paper => 0.5,
            Rule::Mean
            | Rule::Budget
            | Rule::Quantile
            | Rule::Random
            | Rule::Margin
            | Rule::Gap
            | Rule::Discordant
            | Rule::EqualMargin
            | Rule::GapAndMargin
            | Rule::Doubt
            | Rule::Rso
            | Rule::All
            | Rule::None => 0.0,
        })
    }
}

/// The selection from each prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The selected completion indices per prompt, ascending.
    pub completions: Vec<Vec<usize>>,
    /// The pairs to compare per prompt, in the order of the rule; `completions` are those of the pairs.
    /// `None` for a rule that selects completions: their opponents are chosen later.
    pub pairs: Option<Vec<Vec<[usize; 2]>>>,
}

impl Selection {
    fn of_pairs(prompts: usize, selected: impl Iterator<Item = Pair>) -> Self {
        let mut completions = vec![Vec::new(); prompts];
        let mut pairs = vec![Vec::new(); prompts];
        for Pair { prompt, first, second } in selected {
            pairs[prompt].push([first, second]);
            completions[prompt].extend([first, second]);
        }
        for indices in &mut completions {
            indices.sort_unstable();
            indices.dedup();
        }
        Self { completions, pairs: Some(pairs) }
    }
}

/// Selects from prompts in prompt order, which breaks ties. Degenerate prompts have no selection. Only the
/// rules `random` and `rso` use `seed`; the same seed and the same prompts give the same selection. Validate
/// the settings first ([`SelectionSettings::validate`]); a missing budget is no limit.
///
/// ```
/// use dissent_domain::conflict::{Rule, ScoredCompletions, SelectionSettings, measure, select};
///
/// let (rewards, logprobs) = ([1.0, 1.0, 2.0, 3.0], [-1.0, -2.0, -2.0, -4.0]);
/// let conflict = measure(&rewards, &logprobs).unwrap();
/// let prompts = [ScoredCompletions { conflict: &conflict, rewards: &rewards, left_out: &[] }];
/// let settings = SelectionSettings { rule: Rule::Budget, budget: Some(2), ..SelectionSettings::default() };
/// // |PACS| is largest for the completions 3 (3.11) and 0 (2.05).
/// assert_eq!(select(&settings, &prompts, 0).completions, [[0, 3]]);
/// ```
#[must_use]
pub fn select(settings: &SelectionSettings, prompts: &[ScoredCompletions<'_>], seed: u64) -> Selection {
    let budget = settings.budget.map_or(usize::MAX, |budget| usize::try_from(budget).unwrap_or(usize::MAX));
    match (settings.rule, settings.rule.pair_score()) {
        (Rule::Rso, _) => {
            Selection::of_pairs(prompts.len(), kept_pairs(prompts, seed).into_iter().take(budget))
        }
        (_, Some(score)) => {
            let ranked = ranked_pairs(settings, score, prompts);
            Selection::of_pairs(prompts.len(), ranked.into_iter().take(budget))
        }
        (Rule::None, None) => Selection::of_pairs(prompts.len(), std::iter::empty()),
        (_, None) => Selection { completions: select_completions(settings, prompts, seed), pairs: None },
    }
}

/// Returns the score by which a rule prefers each of these pairs: the higher, the sooner it asks about the
/// pair. A pair that a threshold excludes has −∞. A rule that selects completions prefers the pair with the
/// larger |PACS|, and `mean` the prompt with the larger mean |PACS|. `None` for a rule that prefers none.
#[must_use]
pub fn rule_scores(
    settings: &SelectionSettings,
    prompts: &[ScoredCompletions<'_>],
    pairs: &[Pair],
) -> Option<Vec<f64>> {
    let scores = match (settings.rule, settings.rule.pair_score()) {
        (Rule::All, _) => return None,
        (_, Some(score)) => pair_scores(score, prompts, pairs),
        (Rule::Paper | Rule::Budget | Rule::Quantile, None) => {
            pair_scores(PairScore::LargestPacs, prompts, pairs)
        }
        (Rule::Mean, None) => pairs.iter().map(|pair| prompts[pair.prompt].conflict.mean_abs_pacs).collect(),
        (_, None) => return None,
    };
    let passes = passing(settings, prompts);
    Some(
        scores
            .into_iter()
            .zip(pairs)
            .map(|(score, pair)| if passes(pair) { score } else { f64::NEG_INFINITY })
            .collect(),
    )
}

/// Returns whether a pair passes the thresholds of a rule.
fn passing<'a>(
    settings: &'a SelectionSettings,
    prompts: &'a [ScoredCompletions<'a>],
) -> impl Fn(&Pair) -> bool + 'a {
    let (delta, tau) = (settings.effective_delta(), settings.effective_tau());
    let z: Vec<Vec<f64>> =
        prompts.iter().map(|scored| z_scores(scored.rewards).unwrap_or_default()).collect();
    move |pair| {
        let scored = &prompts[pair.prompt];
        let pacs = &scored.conflict.pacs;
        let has_conflict = if settings.rule == Rule::Mean {
            scored.conflict.mean_abs_pacs > delta
        } else {
            pacs[pair.first].abs().max(pacs[pair.second].abs()) >= delta
        };
        let is_wanted = settings.rule != Rule::Discordant || is_discordant(scored, &z[pair.prompt], *pair);
        settings.rule.is_baseline() || (is_wanted && has_conflict && is_distant(scored.conflict, tau))
    }
}

/// Returns the pairs that pass the thresholds, by descending score; equal scores stay in prompt order.
fn ranked_pairs(
    settings: &SelectionSettings,
    score: PairScore,
    prompts: &[ScoredCompletions<'_>],
) -> Vec<Pair> {
    let all = pairs(prompts);
    let scores = pair_scores(score, prompts, &all);
    let passes = passing(settings, prompts);
    let mut ranked: Vec<(f64, Pair)> = scores.into_iter().zip(all).filter(|(_, pair)| passes(pair)).collect();
    ranked.sort_by(|(x, _), (y, _)| y.total_cmp(x));
    ranked.into_iter().map(|(_, pair)| pair).collect()
}

/// β of rejection sampling, in standard deviations of the rewards of a prompt, because the scale of a reward
/// model is arbitrary.
const RSO_BETA: f64 = 0.5;

/// Returns pairs of completions in the order in which rejection sampling keeps them. The first pair of every
/// prompt comes first, with the prompts in random order; then the second of every prompt, and so on.
fn kept_pairs(prompts: &[ScoredCompletions<'_>], seed: u64) -> Vec<Pair> {
    let mut found = Vec::new();
    let eligible: Vec<Candidate> = (0..prompts.len())
        .filter(|&prompt| !prompts[prompt].conflict.degenerate)
        .map(|prompt| Candidate { prompt, completion: 0, abs_pacs: 0.0 })
        .collect();
    for Candidate { prompt, .. } in shuffled(eligible, seed) {
        let kept: Vec<usize> = (0..prompts[prompt].rewards.len())
            .filter(|&completion| prompts[prompt].is_kept(completion))
            .collect();
        let z = z_scores(prompts[prompt].rewards).unwrap_or_default();
        let z: Vec<f64> = kept.iter().filter_map(|&completion| z.get(completion).copied()).collect();
        let mut draws = [0; 32];
        draws[..8].copy_from_slice(&seed.to_le_bytes());
        draws[8..16].copy_from_slice(&(prompt as u64).to_le_bytes());
        // Sampling fails only for rewards that are not finite; these have a measured conflict.
        let accepted = rso::accepted(&z, RSO_BETA, z.len(), draws).unwrap_or_default();
        found.extend(accepted.chunks_exact(2).enumerate().map(|(turn, two)| {
            let (one, other) = (kept[two[0]], kept[two[1]]);
            (turn, Pair { prompt, first: one.min(other), second: one.max(other) })
        }));
    }
    // A stable sort: within a turn, prompts stay in their random order.
    found.sort_by_key(|(turn, _)| *turn);
    found.into_iter().map(|(_, pair)| pair).collect()
}

/// Returns the selected completion indices per prompt, ascending, by a rule that selects completions.
fn select_completions(
    settings: &SelectionSettings,
    prompts: &[ScoredCompletions<'_>],
    seed: u64,
) -> Vec<Vec<usize>> {
    let mut candidates = match settings.rule {
        Rule::Random => shuffled(candidates(prompts, |_| true), seed),
        Rule::Mean => {
            let delta = settings.effective_delta();
            let tau = settings.effective_tau();
            let exceeds = |conflict: &Conflict| conflict.mean_abs_pacs > delta;
            candidates(prompts, |conflict| is_distant(conflict, tau) && exceeds(conflict))
        }
        Rule::Paper | Rule::Budget | Rule::Quantile => above_thresholds(settings, prompts),
        Rule::Margin
        | Rule::Gap
        | Rule::Discordant
        | Rule::EqualMargin
        | Rule::GapAndMargin
        | Rule::Doubt
        | Rule::Rso
        | Rule::All
        | Rule::None => Vec::new(),
    };
    if let Some(budget) = settings.budget {
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        if settings.rule != Rule::Random && budget < candidates.len() {
            // A stable sort: equal |PACS| stay in prompt order.
            candidates.sort_by(|x, y| y.abs_pacs.total_cmp(&x.abs_pacs));
        }
        candidates.truncate(budget);
    }
    let mut selected = vec![Vec::new(); prompts.len()];
    for candidate in candidates {
        if let Some(indices) = selected.get_mut(candidate.prompt) {
            indices.push(candidate.completion);
        }
    }
    for indices in &mut selected {
        indices.sort_unstable();
    }
    selected
}

/// A completion that may be selected, by position.
struct Candidate {
    prompt: usize,
    completion: usize,
    abs_pacs: f64,
}

/// Returns the completions of non-degenerate prompts that pass `keep`, in prompt order, without those left
/// out.
fn candidates(prompts: &[ScoredCompletions<'_>], keep: impl Fn(&Conflict) -> bool) -> Vec<Candidate> {
    let kept =
        prompts.iter().enumerate().filter(|(_, scored)| !scored.conflict.degenerate && keep(scored.conflict));
    kept.flat_map(|(prompt, scored)| {
        let pacs = scored.conflict.pacs.iter().enumerate();
        pacs.filter(|(completion, _)| scored.is_kept(*completion)).map(move |(completion, pacs)| Candidate {
            prompt,
            completion,
            abs_pacs: pacs.abs(),
        })
    })
    .collect()
}

fn is_distant(conflict: &Conflict, tau: f64) -> bool {
    conflict.kendall_tau_distance.is_some_and(|distance| distance >= tau)
}

fn above_thresholds(settings: &SelectionSettings, prompts: &[ScoredCompletions<'_>]) -> Vec<Candidate> {
    let tau = settings.effective_tau();
    let mut delta = settings.effective_delta();
    if settings.rule == Rule::Quantile {
        // The quantile of all measured completions, not only of prompts that pass τ.
        let mut all: Vec<f64> =
            candidates(prompts, |_| true).iter().map(|candidate| candidate.abs_pacs).collect();
        all.sort_unstable_by(f64::total_cmp);
        delta = delta.max(quantile(&all, settings.quantile).unwrap_or(0.0));
    }
    let mut candidates = candidates(prompts, |conflict| is_distant(conflict, tau));
    candidates.retain(|candidate| candidate.abs_pacs >= delta);
    candidates
}

/// Shuffles by a random 64-bit key for each item, drawn from `seed`. The result depends on the stream of the
/// generator alone, not on the version of a library shuffle.
pub(super) fn shuffled<T>(items: Vec<T>, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut keyed: Vec<_> = items.into_iter().map(|item| (rng.next_u64(), item)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests;
