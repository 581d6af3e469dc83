//! The lift of each rule.

use std::collections::BTreeSet;

use serde::Serialize;

use super::estimate::{Estimate, Stratum, Weighted};
use super::population::{Population, RoundPairs};
use crate::analysis::{Interval, corrected_level};
use crate::conflict::Rule;

/// Fewest uniform draws among the pairs that a rule would have asked about, for an estimate of their errors.
const DRAWS_MIN: usize = 5;
/// Largest share of a rule's pairs of which nothing needs to be known.
const UNKNOWN_MAX: f64 = 0.1;
const LEVEL: f64 = 0.95;
/// The choice of a rule that asks about nothing.
static NOTHING: BTreeSet<usize> = BTreeSet::new();

/// What is known of a rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleLift {
    /// The rule.
    pub rule: Rule,
    /// AUROC of its score for the errors of the proxy, over all pairs; `None` if it scores none, or without
    /// errors.
    pub auroc: Option<Interval>,
    /// Its AUROC less that of the smallest reward margin.
    pub auroc_versus_margin: Option<Interval>,
    /// Number of pairs that it asks about with as many labels.
    pub pairs: usize,
    /// Errors a label among those pairs.
    pub errors: ErrorsFound,
    /// Errors a label, less those of random pairs.
    pub versus_random: Option<Interval>,
    /// Errors a label, less those of the smallest margins.
    pub versus_margin: Option<Interval>,
    /// Whether the difference from random pairs is clear: its interval, corrected for the rules in the table,
    /// excludes 0.
    pub is_clear: bool,
}

/// Errors a label of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorsFound {
    /// The estimate.
    Estimated(Interval),
    /// Too few of the rule's pairs are judged.
    TooFewDraws(TooFewDraws),
    /// The rule asks about nothing.
    Nothing,
}

/// Why the errors of a rule are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TooFewDraws {
    /// Pairs of the rule that the rule in use did not select.
    pub others: usize,
    /// Judged pairs of the audit among them.
    pub drawn: usize,
    /// Judged pairs of the audit that would draw enough of them, in addition to those so far.
    pub more_audited: u64,
}

/// The judged pairs of a population, as the estimates need them.
pub(super) struct Judged<'a> {
    population: &'a Population,
    in_use: Rule,
    /// All judged pairs, round by round. Scores are set for each rule.
    pairs: Vec<Weighted>,
    /// The variance of each pair's error.
    variances: Vec<f64>,
}

impl<'a> Judged<'a> {
    pub(super) fn of(population: &'a Population, in_use: Rule) -> Self {
        let mut pairs = Vec::new();
        for (group, round) in population.rounds.iter().enumerate() {
            let count =
                |is_uniform| round.judged.iter().filter(|judged| judged.is_uniform == is_uniform).count();
            let sizes = [round.selected, round.pairs - round.selected];
            let counts = [count(false), count(true)];
            let weight = |at: usize| sizes[at] as f64 / counts[at].max(1) as f64;
            let joint = |at: usize| {
                let (size, judged) = (sizes[at] as f64, counts[at] as f64);
                if judged > 1.0 && size > 0.0 { (size - 1.0) * judged / (size * (judged - 1.0)) } else { 1.0 }
            };
            pairs.extend(round.judged.iter().map(|judged| {
                let stratum = usize::from(judged.is_uniform);
                let (weight, joint) = (weight(stratum), joint(stratum));
                let (cluster, error) = (judged.cluster, judged.error);
                Weighted { cluster, error, weight, group, stratum, joint, score: 0.0 }
            }));
        }
        // Agresti and Caffo (2000): one more error and one more pair without, so that no share is sure.
        let [selected, audited] = [false, true].map(|is_uniform| {
            let count = population.judged(is_uniform).count() as f64;
            let share = (population.errors(is_uniform) + 1.0) / (count + 2.0);
            share * (1.0 - share) * count / (count + 2.0)
        });
        let all = population.rounds.iter().flat_map(|round| &round.judged);
        let variances = all.map(|judged| if judged.is_uniform { audited } else { selected }).collect();
        Self { population, in_use, pairs, variances }
    }

    /// The errors a label of random pairs.
    pub(super) fn random(&self) -> Interval {
        let all = self.overall();
        all.map_or(Interval { mean: 0.0, low: 0.0, high: 1.0, n: 0 }, |all| all.interval_of_share(LEVEL))
    }

