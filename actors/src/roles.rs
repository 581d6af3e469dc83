//! Which steps a process does.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use dissent_domain::event::StepName;

/// Steps that a process does. Rounds and prompts are always the journal's own: they are cheap, and they decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(BTreeSet<StepName>);

impl Roles {
    /// The steps that another process than the journal's can do.
    pub const SHARED: [StepName; 6] = [
        StepName::Generation,
        StepName::Reward,
        StepName::Conflict,
        StepName::Feedback,
        StepName::Training,
        StepName::Evaluation,
    ];

    /// Every step.
    #[must_use]
    pub fn all() -> Self {
        Self(Self::SHARED.into())
    }

    /// None but those of the journal's own process.
    #[must_use]
    pub fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether this process does a step.
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

    /// Whether a step here asks the gold reward.
    #[must_use]
    pub fn need_gold(&self) -> bool {
        [StepName::Feedback, StepName::Evaluation].iter().any(|step| self.contains(*step))
    }

    /// The steps, in the order of the pipeline.
    pub fn iter(&self) -> impl Iterator<Item = StepName> {
        Self::SHARED.into_iter().filter(|step| self.contains(*step))
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

    /// Reads `all`, `none`, or names with commas between them.
    ///
    /// # Errors
    /// The name that is no role, and those that are.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::all()),
            "none" => return Ok(Self::none()),
            _ => {}
        }
        let role = |name: &str| {
            let found = Self::SHARED.into_iter().find(|step| step.name() == name);
            found.ok_or_else(|| {
                let known: Vec<&str> = Self::SHARED.into_iter().map(StepName::name).collect();
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
    fn roles_are_read_as_they_are_written() {
        for text in ["generation", "generation,reward,training", "none"] {
            assert_eq!(text.parse::<Roles>().unwrap().to_string(), text);
        }
        assert_eq!("reward, generation".parse::<Roles>().unwrap().to_string(), "generation,reward");
        assert_eq!("all".parse::<Roles>().unwrap(), Roles::all());
    }

    #[test]
    fn what_is_no_role_is_named_with_those_that_are() {
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
