//! The Proxy-Policy Alignment Conflict Score: z-scored reward minus z-scored log-probability.

/// Smallest population standard deviation, in the unit of the scores. Below it, the rewards or
/// log-probabilities of a prompt count as constant.
pub const MIN_SIGMA: f64 = 1e-6;

/// Largest magnitude whose sum of squares cannot overflow. Larger ones are shrunk first.
const LARGE: f64 = power_of_two(480);
/// Factor of the shrinking: a power of two, so that no value is rounded.
const SHRINK: f64 = power_of_two(-600);

const fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits((1023 + exponent).cast_unsigned() << 52)
}

/// Returns the PACS of each completion of a prompt, shape `[N]`: z(reward) − z(log-probability). All are 0 if
/// either does not vary ([`MIN_SIGMA`]) or if the lengths differ. Scores must be finite.
///
/// ```
/// use dissent_domain::conflict::pacs;
///
/// let (rewards, logprobs) = ([1.0, 1.0, 2.0, 3.0], [-1.0, -2.0, -2.0, -4.0]);
/// let expected = [-2.051613, -1.13395, 0.072096, 3.113467];
/// for (pacs, expected) in pacs(&rewards, &logprobs).iter().zip(expected) {
///     assert!((pacs - expected).abs() < 1e-6);
/// }
/// ```
#[must_use]
pub fn pacs(rewards: &[f64], logprobs: &[f64]) -> Vec<f64> {
    match (z_scores(rewards), z_scores(logprobs)) {
        (Some(z_rewards), Some(z_logprobs)) if z_rewards.len() == z_logprobs.len() => {
            z_rewards.iter().zip(&z_logprobs).map(|(reward, logprob)| reward - logprob).collect()
        }
        _ => vec![0.0; rewards.len()],
    }
}

/// Returns the z-score of each value, shape `[N]`: its distance from the mean in population standard
/// deviations. `None` if N < 2 or if the standard deviation is below [`MIN_SIGMA`]. Values must be finite and
/// may be of any size.
#[must_use]
pub fn z_scores(values: &[f64]) -> Option<Vec<f64>> {
    let mut z = Vec::new();
    standardise(values, &mut z).then_some(z)
}

/// Writes the [`z_scores`] into a buffer. Returns whether the values vary; if not, the content of the buffer
/// is undefined.
pub(super) fn standardise(values: &[f64], z: &mut Vec<f64>) -> bool {
    z.clear();
    let largest = values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let scale = if largest > LARGE { SHRINK } else { 1.0 };
    let n = values.len() as f64;
    // Deviations from the first value: a large common offset costs no precision, and equal values have a
    // standard deviation of exactly 0.
    let Some(origin) = values.first().map(|first| first * scale) else { return false };
    z.extend(values.iter().map(|value| value * scale - origin));
    let mean = z.iter().sum::<f64>() / n;
    let mut squares = 0.0;
    for deviation in z.iter_mut() {
        *deviation -= mean;
        squares += *deviation * *deviation;
    }
    let sigma = (squares / n).sqrt();
    if values.len() < 2 || sigma < MIN_SIGMA * scale {
        return false;
    }
    for deviation in z.iter_mut() {
        *deviation /= sigma;
    }
    true
}
