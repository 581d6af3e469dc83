//! Planted worlds, in which every error is known.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::population::{JudgedPair, Population, RoundPairs};
use super::rules::{ErrorsFound, Judged};
use super::*;
use crate::analysis::auroc;

const PROMPTS: usize = 150;
const PAIRS_A_PROMPT: usize = 6;

/// How the rule's score relates to the errors.
#[derive(Debug, Clone, Copy, PartialEq)]
enum World {
    Good,
    Useless,
    Harmful,
}

/// A world with what its estimates should be.
struct Planted {
    population: Population,
    /// Share of errors among all pairs, and among those that the rule selects.
    all: f64,
    selected: f64,
    auroc: f64,
    margin_auroc: f64,
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (-2.0 * (1.0 - uniform(rng)).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// The places of the `count` largest scores.
fn largest(scores: &[f64], count: usize) -> BTreeSet<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places.into_iter().take(count).collect()
}

/// Plants a world: pairs of a prompt share a part of their score and of their errors.
fn planted(world: World, selected: usize, audited: usize, seed: u64) -> Planted {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let slope = match world {
        World::Good => 1.2,
        World::Useless => 0.0,
        World::Harmful => -1.2,
    };
    let (mut scores, mut margins, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PROMPTS {
        let (of_prompt, difficulty) = (normal(&mut rng), 0.7 * normal(&mut rng));
        for _ in 0..PAIRS_A_PROMPT {
            let score = 0.6 * of_prompt + 0.8 * normal(&mut rng);
            let margin = normal(&mut rng);
            let logit = -0.8 + slope * score + 0.3 * margin + difficulty;
            scores.push(score);
            margins.push(margin);
            errors.push(if uniform(&mut rng) < 1.0 / (1.0 + (-logit).exp()) { 1.0 } else { 0.0 });
        }
    }
    let in_use = largest(&scores, selected);
    let mut others: Vec<usize> = (0..scores.len()).filter(|pair| !in_use.contains(pair)).collect();
    let judged_of = |pair: usize, is_uniform: bool| JudgedPair {
        pair,
        cluster: pair / PAIRS_A_PROMPT,
        error: errors[pair],
        is_uniform,
    };
    let mut judged: Vec<JudgedPair> = in_use.iter().map(|&pair| judged_of(pair, false)).collect();
    for _ in 0..audited {
        let at = usize::try_from(rng.next_u64() % others.len() as u64).unwrap();
        judged.push(judged_of(others.swap_remove(at), true));
    }
    let share =
        |pairs: &BTreeSet<usize>| pairs.iter().map(|&pair| errors[pair]).sum::<f64>() / pairs.len() as f64;
    let positive: Vec<bool> = errors.iter().map(|&error| error > 0.0).collect();
    let (all, of_rule) = (errors.iter().sum::<f64>() / errors.len() as f64, share(&in_use));
    let round = RoundPairs {
        pairs: scores.len(),
        selected,
        judged,
        choices: BTreeMap::from([("margin", largest(&margins, selected + audited))]),
        in_use,
        scores: BTreeMap::from([("budget", scores.clone()), ("margin", margins.clone())]),
    };
    Planted {
        population: Population { rounds: vec![round], clusters: PROMPTS },
        all,
        selected: of_rule,
        auroc: auroc(&scores, &positive).unwrap(),
        margin_auroc: auroc(&margins, &positive).unwrap(),
    }
}

/// Counts how often intervals cover the truth, and sums the deviations.
#[derive(Debug, Default)]
struct Coverage {
    covered: u32,
    intervals: u32,
    deviation: f64,
}

impl Coverage {
    fn add(&mut self, interval: &Interval, truth: f64) {
        self.covered += u32::from(interval.low <= truth && truth <= interval.high);
        self.intervals += 1;
        self.deviation += interval.mean - truth;
    }

    fn rate(&self) -> f64 {
        f64::from(self.covered) / f64::from(self.intervals)
    }

    fn bias(&self) -> f64 {
        self.deviation / f64::from(self.intervals)
    }
}

#[test]
fn intervals_cover_what_was_planted_and_weights_remove_the_bias() {
    const RUNS: u64 = 600;
    for (selected, audited) in [(85, 15), (170, 30), (60, 60)] {
        for world in [World::Good, World::Useless, World::Harmful] {
            let mut coverage: BTreeMap<&str, Coverage> = BTreeMap::new();
            let mut unweighted = 0.0;
            for seed in 0..RUNS {
                let planted = planted(world, selected, audited, seed);
                let judged = Judged::of(&planted.population, Rule::Budget);
                let table = judged.table();
                let row = &table[0];
                let ErrorsFound::Estimated(errors) = row.errors else { panic!("{:?}", row.errors) };
                let mut add =
                    |name, interval: &Interval, truth| coverage.entry(name).or_default().add(interval, truth);
                add("random", &judged.random(), planted.all);
                add("errors", &errors, planted.selected);
                add("versus random", &row.versus_random.unwrap(), planted.selected - planted.all);
                if let (Some(auroc), Some(versus)) = (row.auroc, row.auroc_versus_margin) {
                    add("auroc", &auroc, planted.auroc);
                    add("auroc versus margin", &versus, planted.auroc - planted.margin_auroc);
                }
                let population = &planted.population;
                let mean = (population.errors(false) + population.errors(true)) / (selected + audited) as f64;
                unweighted += (mean - planted.all) / RUNS as f64;
            }
            for (name, coverage) in &coverage {
                println!(
                    "{selected} + {audited}, {world:?}, {name}: {:.1} % of {} covered, bias {:+.4}",
                    100.0 * coverage.rate(),
                    coverage.intervals,
                    coverage.bias()
                );
            }
            for (name, coverage) in &coverage {
                assert!(coverage.rate() >= 0.93, "{world:?}, {name}: {coverage:?}");
            }
            assert!(coverage["random"].bias().abs() < 0.01, "{:?}", coverage["random"]);
            assert!(coverage["versus random"].bias().abs() < 0.01, "{:?}", coverage["versus random"]);
            match world {
                World::Good => assert!(unweighted > 0.05, "{unweighted}"),
                World::Useless => assert!(unweighted.abs() < 0.01, "{unweighted}"),
                World::Harmful => assert!(unweighted < -0.05, "{unweighted}"),
            }
        }
    }
}
