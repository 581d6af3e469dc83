//! Lines of charts.

use dissent_domain::analysis::Interval;

/// A line of a chart with an interval at each point.
pub(in crate::study) struct Line {
    pub(in crate::study) name: String,
    /// `(x, interval)`, by ascending x.
    pub(in crate::study) points: Vec<(f64, Interval)>,
}
