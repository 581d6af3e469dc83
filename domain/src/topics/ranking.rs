//! Topics by the proxy's error: estimates with shrinkage, and a test that accounts for the number of topics.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::beta::{beta_quantile, ln_beta};

/// Limit of the adjusted p-value of a flagged topic.
const SIGNIFICANT: f64 = 0.05;
/// Strengths of the prior that are tried, in labels: from 1 to 10 000 on a logarithmic scale.
const STRENGTHS: u32 = 81;
const STRENGTH_MAX: f64 = 1e4;

/// A judged prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgedPrompt {
    /// Its topic, below the number of topics.
    pub topic: usize,
    /// The judged pairs of its completions on which the proxy is wrong, at most `labels`.
    pub errors: f64,
    /// Its judged pairs, above 0. Pairs that were not drawn uniformly may count with their inverse
    /// propensities, scaled to a mean of 1 over all pairs.
    pub labels: f64,
}

/// Settings of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankingSettings {
    /// Permutations of the test. The smallest p-value is 1 / (permutations + 1).
    pub permutations: usize,
    /// Seed of the permutations.
    pub seed: u64,
}

impl Default for RankingSettings {
    fn default() -> Self {
        Self { permutations: 4999, seed: 0 }
    }
}

/// Topics by the proxy's error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopicRanking {
    /// Every topic, the one with the highest estimate first.
    pub topics: Vec<RankedTopic>,
    /// The share of errors among all labels, in [0, 1]; `None` without labels.
    pub overall: Option<f64>,
    /// The strength of the prior, in labels. An estimate is nearer to `overall` than to its topic's own share
    /// if the topic has fewer labels.
    pub prior_labels: f64,
}

/// The proxy's error in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankedTopic {
    /// The topic.
    pub topic: usize,
    /// Its judged prompts.
    pub prompts: usize,
    /// Its labels: judged pairs.
    pub labels: f64,
    /// Its labels on which the proxy is wrong.
    pub errors: f64,
    /// The estimated share of errors, shrunk towards the share of all topics, in [0, 1].
    pub estimate: f64,
    /// The lower end of the estimate's 95 % interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The probability of so many errors or more if topics had nothing to do with errors; 1 without labels.
    pub p_value: f64,
    /// The p-value after Holm's correction for the number of topics with labels.
    pub adjusted_p: f64,
    /// Whether the proxy errs more here than elsewhere: the adjusted p-value is at most 0.05.
    pub flagged: bool,
}

/// Ranks topics by the proxy's error.
///
/// *Estimate.* The errors of a topic are binomial, and its true share has a beta distribution over topics.
/// The mean of this prior is the share of all labels. Its strength is the one of the highest marginal
/// likelihood (empirical Bayes, beta-binomial). The estimate is the posterior mean, and the interval holds 95
/// % of the posterior. The interval leaves out the uncertainty of the prior.
///
/// *Test.* The topics of judged prompts are permuted, so the labels of a prompt stay together, and no
/// distribution is assumed. The p-values, one for each topic with labels, are corrected after Holm (1979).
/// Holm bounds the probability of any false flag by 5 % under every dependence, and a flag costs labels;
/// Benjamini and Hochberg's method would bound the share of false flags only.
///
/// Equal estimates are in the order of labels, the most first, then of topics. Judged prompts with a topic
/// out of range are left out.
#[must_use]
pub fn rank_topics(topics: usize, judged: &[JudgedPrompt], settings: &RankingSettings) -> TopicRanking {
    let judged: Vec<JudgedPrompt> = judged.iter().copied().filter(|prompt| prompt.topic < topics).collect();
    let mut sums = vec![(0_usize, 0.0, 0.0); topics];
    for prompt in &judged {
        let (prompts, errors, labels) = &mut sums[prompt.topic];
        *prompts += 1;
        *errors += prompt.errors;
        *labels += prompt.labels;
    }
    let errors: f64 = sums.iter().map(|(_, errors, _)| errors).sum();
    let labels: f64 = sums.iter().map(|(_, _, labels)| labels).sum();
    // Half an error and half a right label keep the mean within (0, 1).
    let mean = (errors + 0.5) / (labels + 1.0);
    let counts: Vec<(f64, f64)> = sums.iter().map(|(_, errors, labels)| (*errors, *labels)).collect();
    let strength = prior_strength(mean, &counts);
    let p_values = p_values(topics, &judged, settings);
    let tested: Vec<bool> = sums.iter().map(|(prompts, _, _)| *prompts > 0).collect();
    let adjusted = holm(&p_values, &tested);
    let ranked = |topic: usize| {
        let (prompts, errors, labels) = sums[topic];
        let (a, b) = (mean * strength + errors, (1.0 - mean) * strength + (labels - errors).max(0.0));
        RankedTopic {
            topic,
            prompts,
            labels,
            errors,
            estimate: a / (a + b),
            low: beta_quantile(0.025, a, b),
            high: beta_quantile(0.975, a, b),
            p_value: p_values[topic],
            adjusted_p: adjusted[topic],
            flagged: adjusted[topic] <= SIGNIFICANT,
        }
    };
    let mut ranking: Vec<RankedTopic> = (0..topics).map(ranked).collect();
    ranking.sort_by(|a, b| {
        b.estimate.total_cmp(&a.estimate).then(b.labels.total_cmp(&a.labels)).then(a.topic.cmp(&b.topic))
    });
    TopicRanking { topics: ranking, overall: (labels > 0.0).then(|| errors / labels), prior_labels: strength }
}

