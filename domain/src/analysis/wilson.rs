//! The interval of a share.

use super::interval::Interval;

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Returns the share `successes / n` with its 95 % interval after Wilson (1927), within [0, 1]. The
/// observations are independent; several of one prompt are not, and their interval is too narrow. `None` for
/// n = 0 or more successes than observations.
#[must_use]
pub fn wilson_interval(successes: usize, n: usize) -> Option<Interval> {
    if n == 0 || successes > n {
        return None;
    }
    let (count, mean) = (n as f64, successes as f64 / n as f64);
    let squared = Z * Z / count;
    let centre = (mean + squared / 2.0) / (1.0 + squared);
    let reach = Z / (1.0 + squared) * (mean * (1.0 - mean) / count + squared / (4.0 * count)).sqrt();
    Some(Interval { mean, low: (centre - reach).max(0.0), high: (centre + reach).min(1.0), n })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: scipy, `binomtest(7, 10).proportion_ci(method="wilson")`, and the same for 50 of 50.
    #[test]
    fn the_interval_is_that_of_scipy() {
        let near =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-7, "{found}, {expected}");
        let seven = wilson_interval(7, 10).unwrap();
        near(seven.mean, 0.7);
        near(seven.low, 0.396_778_1);
        near(seven.high, 0.892_208_7);
        let all = wilson_interval(50, 50).unwrap();
        near(all.low, 0.928_652_4);
        near(all.high, 1.0);
        assert_eq!((wilson_interval(0, 0), wilson_interval(2, 1)), (None, None));
    }
}
