use proptest::prelude::*;

use super::super::{measure, tells_apart};
use super::*;

fn settings(rule: Rule) -> SelectionSettings {
    SelectionSettings { rule, ..SelectionSettings::default() }
}

/// The input of rules that need no reward.
fn scored<'a>(conflicts: &[&'a Conflict]) -> Vec<ScoredCompletions<'a>> {
    conflicts.iter().map(|conflict| ScoredCompletions { conflict, rewards: &[], left_out: &[] }).collect()
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

/// Three prompts, and a degenerate prompt between them.
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
    select_completions(settings, &scored(&conflicts.iter().collect::<Vec<_>>()), 7)
}

#[test]
fn paper_selects_large_pacs_in_prompts_with_a_large_distance() {
    assert_eq!(selected(&settings(Rule::Paper)), [vec![1, 2], vec![], vec![], vec![]]);
    let loose = SelectionSettings { delta: Some(0.5), tau: Some(0.4), ..settings(Rule::Paper) };
    assert_eq!(selected(&loose), [vec![0, 1, 2], vec![], vec![0, 1, 2], vec![0, 1]]);
}

#[test]
fn mean_selects_whole_prompts_strictly_above_its_threshold() {
    assert_eq!(selected(&settings(Rule::Mean)), [vec![0, 1, 2], vec![], vec![0, 1, 2], vec![]]);
    let exact = SelectionSettings { delta: Some(2.0), ..settings(Rule::Mean) };
    assert_eq!(selected(&exact), vec![Vec::<usize>::new(); 4], "2.0 is not above 2.0");
    let distant = SelectionSettings { tau: Some(0.5), ..settings(Rule::Mean) };
    assert_eq!(selected(&distant), [vec![0, 1, 2], vec![], vec![], vec![]]);
}

#[test]
fn budget_selects_the_largest_pacs_and_breaks_ties_by_prompt_then_index() {
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
fn quantile_selects_the_top_share_of_all_measured_completions() {
    // |PACS| in ascending order: 0 .5 .5 .5 1 1.5 2 2 3. The .75 quantile is the 7th, 2.
    let quantile = SelectionSettings { quantile: 0.75, ..settings(Rule::Quantile) };
    assert_eq!(selected(&quantile), [vec![1], vec![], vec![0, 2], vec![]]);
    let all = SelectionSettings { quantile: 0.0, ..settings(Rule::Quantile) };
    assert_eq!(selected(&all).concat().len(), 9);
    let capped = SelectionSettings { budget: Some(1), ..quantile };
    assert_eq!(selected(&capped), [vec![], vec![], vec![0], vec![]]);
}

#[test]
fn a_budget_keeps_the_largest_conflict_of_any_rule() {
    let capped = SelectionSettings { budget: Some(1), ..settings(Rule::Paper) };
    assert_eq!(selected(&capped), [vec![1], vec![], vec![], vec![]]);
    let capped = SelectionSettings { budget: Some(4), ..settings(Rule::Mean) };
    assert_eq!(selected(&capped), [vec![1, 2], vec![], vec![0, 2], vec![]]);
}

#[test]
fn random_draws_every_completion_equally_often() {
    let conflicts = conflicts();
    let conflicts: Vec<&Conflict> = conflicts.iter().collect();
    let random = SelectionSettings { budget: Some(3), ..settings(Rule::Random) };
    let mut times = [[0_u32; 3]; 4];
    for seed in 0..3000 {
        for (prompt, indices) in
            select_completions(&random, &scored(&conflicts), seed).into_iter().enumerate()
        {
            indices.into_iter().for_each(|index| times[prompt][index] += 1);
        }
    }
    assert_eq!(times[1], [0, 0, 0], "degenerate");
    // 3 of 9, drawn 3000 times: 1000 each, with standard deviation 26.
    for times in [times[0], times[2], times[3]].concat() {
        assert!((880..1120).contains(&times), "{times}");
    }
}

#[test]
fn random_depends_on_the_seed_and_ignores_thresholds() {
    let random = SelectionSettings { budget: Some(4), ..settings(Rule::Random) };
    assert_eq!(selected(&random), selected(&random));
    let strict = SelectionSettings { delta: Some(100.0), tau: Some(1.0), ..random.clone() };
    assert_eq!(selected(&strict), selected(&random));
}

/// Experiments in the log name a seed: a new version of the generator must select the same completions.
#[test]
fn the_completions_of_a_seed_are_frozen() {
    let conflict = conflict(&[1.0; 20], 0.5);
    let random = SelectionSettings { budget: Some(6), ..settings(Rule::Random) };
    assert_eq!(select_completions(&random, &scored(&[&conflict]), 42), FROZEN);
}

const FROZEN: [[usize; 6]; 1] = [[4, 5, 9, 15, 17, 19]];

#[test]
fn errors_name_the_setting_out_of_range() {
    let message = |settings: SelectionSettings| settings.validate().unwrap_err().to_string();
    assert_eq!(
        message(SelectionSettings { tau: Some(1.5), ..SelectionSettings::default() }),
        "tau = 1.5 is out of range: use a Kendall-tau distance, 0 to 1"
    );
    assert_eq!(
        message(settings(Rule::Random)),
        "the rule `random` needs a budget: the number of completions to select"
    );
    for delta in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(message(SelectionSettings { delta: Some(delta), ..settings(Rule::Mean) }).contains("delta"));
    }
    assert!(message(SelectionSettings { quantile: f64::NAN, ..settings(Rule::Mean) }).contains("quantile"));
    assert_eq!(SelectionSettings::default().validate(), Ok(()));
}

