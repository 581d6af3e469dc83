//! Which question–answer pairs go to people: the most conflicted, by threshold, quantile or budget.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::{Conflict, quantile};

/// How question–answer pairs are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The paper's: in prompts with Kendall-tau distance ≥ τ, the answers with |PACS| ≥ δ.
    #[default]
    Paper,
    /// The authors' code: every answer of the prompts with mean|PACS| > δ.
    Mean,
    /// The `budget` answers with the largest |PACS|.
    Budget,
    /// The answers whose |PACS| is at or above the `quantile` of all |PACS|.
    Quantile,
    /// `budget` answers drawn uniformly: the fair baseline for the others.
    Random,
}

impl Rule {
    /// Every rule, in the order in which they are listed to people.
    pub const ALL: [Self; 5] = [Self::Paper, Self::Mean, Self::Budget, Self::Quantile, Self::Random];

    /// The rule's name, as in configuration files, in events and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Mean => "mean",
            Self::Budget => "budget",
            Self::Quantile => "quantile",
            Self::Random => "random",
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

/// Settings under which nothing can be selected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelectionError {
    /// Not the name of a rule.
    #[error("unknown selection rule `{0}`: use paper, mean, budget, quantile or random")]
    UnknownRule(String),
    /// A setting outside its range.
    #[error("{name} = {value} is out of range: it must be {range}")]
    OutOfRange {
        /// The setting's name.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The range it must lie in.
        range: &'static str,
    },
    /// A rule that selects a number of answers was not told how many.
    #[error("the rule `{0}` needs a budget: the number of answers to select")]
    NoBudget(Rule),
}

/// The rule and its numbers. A threshold that is set applies whatever the rule (but for `random`); one that is
/// not set takes the rule's default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectionSettings {
    /// The rule.
    pub rule: Rule,
    /// δ ≥ 0: the least |PACS| of a selected answer; for `mean`, what the prompt's mean|PACS| must exceed.
    /// Unset: 1 for `paper` and `mean`, 0 for the others.
    pub delta: Option<f64>,
    /// τ in [0, 1]: the least Kendall-tau distance of a prompt to select from. Unset: 0.5 for `paper`, 0 for
    /// the others.
    pub tau: Option<f64>,
    /// The most answers to select, over all prompts: needed by `budget` and `random`, and caps every other
    /// rule, which then keeps the largest |PACS| of what it would have selected.
    pub budget: Option<u64>,
    /// Q in [0, 1] of the rule `quantile`: select from this quantile of |PACS| upwards.
    pub quantile: f64,
}

impl Default for SelectionSettings {
    fn default() -> Self {
        Self { rule: Rule::default(), delta: None, tau: None, budget: None, quantile: 0.9 }
    }
}

impl SelectionSettings {
    /// Checks every setting against its range, and that the rule has what it needs.
    ///
    /// # Errors
    /// The first setting at fault.
    pub fn validate(&self) -> Result<(), SelectionError> {
        let check = |ok: bool, name, value, range| {
            if ok { Ok(()) } else { Err(SelectionError::OutOfRange { name, value, range }) }
        };
        let unit = 0.0..=1.0;
        if let Some(delta) = self.delta {
            check((0.0..f64::INFINITY).contains(&delta), "delta", delta, "a finite number, 0 or more")?;
        }
        if let Some(tau) = self.tau {
            check(unit.contains(&tau), "tau", tau, "between 0 and 1: it is a Kendall-tau distance")?;
        }
        check(unit.contains(&self.quantile), "quantile", self.quantile, "between 0 and 1")?;
        let needs_budget = matches!(self.rule, Rule::Budget | Rule::Random);
        if needs_budget && self.budget.is_none() { Err(SelectionError::NoBudget(self.rule)) } else { Ok(()) }
    }

    /// The δ in force.
    #[must_use]
    pub fn effective_delta(&self) -> f64 {
        self.delta.unwrap_or(match self.rule {
            Rule::Paper | Rule::Mean => 1.0,
            Rule::Budget | Rule::Quantile | Rule::Random => 0.0,
        })
    }