/// Returns the strength of the beta prior with the highest marginal likelihood, in labels.
fn prior_strength(mean: f64, counts: &[(f64, f64)]) -> f64 {
    let likelihood = |strength: f64| -> f64 {
        let (a, b) = (mean * strength, (1.0 - mean) * strength);
        let of_topic = |(errors, labels): &(f64, f64)| {
            ln_beta(a + errors, b + (labels - errors).max(0.0)) - ln_beta(a, b)
        };
        counts.iter().filter(|(_, labels)| *labels > 0.0).map(of_topic).sum()
    };
    let strengths = (0..STRENGTHS).map(|step| STRENGTH_MAX.powf(f64::from(step) / f64::from(STRENGTHS - 1)));
    let scored = strengths.map(|strength| (likelihood(strength), strength));
    // Of equal likelihoods, the strongest prior: without a difference between topics there is none to show.
    scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).map_or(STRENGTH_MAX, |(_, strength)| strength)
}

/// Returns the one-sided p-value of each topic, by permutation of topics over judged prompts (Phipson and
/// Smyth, 2010: the observed assignment counts as one permutation).
fn p_values(topics: usize, judged: &[JudgedPrompt], settings: &RankingSettings) -> Vec<f64> {
    let labels: f64 = judged.iter().map(|prompt| prompt.labels).sum();
    let errors: f64 = judged.iter().map(|prompt| prompt.errors).sum();
    let share = if labels > 0.0 { errors / labels } else { 0.0 };
    // Errors beyond the expected ones. Their sum over all prompts is 0.
    let mut excess: Vec<f64> = judged.iter().map(|prompt| prompt.errors - share * prompt.labels).collect();
    let sums_of = |excess: &[f64], sums: &mut [f64]| {
        sums.fill(0.0);
        judged.iter().zip(excess).for_each(|(prompt, excess)| sums[prompt.topic] += excess);
    };
    let mut observed = vec![0.0; topics];
    sums_of(&excess, &mut observed);
    let mut at_least = vec![1_usize; topics];
    let mut sums = vec![0.0; topics];
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    for _ in 0..settings.permutations {
        for last in (1..excess.len()).rev() {
            // The bias of the remainder is below 2⁻³² for any number of prompts that fits in memory.
            let other = usize::try_from(rng.next_u64() % (last as u64 + 1)).unwrap_or(0);
            excess.swap(last, other);
        }
        sums_of(&excess, &mut sums);
        for ((at_least, sum), observed) in at_least.iter_mut().zip(&sums).zip(&observed) {
            // Sums of the same numbers in another order differ by rounding.
            *at_least += usize::from(*sum >= observed - 1e-9);
        }
    }
    at_least.into_iter().map(|count| count as f64 / (settings.permutations + 1) as f64).collect()
}

