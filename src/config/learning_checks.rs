//! Checks of the learning sections: required combinations and consistent values.

use dissent_domain::plan::{FeedbackSource, GuardPlan};

use super::{Config, GoldConfig, LearningConfig, RefinementConfig, check_reward_template, template};

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

    pub(super) fn validate_learning(&self) -> Result<(), String> {
        let Some(feedback) = &self.feedback else { return self.without_feedback() };
        if feedback.overlap == 0 {
            return Err("feedback.overlap = 0: use at least 1".to_owned());
        }
        if feedback.budget == Some(0) {
            return Err("feedback.budget = 0: use at least 1, or leave it out".to_owned());
        }
        let of_oracle = feedback.source == FeedbackSource::Oracle;
        if of_oracle && self.gold.is_none() {
            return Err(
                "feedback.source = \"oracle\" needs [gold]: the oracle judges by the gold reward".to_owned()
            );
        }
        if of_oracle && feedback.overlap > 1 {
            return Err(format!(
                "feedback.overlap = {}: the oracle judges a comparison once; use 1",
                feedback.overlap
            ));
        }
        if self.generation.samples < 2 {
            return Err(format!(
                "generation.samples = {}: a comparison needs two completions; use at least 2",
                self.generation.samples
            ));
        }
        if let Some(GoldConfig::Model(gold)) = &self.gold {
            check_reward_template(&template::parse("gold", &gold.template)?)
                .map_err(|reason| format!("gold.template: {reason}"))?;
        }
        self.refinement.validate()?;
        let missing = |section: &str, what: &str| {
            format!("[{section}] is missing: [feedback] needs {what}; see `dissent run --help`")
        };
        self.tuning.as_ref().ok_or_else(|| missing("tuning", "a training of the policy"))?.validate()?;
        let evaluation = self.evaluation.as_ref().ok_or_else(|| missing("evaluation", "held-out prompts"))?;
        if evaluation.samples.is_some_and(|samples| !(1..=1024).contains(&samples)) {
            return Err("evaluation.samples is out of range: use 1 to 1024".to_owned());
        }
        check_guards(&self.guards, self.gold.is_some())
    }

    /// Rejects sections that would have no effect: they show a misunderstanding.
    fn without_feedback(&self) -> Result<(), String> {
        let given = [
            ("gold", self.gold.is_some()),
            ("refinement", self.refinement != RefinementConfig::default()),
            ("tuning", self.tuning.is_some()),
            ("evaluation", self.evaluation.is_some()),
            ("guards", self.guards != GuardPlan::default()),
        ];
        if let Some((section, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(format!(
                "[{section}] has no effect without [feedback]: add it, or leave [{section}] out"
            ));
        }
        if self.experiment.rounds > 1 {
            return Err(format!(
                "experiment.rounds = {}: without [feedback] a further round would repeat the first; use 1",
                self.experiment.rounds
            ));
        }
        Ok(())
    }
}

fn check_guards(guards: &GuardPlan, has_gold: bool) -> Result<(), String> {
    if let Some(kl_max) = guards.kl_max.filter(|kl_max| kl_max.is_nan() || *kl_max <= 0.0) {
        return Err(format!("guards.kl_max = {kl_max}: use a number above 0"));
    }
    match guards.gold_patience {
        Some(0) => return Err("guards.gold_patience = 0: use at least 1".to_owned()),
        Some(_) if !has_gold => {
            return Err(
                "guards.gold_patience needs [gold]: it limits the rounds without a growing gold reward"
                    .to_owned(),
            );
        }
        Some(_) | None => {}
    }
    if guards.stop_on_reward_hacking && !has_gold {
        return Err(
            "guards.stop_on_reward_hacking needs [gold]: the gold reward reveals reward hacking".to_owned()
        );
    }
    if !(0.0..=1.0).contains(&guards.agreement_drop) {
        return Err(format!("guards.agreement_drop = {}: use 0 to 1", guards.agreement_drop));
    }
    Ok(())
}
