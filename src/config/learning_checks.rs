//! Checks of the learning sections: required combinations and consistent values.

use dissent_domain::plan::{FeedbackSource, GuardPlan};

use super::{
    Config, ConfigError, FeedbackConfig, GoldConfig, KeyErrorKind, LearningConfig, RefinementConfig,
    range::check_range, template,
};

impl Config {
    /// Returns the learning part of the configuration; `None` without `[feedback]`.
    #[must_use]
    pub fn learning(&self) -> Option<LearningConfig<'_>> {
        let (tuning, evaluation) = self.tuning.as_ref().zip(self.evaluation.as_ref())?;
        Some(LearningConfig {
            feedback: self.feedback.as_ref()?,
            gold: self.gold.as_ref(),
            refinement: &self.refinement,
            tuning,
            evaluation,
            evaluation_samples: evaluation.samples.unwrap_or(self.generation.samples),
            guards: self.guards,
        })
    }

    pub(super) fn validate_learning(&self) -> Result<(), ConfigError> {
        let Some(feedback) = &self.feedback else { return self.without_feedback() };
        self.check_feedback(feedback)?;
        if let Some(GoldConfig::Model(gold)) = &self.gold {
            template::parse_reward("gold.template", &gold.template)?;
        }
        self.refinement.validate()?;
        let missing = |section: &str, need: &str| {
            let reason = format!("{section} is missing: [feedback] needs {need}; see `dissent run --help`");
            ConfigError::key(section, KeyErrorKind::Missing, reason)
        };
        self.tuning.as_ref().ok_or_else(|| missing("[tuning]", "a training of the policy"))?.validate()?;
        let evaluation =
            self.evaluation.as_ref().ok_or_else(|| missing("[evaluation]", "held-out prompts"))?;
        if let Some(samples) = evaluation.samples {
            check_range("evaluation.samples", samples, 1..=1024)?;
        }
        check_guards(&self.guards, self.gold.is_some())
    }

    fn check_feedback(&self, feedback: &FeedbackConfig) -> Result<(), ConfigError> {
        if feedback.overlap == 0 {
            return Err(ConfigError::out_of_range("feedback.overlap", 0, "use at least 1"));
        }
        if feedback.budget == Some(0) {
            return Err(ConfigError::out_of_range("feedback.budget", 0, "use at least 1, or leave it out"));
        }
        if let Some(audit) = feedback.audit.filter(|audit| !(0.0..1.0).contains(audit)) {
            let way_out = "use a share from 0 to less than 1, such as 0.15";
            return Err(ConfigError::out_of_range("feedback.audit", audit, way_out));
        }
        let of_oracle = feedback.source == FeedbackSource::Oracle;
        if of_oracle && self.gold.is_none() {
            return Err(gold_is_missing(
                "feedback.source = \"oracle\"",
                "the oracle judges by the gold reward",
            ));
        }
        if of_oracle && feedback.overlap > 1 {
            let way_out = "the oracle judges a comparison once; use 1";
            return Err(ConfigError::out_of_range("feedback.overlap", feedback.overlap, way_out));
        }
        if self.generation.samples < 2 {
            let way_out = "a comparison needs two completions; use at least 2";
            return Err(ConfigError::out_of_range("generation.samples", self.generation.samples, way_out));
        }
        Ok(())
    }

    /// Rejects sections that have no effect without feedback: such a section shows a misunderstanding.
    fn without_feedback(&self) -> Result<(), ConfigError> {
        let given = [
            ("[gold]", self.gold.is_some()),
            ("[refinement]", self.refinement != RefinementConfig::default()),
            ("[tuning]", self.tuning.is_some()),
            ("[evaluation]", self.evaluation.is_some()),
            ("[guards]", self.guards != GuardPlan::default()),
        ];
        if let Some((section, _)) = given.into_iter().find(|(_, given)| *given) {
            let reason =
                format!("{section} has no effect without [feedback]: add [feedback], or leave {section} out");
            return Err(ConfigError::key(section, KeyErrorKind::NoEffect, reason));
        }
        if self.experiment.rounds > 1 {
            let reason = format!(
                "experiment.rounds = {}: without [feedback] a further round would repeat the first; use 1",
                self.experiment.rounds
            );
            return Err(ConfigError::key("experiment.rounds", KeyErrorKind::NoEffect, reason));
        }
        Ok(())
    }
}

fn gold_is_missing(setting: &str, reason: &str) -> ConfigError {
    ConfigError::key("[gold]", KeyErrorKind::Missing, format!("{setting} needs [gold]: {reason}"))
}

fn check_guards(guards: &GuardPlan, has_gold: bool) -> Result<(), ConfigError> {
    if let Some(kl_max) = guards.kl_max.filter(|kl_max| kl_max.is_nan() || *kl_max <= 0.0) {
        return Err(ConfigError::out_of_range("guards.kl_max", kl_max, "use a number above 0"));
    }
    match guards.gold_patience {
        Some(0) => return Err(ConfigError::out_of_range("guards.gold_patience", 0, "use at least 1")),
        Some(_) if !has_gold => {
            let reason = "the patience counts rounds without a growing gold reward";
            return Err(gold_is_missing("guards.gold_patience", reason));
        }
        Some(_) | None => {}
    }
    if guards.stop_on_reward_hacking && !has_gold {
        let reason = "the gold reward reveals reward hacking";
        return Err(gold_is_missing("guards.stop_on_reward_hacking", reason));
    }
    check_range("guards.agreement_drop", guards.agreement_drop, 0.0..=1.0)
}
