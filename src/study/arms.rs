//! Studies of experiments that differ in selection rule, budget and seed only.

mod memory;
mod outcome;
mod plan;
mod run;

use std::collections::BTreeMap;

use dissent_domain::analysis::{ComparisonResult, Interval, t_interval};
use dissent_domain::conflict::Rule;
use dissent_domain::feedback::Opponent;
use serde::Serialize;

pub use outcome::{ArmOutcome, JudgedRound};
pub use plan::{Arm, ArmConfig, ArmsConfig};
pub use run::run;

use super::opponents::OpponentTable;
use super::prediction::Predictions;
use super::report::line::Line;
use super::verdict::{interval, listed};

/// The figures of a rule at a budget, over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The rule.
    pub rule: Rule,
    /// The opponent of a selected completion, if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opponent: Option<Opponent>,
    /// The budget; `None` for the rules `none` and `all`.
    pub budget: Option<u64>,
    /// The number of seeds.
    pub seeds: usize,
    /// Judgements, the mean over seeds.
    pub labels: f64,
    /// The gold reward of the tuned policy on held-out prompts.
    pub gold: Option<Interval>,
    /// The share of held-out pairs of completions that the refined proxy orders wrongly.
    pub proxy_error: Option<Interval>,
    /// The share of preferences that contradict the first proxy; `None` without preferences.
    pub precision: Option<Interval>,
    /// KL divergence from the first policy, in nats per completion.
    pub kl: Option<Interval>,
}

/// The differences between two rules at the same budget, or between two opponents of a rule, paired by seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleComparison {
    /// The rule.
    pub rule: Rule,
    /// The opponent of the rule, if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opponent: Option<Opponent>,
    /// The baseline; the rule itself, with its default opponent, in a comparison of opponents.
    pub over: Rule,
    /// The budget of both; `None` against `none` or `all`.
    pub budget: Option<u64>,
    /// The gold reward of the rule minus that of the baseline.
    pub gold: Option<Interval>,
    /// The result by gold reward.
    #[serde(rename = "gold_standing")]
    pub gold_result: Option<ComparisonResult>,
    /// The share of held-out errors of the rule minus that of the baseline.
    pub errors: Option<Interval>,
    /// The result by errors: fewer errors win.
    #[serde(rename = "errors_standing")]
    pub errors_result: Option<ComparisonResult>,
}

/// The result of all experiments.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmsResult {
    /// The gold reward of the first policy and the errors of the first proxy, over seeds.
    pub before: [Option<Interval>; 2],
    /// Every rule at every budget, in the order of the configuration.
    pub points: Vec<Point>,
    /// Every conflict rule against every baseline at the same budget, and every other opponent of a rule
    /// against its default one.
    #[serde(rename = "contests")]
    pub comparisons: Vec<RuleComparison>,
    /// The rules as predictors of the proxy's errors; `None` unless an arm judged every pair of completions.
    pub predictions: Option<Predictions>,
    /// The opponents of selected completions by the proxy's errors that they find; `None` unless an arm
    /// judged every pair of completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opponents: Option<OpponentTable>,
}

impl ArmsResult {
    /// Computes the result from the outcomes of all arms, in the order of the configuration.
    #[must_use]
    pub fn of(
        outcomes: &[(Arm, ArmOutcome)],
        predictions: Option<Predictions>,
        opponents: Option<OpponentTable>,
    ) -> Self {
        let mut order: Vec<ArmKey> = Vec::new();
        let mut by_arm: BTreeMap<usize, Vec<&(Arm, ArmOutcome)>> = BTreeMap::new();
        for outcome in outcomes {
            let key = ArmKey::of(&outcome.0);
            let index = order.iter().position(|other| *other == key).unwrap_or_else(|| {
                order.push(key);
                order.len() - 1
            });
            by_arm.entry(index).or_default().push(outcome);
        }
        let points = by_arm.values().map(|of| point(of)).collect();
        let first = by_arm.values().next();
        let before =
            |of: fn(&ArmOutcome) -> Option<f64>| over_seeds(first?.iter().map(|(_, outcome)| of(outcome)));
        Self {
            before: [before(|outcome| outcome.gold_before), before(|outcome| outcome.proxy_error_before)],
            points,
            comparisons: comparisons(&order, &by_arm),
            predictions,
            opponents,
        }
    }

    /// Returns one chart line per rule: the figure at each budget, over the number of judgements.
    pub(super) fn lines(&self, figure: impl Fn(&Point) -> Option<Interval>) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for point in &self.points {
            let Some(interval) = figure(point) else { continue };
            let name = label(point.rule, point.opponent);
            let index = lines.iter().position(|line| line.name == name).unwrap_or_else(|| {
                lines.push(Line { name, points: Vec::new() });
                lines.len() - 1
            });
            lines[index].points.push((point.labels, interval));
        }
        for line in &mut lines {
            line.points.sort_by(|(x, _), (y, _)| x.total_cmp(y));
        }
        lines
    }

    /// States whether SHF-CAS won, lost or tied, one sentence per baseline and figure. Then states the same
    /// of other opponents against the default one.
    #[must_use]
    pub fn verdict(&self) -> Vec<String> {
        let against = |over: Rule| {
            let of = move |found: &&RuleComparison| is_shf_cas(found.rule) && found.over == over;
            self.comparisons.iter().filter(of).collect::<Vec<_>>()
        };
        let mut sentences = Vec::new();
        for over in [Rule::Random, Rule::Margin] {
            sentences.extend(results(&against(over), &format!("SHF-CAS against {over}")));
        }
        let opponents: Vec<&RuleComparison> =
            self.comparisons.iter().filter(|found| found.over == found.rule).collect();
        sentences.extend(results(&opponents, "Other opponents against the default one"));
        sentences
    }
}

