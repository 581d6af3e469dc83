//! The beta distribution.

/// Returns ln Γ(x) for x > 0, by Stirling's series after shifting x above 10 (DLMF 5.11.1). The error is
/// below 1e-10.
pub(super) fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let squared = x * x;
    let series =
        (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * squared)) / squared) / squared) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

/// Returns ln B(a, b) for a, b > 0.
pub(super) fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Returns the `p` quantile of the beta distribution, for 0 < `p` < 1 and a, b > 0, by bisection.
pub(super) fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if beta_cdf(middle, a, b) < p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Returns the regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22).
pub(super) fn beta_cdf(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast below the mean; above it, the mirror image does.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_cdf(1.0 - x, b, a);
    }
    let front = (a * x.ln() + b * (1.0 - x).ln() - ln_beta(a, b)).exp() / a;
    front * continued_fraction(x, a, b)
}

/// Evaluates the fraction 1/(1 + d₁/(1 + d₂/(1 + …))) by Lentz's method.
fn continued_fraction(x: f64, a: f64, b: f64) -> f64 {
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut numerator, mut denominator, mut value) = (1.0, 0.0, 1.0);
    for index in 1..2000 {
        let (n, m) = (f64::from(index), f64::from(index / 2));
        let partial = if index % 2 == 0 { m * (b - m) * x } else { -(a + m) * (a + b + m) * x }
            / ((a + n - 1.0) * (a + n));
        denominator = 1.0 / away_from_zero(1.0 + partial * denominator);
        numerator = away_from_zero(1.0 + partial / numerator);
        let ratio = numerator * denominator;
        value *= ratio;
        if (ratio - 1.0).abs() < 1e-14 {
            break;
        }
    }
    1.0 / value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found}, expected {expected}");
    }

    #[test]
    fn gamma_of_whole_and_half_numbers_is_exact() {
        near(ln_gamma(1.0), 0.0);
        near(ln_gamma(5.0), 24.0_f64.ln());
        near(ln_gamma(0.5), 0.5 * std::f64::consts::PI.ln());
        near(ln_gamma(101.0), (1..=100).map(|factor| f64::from(factor).ln()).sum());
    }

    /// The sum of binomial probabilities: I_x(k, n − k + 1) = P(Bin(n, x) ≥ k).
    #[test]
    fn the_distribution_is_the_binomial_sum() {
        for (n, k, x) in [(10, 3, 0.2), (10, 3, 0.9), (150, 40, 0.25), (1, 1, 0.7), (60, 1, 0.01)] {
            let probability = |count: i32| {
                let ways = ln_gamma(f64::from(n + 1))
                    - ln_gamma(f64::from(count + 1))
                    - ln_gamma(f64::from(n - count + 1));
                ways.exp() * f64::powi(x, count) * f64::powi(1.0 - x, n - count)
            };
            let expected: f64 = (k..=n).map(probability).sum();
            near(beta_cdf(x, f64::from(k), f64::from(n - k + 1)), expected);
        }
    }

    #[test]
    fn quantiles_invert_the_distribution() {
        for (a, b) in [(0.5, 0.5), (1.0, 1.0), (2.0, 30.0), (200.0, 800.0)] {
            for p in [0.025, 0.5, 0.975] {
                near(beta_cdf(beta_quantile(p, a, b), a, b), p);
            }
        }
        near(beta_quantile(0.3, 1.0, 1.0), 0.3);
    }
}
