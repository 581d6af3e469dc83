//! Differences between evaluations and guards, on simulated evaluations: a tuning that changes nothing raises
//! no alarm, and a planted effect is found.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

use dissent_domain::event::{FiguresByPrompt, PolicyEvaluated};
use dissent_domain::id::PromptId;
use dissent_domain::learning::{
    HeldOutFigure, agreement_table, differences, reward_hacking_signs, stop_reason,
};
use dissent_domain::plan::GuardPlan;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const RUNS: u64 = 1000;
/// Pairs of the completions of a prompt.
const PAIRS: u32 = 6;

/// The means of a simulated policy and its reward model.
#[derive(Clone, Copy)]
struct Truth {
    gold: f64,
    proxy: f64,
    kl: f64,
    /// Probability that the reward model orders a pair as the gold reward does.
    agreement: f64,
}

const UNCHANGED: Truth = Truth { gold: 0.3, proxy: 0.8, kl: 0.0, agreement: 0.7 };

struct World {
    rng: ChaCha8Rng,
    /// What makes each prompt easy or hard, for every policy.
    prompts: Vec<f64>,
}

impl World {
    fn new(prompts: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let prompts = (0..prompts).map(|_| normal(&mut rng)).collect();
        Self { rng, prompts }
    }

    fn figures(&mut self, truth: Truth) -> FiguresByPrompt {
        let rng = &mut self.rng;
        let mut noisy = |mean: f64, of_prompt: f64, noise: f64| -> Vec<f64> {
            self.prompts.iter().map(|prompt| mean + of_prompt * prompt + noise * normal(rng)).collect()
        };
        let (gold_reward, proxy_reward) = (noisy(truth.gold, 1.0, 0.5), noisy(truth.proxy, 0.5, 0.7));
        let (kl, response_tokens) = (noisy(truth.kl, 0.0, 0.4), noisy(40.0, 5.0, 8.0));
        // A share of four completions, as skewed as real ones.
        let stopped = self.prompts.iter().map(|_| if uniform(rng) < 0.23 { 0.75 } else { 1.0 }).collect();
        let mut agreed = || {
            self.prompts
                .iter()
                .map(|_| (0..PAIRS).map(|_| u32::from(uniform(rng) < truth.agreement)).sum())
                .collect()
        };
        let (proxy_agreed, refined_agreed, first_refined_agreed) = (agreed(), agreed(), agreed());
        FiguresByPrompt {
            prompts: (0..self.prompts.len()).map(|at| PromptId::new(format!("p{at}")).unwrap()).collect(),
            gold_reward,
            refined_reward: proxy_reward.clone(),
            proxy_reward,
            kl,
            response_tokens,
            stopped,
            ordered: vec![PAIRS; self.prompts.len()],
            proxy_agreed,
            refined_agreed,
            first_refined_agreed,
        }
    }