    /// The τ in force.
    #[must_use]
    pub fn effective_tau(&self) -> f64 {
        self.tau.unwrap_or(match self.rule {
            Rule::Paper => 0.5,
            Rule::Mean | Rule::Budget | Rule::Quantile | Rule::Random => 0.0,
        })
    }
}

/// Selects answers from prompts given in prompt order, which breaks ties. Returns the selected completion
/// indices per prompt, ascending. Degenerate prompts are never selected from. Only the rule `random` uses
/// `seed`; the same seed and the same prompts give the same answers. Settings should have passed
/// [`SelectionSettings::validate`]; a missing budget is no limit.
#[must_use]
pub fn select(settings: &SelectionSettings, conflicts: &[&Conflict], seed: u64) -> Vec<Vec<usize>> {
    let mut candidates = match settings.rule {
        Rule::Random => shuffled(answers(conflicts, |_| true), seed),
        Rule::Mean => {
            let delta = settings.effective_delta();
            let tau = settings.effective_tau();
            let conflicted = |conflict: &Conflict| conflict.mean_abs_pacs > delta;
            answers(conflicts, |conflict| is_distant(conflict, tau) && conflicted(conflict))
        }
        Rule::Paper | Rule::Budget | Rule::Quantile => above_thresholds(settings, conflicts),
    };
    if let Some(budget) = settings.budget {
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        if settings.rule != Rule::Random && budget < candidates.len() {
            // Stable: equal |PACS| stay in prompt order.
            candidates.sort_by(|x, y| y.abs_pacs.total_cmp(&x.abs_pacs));
        }
        candidates.truncate(budget);
    }
    let mut selected = vec![Vec::new(); conflicts.len()];
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

/// One answer that may be selected, by position.
struct Candidate {
    prompt: usize,
    completion: usize,
    abs_pacs: f64,
}

/// All answers of the prompts that pass `keep` and are not degenerate, in prompt order.
fn answers(conflicts: &[&Conflict], keep: impl Fn(&Conflict) -> bool) -> Vec<Candidate> {
    let kept = conflicts.iter().enumerate().filter(|(_, conflict)| !conflict.degenerate && keep(conflict));
    kept.flat_map(|(prompt, conflict)| {
        conflict.pacs.iter().enumerate().map(move |(completion, pacs)| Candidate {
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

fn above_thresholds(settings: &SelectionSettings, conflicts: &[&Conflict]) -> Vec<Candidate> {
    let tau = settings.effective_tau();
    let mut delta = settings.effective_delta();
    if settings.rule == Rule::Quantile {
        // The quantile is of everything that was measured, not of what τ leaves.
        let mut all: Vec<f64> = answers(conflicts, |_| true).iter().map(|answer| answer.abs_pacs).collect();
        all.sort_unstable_by(f64::total_cmp);
        delta = delta.max(quantile(&all, settings.quantile).unwrap_or(0.0));
    }
    let mut candidates = answers(conflicts, |conflict| is_distant(conflict, tau));
    candidates.retain(|candidate| candidate.abs_pacs >= delta);
    candidates
}

/// In an order drawn from `seed`: by one random 64-bit key each, which only needs the generator's stream to be
/// stable, not a library's notion of shuffling.
fn shuffled(candidates: Vec<Candidate>, seed: u64) -> Vec<Candidate> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut keyed: Vec<_> = candidates.into_iter().map(|candidate| (rng.next_u64(), candidate)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::measure;
    use super::*;

    fn settings(rule: Rule) -> SelectionSettings {
        SelectionSettings { rule, ..SelectionSettings::default() }
    }

    fn conflict(pacs: &[f64], distance: f64) -> Conflict {
        Conflict {
            degenerate: false,
            pacs: pacs.to_vec(),
            mean_abs_pacs: pacs.iter().map(|pacs| pacs.abs()).sum::<f64>() / pacs.len() as f64,
            kendall_tau: Some(1.0 - 2.0 * distance),
            kendall_tau_distance: Some(distance),
            concordant: 0,
            discordant: 0,
            tied: 0,
        }
    }

    /// Three prompts and a degenerate one between them.
    fn conflicts() -> Vec<Conflict> {
        vec![
            conflict(&[0.5, -2.0, 1.5], 0.8),
            measure(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]).unwrap(),
            conflict(&[3.0, -1.0, -2.0], 0.4),
            conflict(&[0.5, -0.5, 0.0], 0.5),
        ]
    }

    fn selected(settings: &SelectionSettings) -> Vec<Vec<usize>> {
        settings.validate().unwrap();
        let conflicts = conflicts();
        select(settings, &conflicts.iter().collect::<Vec<_>>(), 7)
    }

    #[test]
    fn paper_takes_large_pacs_in_distant_prompts() {
        assert_eq!(selected(&settings(Rule::Paper)), [vec![1, 2], vec![], vec![], vec![]]);
        let loose = SelectionSettings { delta: Some(0.5), tau: Some(0.4), ..settings(Rule::Paper) };
        assert_eq!(selected(&loose), [vec![0, 1, 2], vec![], vec![0, 1, 2], vec![0, 1]]);
    }

    #[test]
    fn mean_takes_whole_prompts_strictly_above_its_threshold() {
        assert_eq!(selected(&settings(Rule::Mean)), [vec![0, 1, 2], vec![], vec![0, 1, 2], vec![]]);
        let exact = SelectionSettings { delta: Some(2.0), ..settings(Rule::Mean) };
        assert_eq!(selected(&exact), vec![Vec::<usize>::new(); 4], "2.0 is not above 2.0");
        let distant = SelectionSettings { tau: Some(0.5), ..settings(Rule::Mean) };
        assert_eq!(selected(&distant), [vec![0, 1, 2], vec![], vec![], vec![]]);
    }

    #[test]
    fn budget_takes_the_largest_and_breaks_ties_by_prompt_then_index() {
        let budget = |budget| SelectionSettings { budget: Some(budget), ..settings(Rule::Budget) };
        assert_eq!(selected(&budget(2)), [vec![1], vec![], vec![0], vec![]]);
        assert_eq!(selected(&budget(6)), [vec![0, 1, 2], vec![], vec![0, 1, 2], vec![]]);
        assert_eq!(selected(&budget(7)), [vec![0, 1, 2], vec![], vec![0, 1, 2], vec![0]]);
        assert_eq!(selected(&budget(u64::MAX)).concat().len(), 9);
        assert_eq!(selected(&budget(0)).concat().len(), 0);
        let distant = SelectionSettings { tau: Some(0.5), ..budget(2) };
        assert_eq!(selected(&distant), [vec![1, 2], vec![], vec![], vec![]]);
    }

    #[test]
    fn quantile_takes_the_top_share_of_what_was_measured() {
        // |PACS| ascending: 0 .5 .5 .5 1 1.5 2 2 3; the .75 quantile is the 7th, 2.
        let quantile = SelectionSettings { quantile: 0.75, ..settings(Rule::Quantile) };
        assert_eq!(selected(&quantile), [vec![1], vec![], vec![0, 2], vec![]]);
        let all = SelectionSettings { quantile: 0.0, ..settings(Rule::Quantile) };
        assert_eq!(selected(&all).concat().len(), 9);
        let capped = SelectionSettings { budget: Some(1), ..quantile };
        assert_eq!(selected(&capped), [vec![], vec![], vec![0], vec![]]);
    }

    #[test]
    fn a_budget_keeps_the_worst_of_any_rule() {
        let capped = SelectionSettings { budget: Some(1), ..settings(Rule::Paper) };
        assert_eq!(selected(&capped), [vec![1], vec![], vec![], vec![]]);
        let capped = SelectionSettings { budget: Some(4), ..settings(Rule::Mean) };
        assert_eq!(selected(&capped), [vec![1, 2], vec![], vec![0, 2], vec![]]);
    }

    #[test]
    fn random_draws_every_answer_equally_often() {
        let conflicts = conflicts();
        let conflicts: Vec<&Conflict> = conflicts.iter().collect();
        let random = SelectionSettings { budget: Some(3), ..settings(Rule::Random) };
        let mut times = [[0_u32; 3]; 4];
        for seed in 0..3000 {
            for (prompt, indices) in select(&random, &conflicts, seed).into_iter().enumerate() {
                indices.into_iter().for_each(|index| times[prompt][index] += 1);
            }
        }
        assert_eq!(times[1], [0, 0, 0], "degenerate");
        // 3 of 9, 3000 times: 1000 each, standard deviation 26.
        for times in [times[0], times[2], times[3]].concat() {
            assert!((880..1120).contains(&times), "{times}");
        }
    }

    #[test]
    fn random_repeats_under_a_seed_and_ignores_thresholds() {
        let random = SelectionSettings { budget: Some(4), ..settings(Rule::Random) };
        assert_eq!(selected(&random), selected(&random));
        let strict = SelectionSettings { delta: Some(100.0), tau: Some(1.0), ..random.clone() };
        assert_eq!(selected(&strict), selected(&random));
    }

    /// Experiments in the log name a seed and expect its answers: a new version of the generator must not move them.
    #[test]
    fn the_answers_of_a_seed_are_frozen() {
        let conflict = conflict(&[1.0; 20], 0.5);
        let random = SelectionSettings { budget: Some(6), ..settings(Rule::Random) };
        assert_eq!(select(&random, &[&conflict], 42), FROZEN);
    }

    const FROZEN: [[usize; 6]; 1] = [[4, 5, 9, 15, 17, 19]];

    #[test]
    fn settings_out_of_range_are_named() {
        let message = |settings: SelectionSettings| settings.validate().unwrap_err().to_string();
        assert_eq!(
            message(SelectionSettings { tau: Some(1.5), ..SelectionSettings::default() }),
            "tau = 1.5 is out of range: it must be between 0 and 1: it is a Kendall-tau distance"
        );
        assert_eq!(
            message(settings(Rule::Random)),
            "the rule `random` needs a budget: the number of answers to select"
        );
        for delta in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(
                message(SelectionSettings { delta: Some(delta), ..settings(Rule::Mean) }).contains("delta")
            );
        }
        assert!(
            message(SelectionSettings { quantile: f64::NAN, ..settings(Rule::Mean) }).contains("quantile")
        );
        assert_eq!(SelectionSettings::default().validate(), Ok(()));
    }

    #[test]
    fn settings_read_with_defaults_and_refuse_unknown_keys() {
        let read = serde_json::from_str::<SelectionSettings>;
        assert_eq!(read("{}").unwrap(), SelectionSettings::default());
        let budget = read(r#"{"rule":"budget","budget":12}"#).unwrap();
        assert_eq!(budget, SelectionSettings { budget: Some(12), ..settings(Rule::Budget) });
        assert!(read(r#"{"thau":0.5}"#).is_err());
    }

    #[test]
    fn rules_read_and_print_by_one_name() {
        for rule in Rule::ALL {
            assert_eq!(rule.to_string().parse(), Ok(rule));
            assert_eq!(serde_json::to_string(&rule).unwrap(), format!("\"{rule}\""));
        }
        assert!("Paper".parse::<Rule>().is_err());
    }

    fn any_conflicts() -> impl Strategy<Value = Vec<Conflict>> {
        let score = prop_oneof![-5.0..5.0_f64, (-1..2_i8).prop_map(f64::from)];
        let prompt = prop::collection::vec((score.clone(), score), 1..9).prop_map(|pairs| {
            let (rewards, logprobs): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            measure(&rewards, &logprobs).unwrap()
        });
        prop::collection::vec(prompt, 0..12)
    }

    fn any_settings() -> impl Strategy<Value = SelectionSettings> {
        let rule = prop::sample::select(&Rule::ALL[..]);
        let thresholds = (prop::option::of(0.0..3.0_f64), prop::option::of(0.0..=1.0_f64));
        (rule, thresholds, prop::option::of(0..40_u64), 0.0..=1.0_f64).prop_map(
            |(rule, (delta, tau), budget, quantile)| SelectionSettings { rule, delta, tau, budget, quantile },
        )
    }

    fn is_subset(small: &[Vec<usize>], large: &[Vec<usize>]) -> bool {
        small.iter().zip(large).all(|(small, large)| small.iter().all(|index| large.contains(index)))
    }

    proptest! {
        #[test]
        fn selection_is_ascending_within_budget_and_never_degenerate(
            conflicts in any_conflicts(), settings in any_settings(), seed: u64,
        ) {
            let conflicts: Vec<&Conflict> = conflicts.iter().collect();
            let selected = select(&settings, &conflicts, seed);
            prop_assert_eq!(selected.len(), conflicts.len());
            for (indices, conflict) in selected.iter().zip(&conflicts) {
                prop_assert!(indices.is_sorted_by(|a, b| a < b));
                prop_assert!(indices.iter().all(|&index| index < conflict.completions()));
                prop_assert!(!conflict.degenerate || indices.is_empty());
            }
            if let Some(budget) = settings.budget {
                prop_assert!(selected.concat().len() as u64 <= budget);
            }
        }

        #[test]
        fn higher_thresholds_select_a_subset(
            conflicts in any_conflicts(), settings in any_settings(),
            (delta, tau) in (0.0..3.0_f64, 0.0..=1.0_f64),
        ) {
            // A cap may reach further down where a threshold leaves fewer, so none here.
            let settings = SelectionSettings { budget: None, ..settings };
            prop_assume!(settings.rule != Rule::Random);
            let conflicts: Vec<&Conflict> = conflicts.iter().collect();
            let lower = select(&settings, &conflicts, 0);
            let higher = SelectionSettings {
                delta: Some(settings.effective_delta() + delta),
                tau: Some(f64::midpoint(settings.effective_tau(), 1.0).max(tau)),
                ..settings
            };
            prop_assert!(is_subset(&select(&higher, &conflicts, 0), &lower));
        }

        #[test]
        fn a_larger_budget_selects_a_superset(
            conflicts in any_conflicts(), settings in any_settings(), more in 0..20_u64, seed: u64,
        ) {
            let conflicts: Vec<&Conflict> = conflicts.iter().collect();
            let budget = settings.budget.unwrap_or(5);
            let small = SelectionSettings { budget: Some(budget), ..settings.clone() };
            let large = SelectionSettings { budget: Some(budget + more), ..settings };
            prop_assert!(is_subset(&select(&small, &conflicts, seed), &select(&large, &conflicts, seed)));
        }

        #[test]
        fn nothing_left_out_of_a_budget_is_worse_than_what_is_in(
            conflicts in any_conflicts(), budget in 0..40_u64,
        ) {
            let settings = SelectionSettings { budget: Some(budget), ..settings(Rule::Budget) };
            let conflicts: Vec<&Conflict> = conflicts.iter().collect();
            let selected = select(&settings, &conflicts, 0);
            let (mut least_in, mut most_out) = (f64::INFINITY, 0.0_f64);
            for (indices, conflict) in selected.iter().zip(&conflicts) {
                for (index, pacs) in conflict.pacs.iter().enumerate() {
                    if indices.contains(&index) {
                        least_in = least_in.min(pacs.abs());
                    } else {
                        most_out = most_out.max(pacs.abs());
                    }
                }
            }
            prop_assert!(most_out <= least_in, "{most_out} left out, {least_in} taken");
        }
    }
}
