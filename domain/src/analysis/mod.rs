//! Statistics of selection rules: AUROC, precision and recall at a budget, intervals.
//!
//! For studies only: these figures need the true preference, which no selection rule may see.

mod auroc;
mod budget;
mod calibration;
mod comparison;
mod contrast;
mod interval;
mod mean;
mod ranks;
mod spread;
mod wilson;

pub use auroc::{auroc, stratified_auroc};
pub use budget::{AtBudget, at_budgets, mean_precision};
pub use calibration::{Calibration, ReliabilityBin, calibration, pairwise_accuracy};
pub use comparison::ComparisonResult;
pub use contrast::contrasts;
pub use interval::{Interval, bootstrap_interval, bootstrap_intervals, student_t_quantile, t_interval};
pub use mean::mean;
pub use ranks::{midranks, strata};
pub use spread::{BOOTSTRAP_GROUPS, Spread, corrected_level, ratio_contributions, sign_flip_p};
pub use wilson::wilson_interval;

#[cfg(test)]
mod tests;