/// Returns a sentence for each figure: the results of these comparisons. Figures without intervals are left
/// out.
fn results(comparisons: &[&RuleComparison], about: &str) -> Vec<String> {
    let sentence = |criterion: Criterion| {
        let results: Vec<String> = comparisons.iter().filter_map(|found| found.describe(criterion)).collect();
        let name = criterion.name();
        (!results.is_empty()).then(|| format!("{about}, by {name}: {}.", listed(&results)))
    };
    [Criterion::GoldReward, Criterion::Errors].into_iter().filter_map(sentence).collect()
}

/// What distinguishes the arms of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ArmKey {
    rule: Rule,
    opponent: Option<Opponent>,
    budget: Option<u64>,
}

impl ArmKey {
    fn of(arm: &Arm) -> Self {
        Self { rule: arm.rule, opponent: arm.opponent, budget: arm.budget }
    }

    /// Whether this arm is compared with the other one: a conflict rule with a baseline at the same budget,
    /// or another opponent of a rule with the default one.
    fn is_compared_with(self, other: Self) -> bool {
        let is_baseline = !self.rule.is_baseline()
            && other.rule.is_baseline()
            && (other.budget == self.budget || other.budget.is_none() || self.budget.is_none());
        let is_default = Self { opponent: None, ..self } == other && self.opponent.is_some();
        is_baseline || is_default
    }
}

/// The name of a rule with its opponent, if that is not the default.
fn label(rule: Rule, opponent: Option<Opponent>) -> String {
    let opponent = opponent.map(|opponent| format!(", opponent {}", opponent.name()));
    format!("{rule}{}", opponent.unwrap_or_default())
}

/// The figure by which two rules are compared.
#[derive(Clone, Copy)]
enum Criterion {
    GoldReward,
    Errors,
}

impl Criterion {
    fn name(self) -> &'static str {
        match self {
            Self::GoldReward => "gold reward",
            Self::Errors => "held-out errors of the proxy",
        }
    }
}

/// Whether a rule is one of SHF-CAS.
fn is_shf_cas(rule: Rule) -> bool {
    matches!(rule, Rule::Paper | Rule::Mean | Rule::Budget | Rule::Quantile | Rule::Gap)
}

impl RuleComparison {
    /// Describes the result by a criterion; `None` without an interval.
    fn describe(&self, criterion: Criterion) -> Option<String> {
        let (difference, result) = match criterion {
            Criterion::GoldReward => (self.gold?, self.gold_result?),
            Criterion::Errors => (self.errors?, self.errors_result?),
        };
        let budget = self.budget.map(|budget| format!(" at {budget}")).unwrap_or_default();
        let rule = label(self.rule, self.opponent);
        Some(format!("{} ({rule}{budget}: {})", result.name(), interval(&difference)))
    }
}

fn point(of: &[&(Arm, ArmOutcome)]) -> Point {
    let figure = |of_outcome: fn(&ArmOutcome) -> Option<f64>| {
        over_seeds(of.iter().map(|(_, outcome)| of_outcome(outcome)))
    };
    let labels: u64 = of.iter().map(|(_, outcome)| outcome.labels).sum();
    Point {
        rule: of[0].0.rule,
        opponent: of[0].0.opponent,
        budget: of[0].0.budget,
        seeds: of.len(),
        labels: labels as f64 / of.len() as f64,
        gold: figure(|outcome| outcome.gold),
        proxy_error: figure(|outcome| outcome.proxy_error),
        precision: figure(ArmOutcome::precision),
        kl: figure(|outcome| outcome.kl),
    }
}

/// Returns the interval over seeds; `None` with a single seed or if a seed lacks the figure.
fn over_seeds(values: impl Iterator<Item = Option<f64>>) -> Option<Interval> {
    t_interval(&values.collect::<Option<Vec<f64>>>()?)
}

fn comparisons(order: &[ArmKey], by_arm: &BTreeMap<usize, Vec<&(Arm, ArmOutcome)>>) -> Vec<RuleComparison> {
    let mut found = Vec::new();
    for (index, &key) in order.iter().enumerate() {
        for (other, over) in order.iter().enumerate().filter(|(_, over)| key.is_compared_with(**over)) {
            let (Some(one), Some(other)) = (by_arm.get(&index), by_arm.get(&other)) else { continue };
            let difference = |of: fn(&ArmOutcome) -> Option<f64>| paired(one, other, of);
            let gold = difference(|outcome| outcome.gold);
            let errors = difference(|outcome| outcome.proxy_error);
            let fewer = |errors: Interval| Interval {
                mean: -errors.mean,
                low: -errors.high,
                high: -errors.low,
                n: errors.n,
            };
            found.push(RuleComparison {
                rule: key.rule,
                opponent: key.opponent,
                over: over.rule,
                budget: key.budget,
                gold,
                gold_result: gold.map(|gold| ComparisonResult::of(&gold)),
                errors,
                errors_result: errors.map(|errors| ComparisonResult::of(&fewer(errors))),
            });
        }
    }
    found
}

/// Returns the interval of the differences, paired by seed.
fn paired(
    one: &[&(Arm, ArmOutcome)],
    other: &[&(Arm, ArmOutcome)],
    of: fn(&ArmOutcome) -> Option<f64>,
) -> Option<Interval> {
    let differences = one.iter().filter_map(|(arm, outcome)| {
        let (_, against) = other.iter().find(|(other, _)| other.seed == arm.seed)?;
        Some(of(outcome)? - of(against)?)
    });
    t_interval(&differences.collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests;
