//! The check of a plan that also finds the fork for a changed one.

use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use super::plan_check::{check_recorded_plan, recorded_plan};
use crate::history::suggested_fork::SuggestedFork;

/// Rejects a plan that differs from the recorded one, as [`check_recorded_plan`] does. If a fork can continue
/// the experiment with the new plan, the error has it as context.
///
/// # Errors
/// As [`check_recorded_plan`].
pub(crate) fn check_or_suggest(log: &dyn EventLog, plan: &Plan) -> anyhow::Result<()> {
    let Err(error) = check_recorded_plan(log, plan) else { return Ok(()) };
    let suggested = match recorded_plan(log, &plan.experiment) {
        Ok(Some(recorded)) => SuggestedFork::between(log, &recorded, plan),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    match suggested {
        Ok(Some(fork)) => Err(error.context(fork)),
        Ok(None) => Err(error),
        Err(unsound) => {
            let reason = format!("{unsound:#}");
            tracing::warn!(experiment_id = %plan.experiment, error = reason, "no fork can be suggested");
            Err(error)
        }
    }
}
