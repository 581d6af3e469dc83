//! Experiments that differ in their selection rule, their budget and their seed, and in nothing else.

mod memory;
mod outcome;
mod plan;
mod run;

use std::collections::BTreeMap;

use dissent_domain::analysis::{ComparisonResult, Interval, t_interval};
use dissent_domain::conflict::Rule;
use serde::Serialize;

pub use outcome::{ArmOutcome, JudgedRound};
pub use plan::{Arm, ArmConfig, ArmsConfig};
pub use run::run;

use super::prediction::Predictions;
use super::report::Line;
use super::verdict::{interval, listed};

/// What a rule did at a budget, over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The rule.
    pub rule: Rule,
    /// Its budget; none of `none` and `all`.
    pub budget: Option<u64>,
    /// Seeds.
    pub seeds: usize,
    /// Labels that were asked for, the mean over seeds.
    pub labels: f64,
    /// The gold reward of the tuned policy on held-out prompts.
    pub gold: Option<Interval>,
    /// The share of held-out pairs that the refined proxy orders wrongly.
    pub proxy_error: Option<Interval>,
    /// The share of the preferences asked for in which the first proxy was wrong; none where nothing was
    /// asked.
    pub precision: Option<Interval>,
    /// KL divergence from the policy that it began with, in nats a completion.
    pub kl: Option<Interval>,
}

/// A rule against another at the same budget: the differences of the same seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleComparison {
    /// The one.
    pub rule: Rule,
    /// The other.
    pub over: Rule,
    /// The budget of both; none against `none` or `all`.
    pub budget: Option<u64>,
    /// By how much its gold reward is higher.
    pub gold: Option<Interval>,
    /// By that interval.
    pub gold_standing: Option<ComparisonResult>,
    /// By how much its share of held-out errors is higher.
    pub errors: Option<Interval>,
    /// By that interval: fewer errors win.
    pub errors_standing: Option<ComparisonResult>,
}

/// What the experiments came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmsResult {
    /// Before anything was learnt, over seeds: the gold reward of the policy, and the errors of the proxy.
    pub before: [Option<Interval>; 2],
    /// Every rule at every budget, as the configuration lists them.
    pub points: Vec<Point>,
    /// Every use of conflict against every baseline at the same budget.
    pub contests: Vec<RuleComparison>,
    /// How well rules predict the proxy's errors, where an arm asked about every pair.
    pub predictions: Option<Predictions>,
}

impl ArmsResult {
    /// From the outcomes of all arms, in the order of the configuration.
    #[must_use]
    pub fn of(outcomes: &[(Arm, ArmOutcome)], predictions: Option<Predictions>) -> Self {
        let mut order: Vec<(Rule, Option<u64>)> = Vec::new();
        let mut by_arm: BTreeMap<usize, Vec<&(Arm, ArmOutcome)>> = BTreeMap::new();
        for outcome in outcomes {
            let key = (outcome.0.rule, outcome.0.budget);
            let place = order.iter().position(|known| *known == key).unwrap_or_else(|| {
                order.push(key);
                order.len() - 1
            });
            by_arm.entry(place).or_default().push(outcome);
        }
        let points = by_arm.values().map(|of| point(of)).collect();
        let first = by_arm.values().next();
        let before =
            |of: fn(&ArmOutcome) -> Option<f64>| over_seeds(first?.iter().map(|(_, outcome)| of(outcome)));
        Self {
            before: [before(|outcome| outcome.gold_before), before(|outcome| outcome.proxy_error_before)],
            points,
            contests: contests(&order, &by_arm),
            predictions,
        }
    }

    /// A line for every rule: what `of` says of each of its points against the labels.
    pub(super) fn lines(&self, of: impl Fn(&Point) -> Option<Interval>) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for point in &self.points {
            let Some(interval) = of(point) else { continue };
            let name = point.rule.name();
            let place = lines.iter().position(|line| line.name == name).unwrap_or_else(|| {
                lines.push(Line { name: name.to_owned(), points: Vec::new() });
                lines.len() - 1
            });
            lines[place].points.push((point.labels, interval));
        }
        for line in &mut lines {
            line.points.sort_by(|(x, _), (y, _)| x.total_cmp(y));
        }
        lines
    }

    /// Whether SHF-CAS won, lost or tied, in sentences: the answer first.
    #[must_use]
    pub fn verdict(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for over in [Rule::Random, Rule::Margin] {
            let against: Vec<&RuleComparison> = self
                .contests
                .iter()
                .filter(|contest| is_shf_cas(contest.rule) && contest.over == over)
                .collect();
            let named = [("gold reward", 0), ("held-out errors of the proxy", 1)];
            for (what, which) in named {
                let standings: Vec<String> =
                    against.iter().filter_map(|contest| contest.sentence(which)).collect();
                if !standings.is_empty() {
                    sentences.push(format!("Against {over} by {what}, SHF-CAS {}.", listed(&standings)));
                }
            }
        }
        sentences
    }
}

/// The rules that are SHF-CAS's own.
fn is_shf_cas(rule: Rule) -> bool {
    matches!(rule, Rule::Paper | Rule::Mean | Rule::Budget | Rule::Quantile | Rule::Gap)
}

impl RuleComparison {
    /// Of the gold reward (0) or of the errors (1); none where there is no interval.
    fn sentence(&self, which: usize) -> Option<String> {
        let (difference, standing) = if which == 0 {
            (self.gold?, self.gold_standing?)
        } else {
            (self.errors?, self.errors_standing?)
        };
        let budget = self.budget.map(|budget| format!(" at {budget}")).unwrap_or_default();
        Some(format!("{} ({}{budget}: {})", standing.name(), self.rule, interval(&difference)))
    }
}

fn point(of: &[&(Arm, ArmOutcome)]) -> Point {
    let figure = |of_outcome: fn(&ArmOutcome) -> Option<f64>| {
        over_seeds(of.iter().map(|(_, outcome)| of_outcome(outcome)))
    };
    let labels: u64 = of.iter().map(|(_, outcome)| outcome.labels).sum();
    Point {
        rule: of[0].0.rule,
        budget: of[0].0.budget,
        seeds: of.len(),
        labels: labels as f64 / of.len() as f64,
        gold: figure(|outcome| outcome.gold),
        proxy_error: figure(|outcome| outcome.proxy_error),
        precision: figure(ArmOutcome::precision),
        kl: figure(|outcome| outcome.kl),
    }
}

/// None if a seed has no figure, or there is but one.
fn over_seeds(values: impl Iterator<Item = Option<f64>>) -> Option<Interval> {
    t_interval(&values.collect::<Option<Vec<f64>>>()?)
}

fn contests(
    order: &[(Rule, Option<u64>)],
    by_arm: &BTreeMap<usize, Vec<&(Arm, ArmOutcome)>>,
) -> Vec<RuleComparison> {
    let mut found = Vec::new();
    for (place, &(rule, budget)) in order.iter().enumerate().filter(|(_, (rule, _))| !rule.is_baseline()) {
        for (other, &(over, _)) in order.iter().enumerate().filter(|(_, (over, of))| {
            over.is_baseline() && (*of == budget || of.is_none() || budget.is_none())
        }) {
            let (Some(one), Some(other)) = (by_arm.get(&place), by_arm.get(&other)) else { continue };
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
                rule,
                over,
                budget,
                gold,
                gold_standing: gold.map(|gold| ComparisonResult::of(&gold)),
                errors,
                errors_standing: errors.map(|errors| ComparisonResult::of(&fewer(errors))),
            });
        }
    }
    found
}

/// The differences of the seeds that both have.
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