    fn evaluated(&mut self, evaluation: u32, truth: Truth) -> PolicyEvaluated {
        let figures = self.figures(truth);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        PolicyEvaluated {
            evaluation,
            policy: "p".to_owned(),
            reward_model: "r".to_owned(),
            prompts: u32::try_from(self.prompts.len()).unwrap(),
            completions: 4 * u32::try_from(self.prompts.len()).unwrap(),
            gold_reward: Some([mean(&figures.gold_reward), 0.1]),
            proxy_reward: [mean(&figures.proxy_reward), 0.1],
            refined_reward: [mean(&figures.refined_reward), 0.1],
            proxy_agreement: Some(truth.agreement),
            refined_agreement: Some(truth.agreement),
            mean_abs_pacs: None,
            kendall_tau: None,
            kl: mean(&figures.kl),
            response_tokens: mean(&figures.response_tokens),
            stopped: mean(&figures.stopped),
            samples: None,
            by_prompt: Some(Box::new(figures)),
        }
    }
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (-2.0 * (1.0 - uniform(rng)).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// Counts the runs of `check`, each with two evaluations.
fn runs(prompts: usize, after: Truth, check: impl Fn(&PolicyEvaluated, &PolicyEvaluated) -> bool) -> f64 {
    let found = (0..RUNS).filter(|&seed| {
        let mut world = World::new(prompts, seed);
        let (first, last) = (world.evaluated(0, UNCHANGED), world.evaluated(1, after));
        check(&first, &last)
    });
    found.count() as f64 / RUNS as f64
}

fn is_clear(before: &PolicyEvaluated, after: &PolicyEvaluated) -> bool {
    differences(before, after).iter().any(|(_, difference)| difference.is_clear)
}

fn alarms(before: &PolicyEvaluated, after: &PolicyEvaluated) -> bool {
    let guards = GuardPlan { stop_on_reward_hacking: true, kl_max: Some(0.05), ..GuardPlan::default() };
    let evaluations = [before.clone(), after.clone()];
    !reward_hacking_signs(&guards, &evaluations).is_empty() || stop_reason(&guards, &evaluations).is_some()
}

#[test]
fn a_tuning_that_changes_nothing_shows_no_difference_and_raises_no_alarm() {
    for prompts in [12, 20, 60] {
        let clear = runs(prompts, UNCHANGED, is_clear);
        let alarmed = runs(prompts, UNCHANGED, alarms);
        let agreement = runs(prompts, UNCHANGED, |first, last| {
            let table = agreement_table(first, last).unwrap();
            [table.on_first, table.on_current].into_iter().flatten().any(|row| row.is_clear)
        });
        println!(
            "{prompts} prompts: {clear} of tables emphasise, {alarmed} alarm, {agreement} of agreement tables"
        );
        assert!(clear <= 0.05 && alarmed <= 0.05 && agreement <= 0.05, "{clear} {alarmed} {agreement}");
    }
}

#[test]
fn planted_effects_are_found() {
    let better = Truth { gold: UNCHANGED.gold + 0.5, ..UNCHANGED };
    let found = runs(40, better, |first, last| {
        let rows = differences(first, last);
        rows.iter().any(|(figure, row)| {
            *figure == HeldOutFigure::GoldReward && row.is_clear && row.interval.low > 0.0
        })
    });
    // The difference of a prompt has a standard deviation of 0.71: the power of this test is .97.
    println!("a gold reward higher by 0.7 standard deviations on 40 prompts is found in {found}");
    assert!(found >= 0.9, "{found}");
    let hacked = Truth { gold: UNCHANGED.gold - 0.6, proxy: UNCHANGED.proxy + 1.0, kl: 4.0, agreement: 0.5 };
    let alarmed = runs(40, hacked, |first, last| {
        !reward_hacking_signs(&GuardPlan::default(), &[first.clone(), last.clone()]).is_empty()
    });
    assert!(alarmed >= 0.9, "{alarmed}");
}

#[test]
fn a_falling_proxy_reward_is_no_hacking() {
    let falling = Truth { gold: UNCHANGED.gold - 1.0, proxy: UNCHANGED.proxy - 1.0, kl: 2.0, agreement: 0.4 };
    let alarmed = runs(40, falling, |first, last| {
        !reward_hacking_signs(&GuardPlan::default(), &[first.clone(), last.clone()]).is_empty()
    });
    assert!(alarmed == 0.0, "{alarmed}");
}

#[test]
fn a_divergence_that_may_be_chance_stops_no_run() {
    let guards = GuardPlan { kl_max: Some(1.0), ..GuardPlan::default() };
    let stops = |kl: f64| {
        runs(20, Truth { kl, ..UNCHANGED }, |first, last| {
            stop_reason(&guards, &[first.clone(), last.clone()]).is_some()
        })
    };
    let (at_limit, beyond) = (stops(1.0), stops(2.0));
    assert!(at_limit <= 0.05 && beyond >= 0.95, "{at_limit} {beyond}");
}

#[test]
fn evaluations_of_version_0_1_have_no_differences() {
    let mut world = World::new(20, 0);
    let (mut first, last) = (world.evaluated(0, UNCHANGED), world.evaluated(1, UNCHANGED));
    first.by_prompt = None;
    assert!(differences(&first, &last).is_empty() && agreement_table(&first, &last).is_none());
}