#[test]
fn settings_have_defaults_and_reject_unknown_keys() {
    let read = serde_json::from_str::<SelectionSettings>;
    assert_eq!(read("{}").unwrap(), SelectionSettings::default());
    let budget = read(r#"{"rule":"budget","budget":12}"#).unwrap();
    assert_eq!(budget, SelectionSettings { budget: Some(12), ..settings(Rule::Budget) });
    assert!(read(r#"{"thau":0.5}"#).is_err());
}

#[test]
fn names_of_rules_round_trip() {
    for rule in Rule::ALL {
        assert_eq!(rule.to_string().parse(), Ok(rule));
        assert_eq!(serde_json::to_string(&rule).unwrap(), format!("\"{rule}\""));
    }
    assert!("Paper".parse::<Rule>().is_err());
}

/// Rewards and log-probabilities of two prompts with three completions, and of a degenerate prompt between
/// them.
const SCORED: [([f64; 3], [f64; 3]); 3] = [
    ([0.0, 0.5, 3.0], [-1.0, -2.0, -3.0]),
    ([1.0, 1.0, 1.0], [-1.0, -2.0, -3.0]),
    ([0.0, 1.0, 4.0], [-9.0, -3.0, -1.0]),
];

fn pairs_of(settings: &SelectionSettings, seed: u64) -> Vec<Vec<[usize; 2]>> {
    settings.validate().unwrap();
    let conflicts = SCORED.map(|(rewards, logprobs)| measure(&rewards, &logprobs).unwrap());
    let scored: Vec<ScoredCompletions<'_>> = conflicts
        .iter()
        .zip(&SCORED)
        .map(|(conflict, (rewards, _))| ScoredCompletions { conflict, rewards, left_out: &[] })
        .collect();
    select(settings, &scored, seed).pairs.unwrap()
}

fn of_budget(rule: Rule, budget: u64) -> SelectionSettings {
    SelectionSettings { budget: Some(budget), ..settings(rule) }
}

#[test]
fn margin_selects_the_pairs_with_the_smallest_reward_margin() {
    assert_eq!(pairs_of(&of_budget(Rule::Margin, 2), 0), [vec![[0, 1]], vec![], vec![[0, 1]]]);
    assert_eq!(pairs_of(&of_budget(Rule::Margin, 3), 0), [vec![[0, 1], [1, 2]], vec![], vec![[0, 1]]]);
    let strict = SelectionSettings { delta: Some(9.0), tau: Some(1.0), ..of_budget(Rule::Margin, 2) };
    assert_eq!(pairs_of(&strict, 0), pairs_of(&of_budget(Rule::Margin, 2), 0), "it is a baseline");
}

#[test]
fn gap_selects_the_pairs_with_the_largest_difference_of_pacs() {
    // The models order the first prompt oppositely, so each of its gaps exceeds every gap of the third
    // prompt.
    assert_eq!(pairs_of(&of_budget(Rule::Gap, 2), 0), [vec![[0, 2], [1, 2]], vec![], vec![]]);
    let distant = SelectionSettings { tau: Some(0.5), ..of_budget(Rule::Gap, 9) };
    assert_eq!(pairs_of(&distant, 0).concat().len(), 3);
}

#[test]
fn discordant_selects_only_pairs_with_opposite_orders() {
    assert_eq!(pairs_of(&settings(Rule::Discordant), 0), [vec![[0, 2], [1, 2], [0, 1]], vec![], vec![]]);
    assert_eq!(pairs_of(&of_budget(Rule::Discordant, 1), 0), [vec![[0, 2]], vec![], vec![]]);
}

#[test]
fn doubt_selects_close_pairs_that_the_policy_orders_oppositely_first() {
    assert_eq!(pairs_of(&of_budget(Rule::Doubt, 1), 0), [vec![[0, 1]], vec![], vec![]]);
}

#[test]
fn all_selects_every_pair_and_none_selects_nothing() {
    let all = pairs_of(&settings(Rule::All), 0);
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [3, 0, 3]);
    assert_eq!(pairs_of(&settings(Rule::None), 0), vec![Vec::<[usize; 2]>::new(); 3]);
}

#[test]
fn rso_selects_a_pair_of_every_prompt_before_a_second_one() {
    let rewards: Vec<f64> = (0..6).map(f64::from).collect();
    let logprobs: Vec<f64> = (0..6).map(|index| f64::from(index * index % 5)).collect();
    let conflict = measure(&rewards, &logprobs).unwrap();
    let prompts = [ScoredCompletions { conflict: &conflict, rewards: &rewards, left_out: &[] }; 5];
    let taken = |budget, seed| select(&of_budget(Rule::Rso, budget), &prompts, seed).pairs.unwrap();
    assert!(taken(5, 1).iter().all(|pairs| pairs.len() == 1));
    assert_eq!(taken(100, 1).concat().len(), 15, "a completion is kept once");
    assert_eq!(taken(7, 1), taken(7, 1));
    // Rejection sampling keeps the completion with the highest reward first far more often than the one with
    // the lowest.
    let first_pairs = |completion: usize| {
        (0..200).flat_map(|seed| taken(5, seed).concat()).filter(|pair| pair.contains(&completion)).count()
    };
    assert!(first_pairs(5) > 2 * first_pairs(0), "{} and {}", first_pairs(5), first_pairs(0));
}

/// Experiments in the log name a seed: it must select the same pairs.
#[test]
fn the_pairs_of_a_seed_are_frozen() {
    assert_eq!(pairs_of(&settings(Rule::Rso), 42), [vec![[0, 2]], vec![], vec![[1, 2]]]);
}

type Scores = (Vec<f64>, Vec<f64>);

fn any_scores() -> impl Strategy<Value = Vec<Scores>> {
    let score = prop_oneof![-5.0..5.0_f64, (-1..2_i8).prop_map(f64::from)];
    let prompt =
        prop::collection::vec((score.clone(), score), 1..9).prop_map(|pairs| pairs.into_iter().unzip());
    prop::collection::vec(prompt, 0..12)
}

/// The selected completions and pairs of a rule.
fn select_from(settings: &SelectionSettings, scores: &[Scores], seed: u64) -> Selection {
    let conflicts = measured(scores);
    let scored: Vec<ScoredCompletions<'_>> = conflicts
        .iter()
        .zip(scores)
        .map(|(conflict, (rewards, _))| ScoredCompletions { conflict, rewards, left_out: &[] })
        .collect();
    select(settings, &scored, seed)
}

fn measured(scores: &[Scores]) -> Vec<Conflict> {
    scores.iter().map(|(rewards, logprobs)| measure(rewards, logprobs).unwrap()).collect()
}

fn any_settings() -> impl Strategy<Value = SelectionSettings> {
    let rule = prop::sample::select(&Rule::ALL[..]);
    let thresholds = (prop::option::of(0.0..3.0_f64), prop::option::of(0.0..=1.0_f64));
    (rule, thresholds, prop::option::of(0..40_u64), 0.0..=1.0_f64).prop_map(
        |(rule, (delta, tau), budget, quantile)| SelectionSettings { rule, delta, tau, budget, quantile },
    )
}

fn is_subset<T: PartialEq>(small: &[Vec<T>], large: &[Vec<T>]) -> bool {
    small.iter().zip(large).all(|(small, large)| small.iter().all(|item| large.contains(item)))
}

/// Whether a selection is a subset of another, for completions and, if the rule selects pairs, for pairs.
fn is_within(small: &Selection, large: &Selection) -> bool {
    let pairs = |selection: &Selection| selection.pairs.clone().unwrap_or_default();
    is_subset(&small.completions, &large.completions) && is_subset(&pairs(small), &pairs(large))
}

proptest! {
    #[test]
    fn selection_is_ascending_within_budget_and_never_degenerate(
        scores in any_scores(), settings in any_settings(), seed: u64,
    ) {
        let selection = select_from(&settings, &scores, seed);
        prop_assert_eq!(selection.completions.len(), scores.len());
        prop_assert_eq!(selection.pairs.is_some(), settings.rule.selects_pairs());
        for (indices, conflict) in selection.completions.iter().zip(&measured(&scores)) {
            prop_assert!(indices.is_sorted_by(|a, b| a < b));
            prop_assert!(indices.iter().all(|&index| index < conflict.completions()));
            prop_assert!(!conflict.degenerate || indices.is_empty());
        }
        for (pairs, indices) in selection.pairs.iter().flatten().zip(&selection.completions) {
            prop_assert!(pairs.iter().all(|[first, second]| first < second));
            let mut of_pairs = pairs.concat();
            of_pairs.sort_unstable();
            of_pairs.dedup();
            prop_assert_eq!(&of_pairs, indices, "the completions are those of the pairs");
        }
        if let Some(budget) = settings.budget {
            let spent = selection.pairs.map_or(selection.completions.concat().len(), |pairs| pairs.concat().len());
            prop_assert!(spent as u64 <= budget);
        }
    }

    #[test]
    fn higher_thresholds_select_a_subset(
        scores in any_scores(), settings in any_settings(),
        (delta, tau) in (0.0..3.0_f64, 0.0..=1.0_f64),
    ) {
        // Without a cap: with fewer candidates a cap selects lower scores.
        let settings = SelectionSettings { budget: None, ..settings };
        prop_assume!(settings.rule != Rule::Random);
        let higher = SelectionSettings {
            delta: Some(settings.effective_delta() + delta),
            tau: Some(f64::midpoint(settings.effective_tau(), 1.0).max(tau)),
            ..settings.clone()
        };
        prop_assert!(is_within(&select_from(&higher, &scores, 0), &select_from(&settings, &scores, 0)));
    }

    #[test]
    fn a_larger_budget_selects_a_superset(
        scores in any_scores(), settings in any_settings(), more in 0..20_u64, seed: u64,
    ) {
        let budget = settings.budget.unwrap_or(5);
        let small = SelectionSettings { budget: Some(budget), ..settings.clone() };
        let large = SelectionSettings { budget: Some(budget + more), ..settings };
        prop_assert!(is_within(&select_from(&small, &scores, seed), &select_from(&large, &scores, seed)));
    }

    #[test]
    fn a_rule_over_pairs_spends_its_whole_budget(scores in any_scores(), budget in 0..40_u64) {
        let available: usize = measured(&scores)
            .iter()
            .zip(&scores)
            .filter(|(conflict, _)| !conflict.degenerate)
            .map(|(conflict, scores)| {
                let indices = 0..conflict.completions();
                let pairs = indices.clone().flat_map(|first| indices.clone().map(move |second| (first, second)));
                pairs
                    .filter(|&(first, second)| first < second)
                    .filter(|&(first, second)| tells_apart(&conflict.pacs, &scores.0, first, second))
                    .count()
            })
            .sum();
        for rule in [Rule::Margin, Rule::Gap, Rule::EqualMargin, Rule::GapAndMargin, Rule::Doubt, Rule::All] {
            let pairs = select_from(&of_budget(rule, budget), &scores, 0).pairs.unwrap();
            prop_assert_eq!(pairs.concat().len(), available.min(usize::try_from(budget).unwrap()));
        }
    }

    #[test]
    fn every_completion_within_the_budget_has_at_least_the_pacs_of_any_other(
        scores in any_scores(), budget in 0..40_u64,
    ) {
        let selected = select_from(&of_budget(Rule::Budget, budget), &scores, 0).completions;
        let (mut least_in, mut most_out) = (f64::INFINITY, 0.0_f64);
        for (indices, conflict) in selected.iter().zip(&measured(&scores)) {
            for (index, pacs) in conflict.pacs.iter().enumerate() {
                if indices.contains(&index) {
                    least_in = least_in.min(pacs.abs());
                } else {
                    most_out = most_out.max(pacs.abs());
                }
            }
        }
        prop_assert!(most_out <= least_in, "{most_out} is left out, and {least_in} is selected");
    }
}

#[test]
fn completions_left_out_are_in_no_selection() {
    let scores =
        [([0.0, 1.0, 2.0, 4.0], [-3.0, -1.0, -2.0, -9.0]), ([1.0, 5.0, 2.0, 3.0], [-1.0, -4.0, -2.0, -8.0])];
    let conflicts: Vec<Conflict> = scores.iter().map(|(r, l)| measure(r, l).unwrap()).collect();
    let left_out = [false, true, false, true];
    let prompts: Vec<ScoredCompletions<'_>> = conflicts
        .iter()
        .zip(&scores)
        .map(|(conflict, (rewards, _))| ScoredCompletions { conflict, rewards, left_out: &left_out })
        .collect();
    for rule in Rule::ALL {
        let settings =
            SelectionSettings { rule, budget: Some(100), delta: Some(0.0), tau: Some(0.0), quantile: 0.0 };
        for seed in 0..20 {
            let found = select(&settings, &prompts, seed);
            assert!(
                found.completions.iter().flatten().all(|completion| !left_out[*completion]),
                "{rule}: {found:?}"
            );
            let pairs = found.pairs.iter().flatten().flatten().flatten();
            assert!(pairs.into_iter().all(|completion| !left_out[*completion]), "{rule}: {found:?}");
        }
    }
}