/// Returns the p-values after Holm's step-down correction over the tested ones; 1 for the others.
fn holm(p_values: &[f64], tested: &[bool]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).filter(|topic| tested[*topic]).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, topic) in order.iter().enumerate() {
        largest = largest.max((order.len() - rank) as f64 * p_values[*topic]).min(1.0);
        adjusted[*topic] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(topics: &[(usize, usize)]) -> Vec<JudgedPrompt> {
        let of_topic = |(topic, (errors, labels)): (usize, &(usize, usize))| {
            let wrong = *errors;
            (0..*labels).map(move |at| JudgedPrompt {
                topic,
                errors: f64::from(u8::from(at < wrong)),
                labels: 1.0,
            })
        };
        topics.iter().enumerate().flat_map(of_topic).collect()
    }

    #[test]
    fn estimates_are_shrunk_and_ranked() {
        let found =
            rank_topics(4, &judged(&[(2, 10), (9, 10), (1, 1), (2, 10)]), &RankingSettings::default());
        assert_eq!(found.topics.iter().map(|topic| topic.topic).collect::<Vec<_>>(), [1, 2, 0, 3]);
        let overall = found.overall.unwrap();
        assert!((overall - 14.0 / 31.0).abs() < 1e-12);
        let [first, single, ..] = found.topics.as_slice() else { panic!("four topics") };
        assert!(overall < first.estimate && first.estimate < 0.9);
        assert!(single.estimate < first.estimate, "one label of one is no proof");
        assert!(first.low < first.estimate && first.estimate < first.high);
        assert!(first.flagged && !single.flagged);
    }

    /// Source: scipy, `hypergeom.sf(8, 31, 14, 10)`: the exact p-value of 9 of 10 errors where 14 of 31 are.
    #[test]
    fn with_one_label_a_prompt_the_test_is_that_of_fisher() {
        let settings = RankingSettings { permutations: 100_000, seed: 3 };
        let found = rank_topics(4, &judged(&[(2, 10), (9, 10), (1, 1), (2, 10)]), &settings);
        let expected = hypergeometric_tail(9, 31, 14, 10);
        assert!((found.topics[0].p_value - expected).abs() < 3e-4, "{} {expected}", found.topics[0].p_value);
    }

    /// P(at least k of the n drawn are errors), by counting.
    fn hypergeometric_tail(k: u32, all: u32, errors: u32, drawn: u32) -> f64 {
        let choose = |n: u32, k: u32| (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product::<f64>();
        let of = |at: u32| choose(errors, at) * choose(all - errors, drawn - at) / choose(all, drawn);
        (k..=drawn.min(errors)).map(of).sum()
    }

    #[test]
    fn labels_of_one_prompt_are_one_observation() {
        // Eight errors of eight labels: of eight prompts, and of one prompt.
        let mut apart = judged(&[(8, 8), (3, 20), (3, 20)]);
        let many = rank_topics(3, &apart, &RankingSettings::default());
        apart.drain(..8);
        apart.push(JudgedPrompt { topic: 0, errors: 8.0, labels: 8.0 });
        let one = rank_topics(3, &apart, &RankingSettings::default());
        assert!(many.topics[0].flagged);
        assert!(!one.topics[0].flagged, "{:?}", one.topics[0]);
    }

    #[test]
    fn agreeing_labels_of_prompts_cause_no_false_flags() {
        let mut random = crate::random::Random::new(21);
        let settings = RankingSettings { permutations: 499, seed: 1 };
        let worlds = 400;
        let false_flags = (0..worlds).filter(|_| {
            // Four labels of a prompt are all wrong or all right, without regard to its topic.
            let prompt = |at: usize| {
                let errors = if random.unit() < 0.25 { 4.0 } else { 0.0 };
                JudgedPrompt { topic: at % 12, errors, labels: 4.0 }
            };
            let judged: Vec<JudgedPrompt> = (0..60).map(prompt).collect();
            rank_topics(12, &judged, &settings).topics.iter().any(|topic| topic.flagged)
        });
        let false_flags = false_flags.count();
        println!("{false_flags} of {worlds} worlds have a false flag");
        // 5 % and two standard errors.
        assert!(false_flags <= 28, "{false_flags}");
    }

    #[test]
    fn holm_multiplies_by_the_number_of_remaining_topics() {
        let found = holm(&[0.01, 0.04, 0.03, 1.0], &[true, true, true, false]);
        for (found, expected) in found.iter().zip([0.03, 0.06, 0.06, 1.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn topics_without_labels_have_the_overall_estimate_and_are_never_flagged() {
        let found = rank_topics(3, &judged(&[(5, 20), (5, 20)]), &RankingSettings::default());
        let empty = found.topics.iter().find(|topic| topic.topic == 2).unwrap();
        assert!((empty.estimate - 10.5 / 41.0).abs() < 1e-9);
        assert!(!empty.flagged && empty.p_value >= 1.0);
        let none = rank_topics(2, &[], &RankingSettings::default());
        assert_eq!((none.overall, none.topics.len()), (None, 2));
    }
}
