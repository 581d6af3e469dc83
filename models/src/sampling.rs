//! Sampling of one token from logits, with its log-probability.
//!
//! All arithmetic has one fixed order and no fused multiply-adds. The same logits and the same seed give the
//! same token and the same bits on every machine.

use dissent_domain::generation::SamplingParams;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// The random numbers of one completion.
pub(crate) struct SampleRng(ChaCha8Rng);

impl SampleRng {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// Uniform in [0, 1), in steps of 2⁻⁵³.
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A sampled token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub(crate) token: u32,
    /// In nats, of the distribution without temperature.
    pub(crate) logprob: f64,
}

/// Draws tokens. Its buffers are reused from draw to draw.
pub(crate) struct Sampler {
    temperature: f64,
    top_k: usize,
    top_p: f64,
    weights: Vec<f32>,
    sums: Vec<f64>,
    candidates: Vec<u32>,
}

/// The block size of the sums of weights.
const BLOCK: usize = 512;
/// The number of parallel sums within a block.
const LANES: usize = 16;

impl Sampler {
    pub(crate) fn new(params: &SamplingParams) -> Self {
        Self {
            temperature: params.temperature,
            top_k: usize::try_from(params.top_k).unwrap_or(usize::MAX),
            top_p: params.top_p,
            weights: Vec::new(),
            sums: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Draws one token from finite logits: temperature first, then top-k, then top-p, in the order of
    /// transformers.
    ///
    /// Temperature 0 takes the most likely token; among several, the one with the lowest id.
    pub(crate) fn choose(&mut self, logits: &[f32], rng: &mut SampleRng) -> Choice {
        let normaliser = LogNormaliser::of(logits);
        let index = if self.temperature <= 0.0 {
            logits.iter().position(|&logit| logit >= normaliser.max).unwrap_or(0)
        } else {
            self.draw(logits, normaliser.max, rng.uniform())
        };
        Choice { token: u32::try_from(index).unwrap_or(u32::MAX), logprob: normaliser.logprob(logits[index]) }
    }

    fn draw(&mut self, logits: &[f32], max: f32, uniform: f64) -> usize {
        self.temper(logits, max);
        let total: f64 = self.sums.iter().sum();
        let keeps_all = self.top_p >= 1.0 && (self.top_k == 0 || self.top_k >= logits.len());
        if keeps_all { self.draw_from_all(uniform * total) } else { self.draw_from_likeliest(total, uniform) }
    }

    /// The weights exp((logit − max) / temperature), and their sums by block.
    fn temper(&mut self, logits: &[f32], max: f32) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "weights are 32 bits wide; at most ±1 unit in the last place"
        )]
        let inverse = (1.0 / self.temperature) as f32;
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| exp_nonpositive((logit - max) * inverse)));
        self.sums.clear();
        self.sums.extend(self.weights.chunks(BLOCK).map(block_sum));
    }

    fn draw_from_all(&self, mut target: f64) -> usize {
        let mut block = 0;
        while block + 1 < self.sums.len() && target >= self.sums[block] {
            target -= self.sums[block];
            block += 1;
        }
        let start = block * BLOCK;
        let weights = &self.weights[start..self.weights.len().min(start + BLOCK)];
        let likeliest_last = || weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
        start + index_at(weights.iter().copied(), target).unwrap_or_else(likeliest_last)
    }

    fn draw_from_likeliest(&mut self, total: f64, uniform: f64) -> usize {
        let weights = &self.weights;
        let kept_total = if self.top_k == 0 || self.top_k >= weights.len() {
            // Together, the weights under the floor are less than the 1 − top_p that is cut off.
            let floor = (1.0 - self.top_p) * total / weights.len() as f64;
            collect(&mut self.candidates, weights, |weight| f64::from(weight) >= floor);
            total
        } else {
            let mut ordered = weights.clone();
            let (_, threshold, _) = ordered.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
            let threshold = *threshold;
            collect(&mut self.candidates, weights, |weight| weight >= threshold);
            self.candidates.iter().map(|&id| f64::from(weights[id as usize])).sum()
        };
        let weight_of = |id: u32| weights[id as usize];
        self.candidates.sort_unstable_by(|&a, &b| weight_of(b).total_cmp(&weight_of(a)).then(a.cmp(&b)));
        let mut before = 0.0;
        let nucleus = self.candidates.iter().take_while(|&&id| {
            let inside = before < self.top_p * kept_total;
            before += f64::from(weight_of(id));
            inside
        });
        let kept = nucleus.count().max(1);
        let kept = &self.candidates[..kept.min(self.candidates.len())];
        let sum: f64 = kept.iter().map(|&id| f64::from(weight_of(id))).sum();
        let place = index_at(kept.iter().map(|&id| weight_of(id)), uniform * sum).unwrap_or(0);
        kept.get(place).map_or(0, |&id| id as usize)
    }
}

fn collect(into: &mut Vec<u32>, weights: &[f32], keep: impl Fn(f32) -> bool) {
    into.clear();
    into.extend((0_u32..).zip(weights).filter(|&(_, &weight)| keep(weight)).map(|(id, _)| id));
}

/// Returns the first index at which the running sum exceeds the target.
fn index_at(weights: impl Iterator<Item = f32>, target: f64) -> Option<usize> {
    let mut sum = 0.0;
    weights.enumerate().find_map(|(index, weight)| {
        sum += f64::from(weight);
        (sum > target).then_some(index)
    })
}

/// The normaliser from logits to log-probabilities: log Σ exp(logits), stored as the largest logit and the
/// remainder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogNormaliser {
    max: f32,
    log_sum: f64,
}