    /// The rows of all rules that ask about something, the rule in use first.
    pub(super) fn table(&self) -> Vec<RuleLift> {
        let others = Rule::ALL.into_iter().filter(|rule| {
            *rule != self.in_use && !matches!(rule, Rule::None | Rule::All | Rule::Random | Rule::Rso)
        });
        let rules: Vec<Rule> = std::iter::once(self.in_use).chain(others).collect();
        let (margin_auroc, margin) = (self.auroc(Rule::Margin), self.chosen(Rule::Margin).ok());
        let all = self.overall();
        let known = rules.iter().filter(|rule| self.chosen(**rule).is_ok()).count();
        let row = |rule: Rule| {
            let (of_rule, auroc) = (self.chosen(rule), self.auroc(rule));
            let beside = |other: &Option<Estimate>| Some(of_rule.as_ref().ok()?.minus(other.as_ref()?));
            let versus_random = beside(&all);
            let is_margin = rule == Rule::Margin;
            RuleLift {
                rule,
                auroc_versus_margin: auroc
                    .as_ref()
                    .zip(margin_auroc.as_ref())
                    .filter(|_| !is_margin)
                    .map(|(auroc, margin)| auroc.minus(margin).interval(LEVEL)),
                auroc: auroc.map(|auroc| auroc.interval_of_share(LEVEL)),
                pairs: self.population.rounds.iter().map(|round| self.pairs_of(round, rule).len()).sum(),
                versus_random: versus_random.as_ref().map(|difference| difference.interval(LEVEL)),
                versus_margin: beside(&margin)
                    .filter(|_| !is_margin)
                    .map(|difference| difference.interval(LEVEL)),
                is_clear: versus_random.is_some_and(|difference| {
                    let corrected = difference.interval(corrected_level(known));
                    corrected.low > 0.0 || corrected.high < 0.0
                }),
                errors: match of_rule {
                    Ok(estimate) => ErrorsFound::Estimated(estimate.interval_of_share(LEVEL)),
                    Err(unknown) => unknown,
                },
            }
        };
        rules.into_iter().map(row).collect()
    }

    /// The pairs that a rule asks about: as recorded for the rule in use.
    fn pairs_of(&self, round: &'a RoundPairs, rule: Rule) -> &'a BTreeSet<usize> {
        if rule == self.in_use { &round.in_use } else { round.choices.get(rule.name()).unwrap_or(&NOTHING) }
    }

    /// The share of errors among the pairs that a rule asks about.
    fn chosen(&self, rule: Rule) -> Result<Estimate, ErrorsFound> {
        let (mut of_rule, mut others, mut expected) = (0, 0, 0.0);
        let (mut selected, mut drawn) = (Vec::new(), Vec::new());
        let mut place = 0;
        for round in &self.population.rounds {
            let pairs = self.pairs_of(round, rule);
            let outside = pairs.difference(&round.in_use).count();
            of_rule += pairs.len();
            others += outside;
            for judged in &round.judged {
                if pairs.contains(&judged.pair) {
                    if judged.is_uniform { drawn.push(place) } else { selected.push(place) }
                }
                place += 1;
            }
            let uniform = round.judged.iter().filter(|judged| judged.is_uniform).count();
            expected += uniform as f64 * outside as f64 / (round.pairs - round.selected).max(1) as f64;
        }
        if of_rule == 0 {
            return Err(ErrorsFound::Nothing);
        }
        let is_small = others as f64 <= UNKNOWN_MAX * of_rule as f64;
        if drawn.len() < DRAWS_MIN && !is_small {
            let audited = self.population.audited() as u64;
            let wanted = (DRAWS_MIN as f64 / expected.max(1e-9) * audited as f64).ceil();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of pairs")]
            let more_audited = (wanted.min(1e12) as u64).saturating_sub(audited).max(1);
            return Err(ErrorsFound::TooFewDraws(TooFewDraws { others, drawn: drawn.len(), more_audited }));
        }
        self.mean([of_rule - others, others], [selected, drawn]).ok_or(ErrorsFound::Nothing)
    }

    /// The share of errors among all pairs. `None` without judgements.
    fn overall(&self) -> Option<Estimate> {
        let rounds = &self.population.rounds;
        let selected: usize = rounds.iter().map(|round| round.selected).sum();
        let all = rounds.iter().flat_map(|round| &round.judged).map(|judged| judged.is_uniform).zip(0..);
        let (mut of_rule, mut drawn) = (Vec::new(), Vec::new());
        for (is_uniform, place) in all {
            if is_uniform { drawn.push(place) } else { of_rule.push(place) }
        }
        self.mean([selected, self.population.pairs() - selected], [of_rule, drawn])
    }

    fn mean(&self, sizes: [usize; 2], judged: [Vec<usize>; 2]) -> Option<Estimate> {
        let strata: Vec<Stratum> =
            sizes.into_iter().zip(judged).map(|(size, judged)| Stratum { size, judged }).collect();
        Estimate::mean(&strata, &self.pairs, &self.variances, self.population.clusters)
    }

    fn auroc(&self, rule: Rule) -> Option<Estimate> {
        let rounds = &self.population.rounds;
        if !rounds.iter().all(|round| round.scores.contains_key(rule.name())) {
            return None;
        }
        let score = |round: &'a RoundPairs| {
            let scores = &round.scores[rule.name()];
            round.judged.iter().map(move |judged| scores[judged.pair])
        };
        let scores = rounds.iter().flat_map(score);
        let pairs: Vec<Weighted> =
            self.pairs.iter().zip(scores).map(|(pair, score)| Weighted { score, ..*pair }).collect();
        Estimate::auroc(&pairs, self.population.clusters)
    }
}
