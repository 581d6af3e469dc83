//! The roles of a process: the steps that it runs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use dissent_domain::event::StepName;

use crate::steps::PIPELINE;

/// The steps that a process runs. The round and prompt steps always run beside the journal, because they are
/// cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(BTreeSet<StepName>);

impl Roles {
    /// The steps that a worker can run, in the order of the pipeline.
    pub fn shared() -> impl Iterator<Item = StepName> {
        PIPELINE.iter().filter(|spec| spec.is_role).map(|spec| spec.name)
    }

    /// Every step.
    #[must_use]
    pub fn all() -> Self {
        Self(Self::shared().collect())
    }

    /// Only the steps that always run beside the journal.
    #[must_use]
    pub fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether this process runs a step.
    #[must_use]
    pub fn contains(&self, step: StepName) -> bool {
        self.0.contains(&step)
    }

    /// Whether a step here runs the policy.
    #[must_use]
    pub fn need_policy(&self) -> bool {
        [StepName::Generation, StepName::Evaluation].iter().any(|step| self.contains(*step))
    }

    /// Whether a step here runs the reward model.
    #[must_use]
    pub fn need_reward_model(&self) -> bool {
        [StepName::Reward, StepName::Evaluation].iter().any(|step| self.contains(*step))
    }

    /// Whether a step here uses the gold reward.
    #[must_use]
    pub fn need_gold(&self) -> bool {
        [StepName::Feedback, StepName::Evaluation].iter().any(|step| self.contains(*step))
    }

    /// The steps, in the order of the pipeline.
    pub fn iter(&self) -> impl Iterator<Item = StepName> {
        Self::shared().filter(|step| self.contains(*step))
    }
}

impl Default for Roles {
    fn default() -> Self {
        Self::all()
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.iter().map(StepName::name).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Roles {
    type Err = String;

    /// Parses `all`, `none`, or names separated by commas.
    ///
    /// # Errors
    /// The invalid name, and the valid ones.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::all()),
            "none" => return Ok(Self::none()),
            _ => {}
        }
        let role = |name: &str| {
            let found = Self::shared().find(|step| step.name() == name);
            found.ok_or_else(|| {
                let known: Vec<&str> = Self::shared().map(StepName::name).collect();
                format!("{name:?} is not a role: use all, none, or some of {}", known.join(","))
            })
        };
        text.split(',').map(|name| role(name.trim())).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_parsed_as_they_are_displayed() {
        for text in ["generation", "generation,reward,training", "none"] {
            assert_eq!(text.parse::<Roles>().unwrap().to_string(), text);
        }
        assert_eq!("reward, generation".parse::<Roles>().unwrap().to_string(), "generation,reward");
        assert_eq!("all".parse::<Roles>().unwrap(), Roles::all());
    }

    #[test]
    fn an_invalid_role_is_reported_with_the_valid_ones() {
        for text in ["rewrad", "round", "", "generation,"] {
            let error = text.parse::<Roles>().unwrap_err();
            assert!(error.contains("use all, none, or some of generation,reward"), "{error}");
        }
    }

    #[test]
    fn models_are_opened_only_where_they_run() {
        let of = |text: &str| text.parse::<Roles>().unwrap();
        assert!(of("generation").need_policy() && !of("generation").need_reward_model());
        assert!(of("reward").need_reward_model() && !of("reward").need_policy());
        assert!(!of("conflict,training").need_policy() && !of("conflict,training").need_gold());
        assert!(of("feedback").need_gold() && of("evaluation").need_policy());
    }
}
