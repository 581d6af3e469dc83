//! Settings that no configuration needs to name. An experiment keeps those that it began with.

use anyhow::Context as _;
use dissent_domain::feedback::Opponent;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::{DegenerateCompletions, FeedbackPlan, FocusPlan, Plan};
use dissent_models::ModelError;
use dissent_models::checkpoint::ReadingRules;

use super::plan_check::recorded_plan;
use crate::config::FeedbackConfig;

/// The settings of an experiment that has begun, or the defaults of a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSettings {
    /// The rules by which files of models are read.
    pub reading: ReadingRules,
    /// The name in the seeds of samples; `None`: the name of the experiment.
    pub sampling_key: Option<String>,
    /// The opponent of a configuration that names none.
    pub opponent: Opponent,
    /// The audit share of a configuration that names none.
    pub audit: f64,
    /// What happens to degenerate completions where a configuration does not say it.
    pub degenerate: DegenerateCompletions,
    /// The focus that a fork began with. No configuration can name it.
    pub focus: Option<FocusPlan>,
}

impl Default for KeptSettings {
    fn default() -> Self {
        Self {
            reading: ReadingRules::default(),
            sampling_key: Some(Plan::SAMPLING_KEY.to_owned()),
            opponent: FeedbackConfig::OPPONENT,
            audit: FeedbackPlan::AUDIT,
            degenerate: DegenerateCompletions::Skip,
            focus: None,
        }
    }
}

impl KeptSettings {
    /// Returns the settings that a recorded plan keeps; the defaults if there is none.
    ///
    /// # Errors
    /// If its reading rules are those of a newer version of the program.
    pub(crate) fn of_plan(plan: Option<&Plan>) -> Result<Self, ModelError> {
        let Some(plan) = plan else { return Ok(Self::default()) };
        Ok(Self {
            reading: ReadingRules::try_from(plan.reading_rules)?,
            sampling_key: plan.sampling_key.clone(),
            opponent: plan.learning.as_ref().map(|learning| learning.feedback.opponent).unwrap_or_default(),
            audit: plan.learning.as_ref().map_or(0.0, |learning| learning.feedback.audit),
            degenerate: plan
                .learning
                .as_ref()
                .map(|learning| learning.feedback.degenerate)
                .unwrap_or_default(),
            focus: plan.learning.as_ref().and_then(|learning| learning.feedback.focus.clone()),
        })
    }

    /// Returns the settings that an experiment keeps; the defaults if it has not begun.
    ///
    /// # Errors
    /// If the log cannot be read, or as [`KeptSettings::of_plan`].
    pub(crate) fn of_experiment(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<Self> {
        let plan = recorded_plan(log, experiment)?;
        Self::of_plan(plan.as_ref()).with_context(|| format!("experiment {experiment}"))
    }
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EventId, ExperimentStarted, NewEvent};
    use dissent_domain::log::{Append, ExpectedVersion};
    use dissent_storage::{MemoryLog, wait};
    use serde_json::json;

    use super::*;

    fn started(reading_rules: u32) -> MemoryLog {
        let plan = json!({
            "experiment": "e", "seed": 0, "rounds": 1, "prompts": {"artifact": "h", "count": 1},
            "policy": {"name": "p", "fingerprint": "f", "template": "chat"},
            "reward": {"name": "r", "fingerprint": "g", "template": "chat", "kind": "reward"},
            "sampling": {}, "reading_rules": reading_rules,
            "conflict": {"logprob": "sum", "selection": dissent_domain::conflict::SelectionSettings::default()},
        });
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let (log, experiment) = (MemoryLog::new(), plan.experiment.clone());
        let id = EventId::of_experiment(&experiment);
        let event = NewEvent::new(id, None, "test", 0, &ExperimentStarted::new(plan).into()).unwrap();
        let append = Append { experiment, expected: ExpectedVersion::Exact(0), events: vec![event] };
        wait(log.append(append)).unwrap();
        log
    }

    #[test]
    fn an_experiment_keeps_the_settings_that_it_began_with() {
        let name = ExperimentId::new("e").unwrap();
        let of = |log: &MemoryLog| KeptSettings::of_experiment(log, &name);
        assert_eq!(of(&MemoryLog::new()).unwrap(), KeptSettings::default());
        let first = KeptSettings {
            reading: ReadingRules::V1,
            sampling_key: None,
            opponent: Opponent::Conflict,
            audit: 0.0,
            degenerate: DegenerateCompletions::Ask,
            focus: None,
        };
        assert_eq!(of(&started(1)).unwrap(), first);
        assert_eq!(of(&started(2)).unwrap().reading, ReadingRules::V2);
        let error = format!("{:#}", of(&started(9)).unwrap_err());
        assert!(error.contains("experiment e") && error.contains("rules 9"), "{error}");
    }
}
