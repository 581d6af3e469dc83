//! The focus of a fork: further pairs from the prompts of a topic or a category.

use std::collections::BTreeSet;

use anyhow::Context as _;
use dissent_domain::experiment::Experiment;
use dissent_domain::id::PromptId;
use dissent_domain::plan::{FocusPlan, LearningPlan, Plan};
use serde::{Deserialize, Serialize};

use crate::error::BadInput;

/// A group of prompts about which further pairs are asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Focus {
    topic: String,
    prompts: BTreeSet<PromptId>,
    pairs: u64,
}

impl Focus {
    pub(crate) fn new(topic: String, prompts: BTreeSet<PromptId>, pairs: u64) -> Self {
        Self { topic, prompts, pairs }
    }

    /// Adds the focus to the plan of a fork. `shared` is the state after the shared events: the next
    /// selection is that of its open round, or of the round after it. A budget of judgements grows by those
    /// of the further pairs.
    ///
    /// # Errors
    /// If the experiment asks nobody, or has made its last selection.
    pub(crate) fn add(&self, plan: &mut Plan, shared: &Experiment) -> anyhow::Result<()> {
        let name = &plan.experiment;
        let round = match shared.rounds().last() {
            Some(round) if round.evaluation().is_none() => round.number(),
            _ => u32::try_from(shared.rounds().len()).context("too many rounds")?,
        };
        if round >= plan.rounds {
            let reason = format!(
                "--focus: no selection follows: fork before the selection (--round {} --before selection)",
                plan.rounds.saturating_sub(1)
            );
            return Err(BadInput(reason).into());
        }
        let Some(LearningPlan { feedback, .. }) = plan.learning.as_deref_mut() else {
            return Err(
                BadInput(format!("--focus: experiment {name} asks nobody: it has no [feedback]")).into()
            );
        };
        let further = self.pairs.saturating_mul(feedback.overlap.into());
        feedback.budget = feedback.budget.map(|budget| budget.saturating_add(further));
        let Self { topic, prompts, pairs } = self.clone();
        feedback.focus = Some(FocusPlan { round, topic, prompts, pairs });
        Ok(())
    }

    /// Returns the group in words.
    pub(crate) fn description(&self) -> String {
        let prompts = crate::text::count(self.prompts.len() as u64, "prompt");
        format!("up to {} further pairs about {prompts}: {}", self.pairs, self.topic)
    }
}