impl LogNormaliser {
    pub(crate) fn of(logits: &[f32]) -> Self {
        let max = maximum(logits);
        let mut weights = [0.0; BLOCK];
        let sum: f64 = logits
            .chunks(BLOCK)
            .map(|block| {
                let weights = &mut weights[..block.len()];
                for (weight, &logit) in weights.iter_mut().zip(block) {
                    *weight = exp_nonpositive(logit - max);
                }
                block_sum(weights)
            })
            .sum();
        Self { max, log_sum: sum.ln() }
    }

    /// In nats; at most 0, except for rounding.
    pub(crate) fn logprob(&self, logit: f32) -> f64 {
        f64::from(logit) - f64::from(self.max) - self.log_sum
    }
}

fn maximum(numbers: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane = if number > *lane { number } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &number| max.max(number))
}

fn block_sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = weights.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += weight;
        }
    }
    lanes.iter().chain(rest).map(|&weight| f64::from(weight)).sum()
}

/// exp(x) for x ≤ 0, within 2 units in the last place. Below e⁻⁸⁷ it stays at about 10⁻³⁸.
///
/// The library's exp is exact enough, but takes one number at a time and differs between machines. This one
/// is plain arithmetic that compilers vectorise: Cody–Waite reduction by ln 2, then the Taylor series to x⁷.
#[inline]
fn exp_nonpositive(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves the nearest integer in the low bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let rest = x - exponent * LN_2_HIGH - exponent * LN_2_LOW;
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * rest + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    series * power
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(temperature: f64, top_k: u32, top_p: f64) -> SamplingParams {
        SamplingParams { samples: 1, temperature, top_p, top_k, max_new_tokens: 1, stop: Vec::new() }
    }

    /// Returns the share of each token among `draws` draws.
    fn frequencies(logits: &[f32], params: &SamplingParams, draws: u64) -> Vec<f64> {
        let mut sampler = Sampler::new(params);
        let mut counts = vec![0_u32; logits.len()];
        let mut rng = SampleRng::new([7; 32]);
        for _ in 0..draws {
            counts[sampler.choose(logits, &mut rng).token as usize] += 1;
        }
        counts.iter().map(|&count| f64::from(count) / draws as f64).collect()
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    #[test]
    fn draws_follow_the_tempered_softmax() {
        let logits: Vec<f32> = (0..1500_u16).map(|i| f32::from(i * 37 % 101) * 0.05).collect();
        let expected = softmax(&logits, 0.7);
        let seen = frequencies(&logits, &params(0.7, 0, 1.0), 200_000);
        let distance: f64 = seen.iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
        // 1500 cells and 200 000 draws leave a random distance of about 3 %.
        assert!(distance < 0.045, "total variation {distance}");
    }

    #[test]
    fn top_k_keeps_the_k_most_likely_tokens() {
        let logits = [0.0, 3.0, 1.0, 2.0, -1.0];
        let seen = frequencies(&logits, &params(1.0, 2, 1.0), 20_000);
        let odds = f64::exp(1.0);
        assert!((seen[1] - odds / (1.0 + odds)).abs() < 0.02, "{seen:?}");
        assert!((seen[1] + seen[3] - 1.0).abs() < 1e-12, "{seen:?}");
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        let logits: Vec<f32> = [0.5_f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        for (top_p, kept) in [(0.4, 1), (0.5001, 2), (0.79, 2), (0.81, 3), (0.94, 3), (0.96, 4)] {
            let seen = frequencies(&logits, &params(1.0, 0, top_p), 4000);
            assert_eq!(seen.iter().filter(|&&share| share > 0.0).count(), kept, "top_p {top_p}: {seen:?}");
        }
    }

    #[test]
    fn temperature_zero_takes_the_lowest_id_among_equals() {
        let mut sampler = Sampler::new(&params(0.0, 0, 1.0));
        assert_eq!(sampler.choose(&[1.0, 5.0, 5.0, 2.0], &mut SampleRng::new([0; 32])).token, 1);
    }

    #[test]
    fn the_log_probability_ignores_temperature_and_filters() {
        let logits = [0.3, -2.0, 1.7, 0.0];
        let expected = softmax(&logits, 1.0);
        let mut sampler = Sampler::new(&params(0.3, 2, 0.5));
        let choice = sampler.choose(&logits, &mut SampleRng::new([1; 32]));
        assert!((choice.logprob - expected[choice.token as usize].ln()).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn the_exponential_is_within_two_units_of_the_exact(x in -87.0_f32..=0.0) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - exact).abs() / exact;
            prop_assert!(error < 2.5e-7, "{x}: {error}");
        }

        #[test]
        fn log_probabilities_sum_to_one(logits in prop::collection::vec(-30.0_f32..30.0, 1..2000)) {
            let normaliser = LogNormaliser::of(&logits);
            let sum: f64 = logits.iter().map(|&logit| normaliser.logprob(logit).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }

        #[test]
        fn every_draw_is_a_token(
            logits in prop::collection::vec(-80.0_f32..80.0, 1..1200),
            temperature in 0.05_f64..5.0, top_k in 0_u32..40, top_p in 0.01_f64..=1.0, seed: [u8; 32],
        ) {
            let mut sampler = Sampler::new(&params(temperature, top_k, top_p));
            let choice = sampler.choose(&logits, &mut SampleRng::new(seed));
            prop_assert!((choice.token as usize) < logits.len());
            prop_assert!(choice.logprob.is_finite() && choice.logprob < 1e-5);
        }
    }
}
