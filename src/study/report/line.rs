//! A line of a chart.

use dissent_domain::analysis::Interval;

/// A line with an interval at each of its points.
pub(in crate::study) struct Line {
    pub(in crate::study) name: String,
    /// Where, ascending, and what.
    pub(in crate::study) points: Vec<(f64, Interval)>,
}
