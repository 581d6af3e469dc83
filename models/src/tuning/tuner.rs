//! The iterations of tuning: sample, score, train.

use std::collections::BTreeMap;

use dissent_domain::training::kl::KlController;
use dissent_domain::training::{Hyperparameters, PolicyObjective};
use serde::{Deserialize, Serialize};

use super::checkpoint::TuningCheckpoint;
use super::method::Method;
use super::phases::{Phase, PhaseTimer, PhaseTimes};
use super::policy::TunedPolicy;
use super::rollout::{Rollout, RolloutPlan, Scorer, TuningPrompt, roll_out};
use super::rollout_math::{AdvantageEstimate, Means, MicroBatch, divergences, mean};
use crate::error::{InvalidKind, ModelError};
use crate::runtime::CancelFlag;
use crate::training::LearningRate;
use crate::training::{AdamWStep, BatchOutput, LossInputs, TrainingSequence};
use crate::training::{DataOrder, DataPlan};

/// The settings of a tuning.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TuningSettings {
    /// The method and its settings. Its `ppo` section holds the numbers of iterations, prompts, samples and
    /// epochs.
    pub objective: PolicyObjective,
    /// The optimiser, the low-rank change, the batch sizes and the seed. Its `epochs` and `steps` are not
    /// used. Prompts whose longest completion would exceed `max_length` are skipped.
    pub training: Hyperparameters,
}

/// The report of an iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct IterationReport {
    /// The number of iterations done, including this one.
    pub iteration: u32,
    /// The number of iterations of the whole tuning.
    pub iterations: u32,
    /// Metrics, under TRL's names.
    pub metrics: BTreeMap<String, f64>,
    /// The time of each phase.
    pub phases: PhaseTimes,
}

/// The callbacks of [`PolicyTuner::run`].
pub struct TuningHooks<'a> {
    /// Called after each iteration.
    pub on_iteration: &'a mut dyn FnMut(&IterationReport),
    /// Iterations between checkpoints; 0 disables checkpoints.
    pub checkpoint_every: u32,
    /// Called with the number of iterations done and the bytes for [`PolicyTuner::restore`]. An error ends
    /// the run.
    pub on_checkpoint: &'a mut dyn FnMut(u32, Vec<u8>) -> Result<(), ModelError>,
}

/// The tuning of a policy against a reward.
pub struct PolicyTuner<P> {
    policy: P,
    prompts: Vec<TuningPrompt>,
    /// The indices of the prompts that are short enough.
    usable: Vec<usize>,
    settings: TuningSettings,
    method: Method,
    order: DataPlan,
    rates: LearningRate,
    controller: KlController,
    iteration: u32,
    steps: u64,
}

impl<P: TunedPolicy> PolicyTuner<P> {
    /// Prepares a tuning.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a setting out of range, a method that does not sample, an empty prompt, or
    /// if all prompts are too long.
    pub fn new(policy: P, prompts: Vec<TuningPrompt>, settings: TuningSettings) -> Result<Self, ModelError> {
        let invalid = |error: dissent_domain::training::SettingError| {
            ModelError::invalid(InvalidKind::Setting, error.to_string())
        };
        settings.objective.validate().map_err(invalid)?;
        settings.training.validate().map_err(invalid)?;
        let method = Method::try_from(settings.objective.method)?;
        let usable = usable_prompts(&prompts, &settings)?;
        let ppo = &settings.objective.ppo;
        let completions = ppo.prompts as usize * ppo.samples as usize;
        let order = DataPlan::new(completions, &settings.training, DataOrder::Shuffled);
        let steps = u64::from(ppo.iterations) * u64::from(ppo.epochs) * order.steps_per_epoch();
        let rates = LearningRate::new(&settings.training, steps);
        let controller = KlController::new(ppo);
        Ok(Self {
            policy,
            prompts,
            usable,
            settings,
            method,
            order,
            rates,
            controller,
            iteration: 0,
            steps: 0,
        })
    }

    /// Returns the number of prompts that are skipped because their longest completion would exceed
    /// `max_length`.
    #[must_use]
    pub fn skipped_prompts(&self) -> usize {
        self.prompts.len() - self.usable.len()
    }

    /// Iterations done.
    #[must_use]
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// Whether all iterations are done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.iteration >= self.settings.objective.ppo.iterations
    }

    /// Returns the current policy.
    #[must_use]
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// Ends the tuning and returns the policy.
    #[must_use]
    pub fn into_policy(self) -> P {
        self.policy
    }

    /// Runs the remaining iterations.
    ///
    /// # Errors
    /// As [`PolicyTuner::iterate`], and the callbacks' errors.
    pub fn run(
        &mut self,
        scorer: &mut dyn Scorer,
        hooks: TuningHooks<'_>,
        cancel: &CancelFlag,
    ) -> Result<(), ModelError> {
        while !self.is_done() {
            let report = self.iterate(scorer, cancel)?;
            (hooks.on_iteration)(&report);
            if hooks.checkpoint_every > 0 && self.iteration.is_multiple_of(hooks.checkpoint_every) {
                (hooks.on_checkpoint)(self.iteration, self.checkpoint()?)?;
            }
        }
        Ok(())
    }

    /// Runs one iteration.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] if a reward is not finite, or if there is not one
    /// reward per completion. The errors of the policy and the scorer. An error leaves the policy as before
    /// the iteration.
    pub fn iterate(
        &mut self,
        scorer: &mut dyn Scorer,
        cancel: &CancelFlag,
    ) -> Result<IterationReport, ModelError> {
        let before = self.policy.state().clone();
        let steps = self.steps;
        self.attempt(scorer, cancel).or_else(|error| {
            self.steps = steps;
            self.policy.restore(before)?;
            Err(error)
        })
    }

    fn attempt(
        &mut self,
        scorer: &mut dyn Scorer,
        cancel: &CancelFlag,
    ) -> Result<IterationReport, ModelError> {
        let mut timer = PhaseTimer::begin();
        let ppo = self.settings.objective.ppo.clone();
        let plan = RolloutPlan {
            prompts: &self.prompts,
            usable: &self.usable,
            settings: &ppo,
            training: &self.settings.training,
            head: self.method.loss().head(),
        };
        let rollouts = roll_out(&plan, self.iteration, &mut self.policy, scorer, &mut timer, cancel)?;
        let coefficient = self.controller.coefficient();
        let mut metrics = BTreeMap::new();
        let estimates = self.method.advantages(&rollouts, &ppo, coefficient, &mut metrics);
        let mut means = Means::default();
        for _ in 0..u64::from(ppo.epochs) * self.order.steps_per_epoch() {
            self.train_step(&rollouts, &estimates, &mut means, &mut timer, cancel)?;
        }
        means.report(&mut metrics);
        self.controller.update(mean(divergences(&rollouts, &ppo).into_iter()), rollouts.len());
        self.iteration += 1;
        let phases = timer.end();
        let episodes = u64::from(self.iteration) * rollouts.len() as u64;
        for (name, value) in [
            ("lr", self.rates.at(self.steps.saturating_sub(1))),
            ("episode", episodes as f64),
            ("eps", rollouts.len() as f64 / phases.total().as_secs_f64().max(f64::MIN_POSITIVE)),
            ("kl_coef", coefficient),
        ] {
            metrics.insert(name.to_owned(), value);
        }
        Ok(IterationReport { iteration: self.iteration, iterations: ppo.iterations, metrics, phases })
    }

    /// One step of the optimiser, over its micro-batches.
    fn train_step(
        &mut self,
        rollouts: &[Rollout],
        estimates: &[AdvantageEstimate],
        means: &mut Means,
        timer: &mut PhaseTimer,
        cancel: &CancelFlag,
    ) -> Result<(), ModelError> {
        let parts = self.order.micro_batches(self.steps);
        let tokens = |places: &[usize]| places.iter().map(|&place| rollouts[place].tokens()).sum::<usize>();
        let step_tokens = parts.iter().map(|part| tokens(part)).sum();
        let step_completions = parts.iter().map(Vec::len).sum();
        let rate = self.rates.at(self.steps);
        let adam = AdamWStep::new(&self.settings.training, rate, self.steps + 1);
        let mut loss = 0.0;
        for (index, part) in parts.iter().enumerate() {
            let members = part.iter().map(|&place| (&rollouts[place], &estimates[place])).collect();
            let micro_batch = MicroBatch { members, step_tokens, step_completions };
            let is_last = index + 1 == parts.len();
            let (inputs, output) =
                self.train_micro_batch(&micro_batch, is_last.then_some(&adam), timer, cancel)?;
            loss += f64::from(output.loss);
            self.method.observe(&inputs, &output, means);
            if is_last {
                means.add("grad_norm", f64::from(output.gradient_norm));
            }
        }
        means.add("loss", loss);
        self.steps += 1;
        Ok(())
    }

    /// Runs one micro-batch. With `adam` it also takes a step of the optimiser.
    fn train_micro_batch(
        &mut self,
        micro_batch: &MicroBatch<'_>,
        adam: Option<&AdamWStep>,
        timer: &mut PhaseTimer,
        cancel: &CancelFlag,
    ) -> Result<(LossInputs, BatchOutput), ModelError> {
        let sequences: Vec<TrainingSequence> =
            micro_batch.members.iter().map(|(rollout, _)| rollout.sequence.clone()).collect();
        let settings = &self.settings.objective.ppo;
        let inputs = self.method.inputs(micro_batch, settings, self.controller.coefficient());
        let policy = &mut self.policy;
        let output = timer.time(Phase::Training, || match adam {
            Some(adam) => policy.step(&sequences, &inputs, adam, cancel),
            None => policy.accumulate(&sequences, &inputs, cancel),
        })?;
        Ok((inputs, output))
    }

    /// Returns a checkpoint for [`PolicyTuner::restore`], between two iterations.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if it cannot be serialised.
    pub fn checkpoint(&self) -> Result<Vec<u8>, ModelError> {
        let checkpoint = TuningCheckpoint {
            plan: self.plan()?,
            iteration: self.iteration,
            steps: self.steps,
            kl_coefficient: self.controller.coefficient(),
            state: self.policy.state().clone(),
        };
        checkpoint.to_bytes()
    }

    /// Resumes from a checkpoint of the same tuning, as if it had never been interrupted.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the bytes are no checkpoint, or one of other settings, prompts or models.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        let checkpoint = TuningCheckpoint::from_bytes(bytes)?;
        if checkpoint.plan != self.plan()? {
            return Err(ModelError::invalid(
                InvalidKind::Checkpoint,
                "the checkpoint belongs to another tuning: resume with its original settings, prompts, base model and \
                 reference, or restart",
            ));
        }
        self.policy.restore(checkpoint.state)?;
        self.controller = KlController::resumed(&self.settings.objective.ppo, checkpoint.kl_coefficient);
        (self.iteration, self.steps) = (checkpoint.iteration, checkpoint.steps);
        Ok(())
    }

    /// Identifies the tuning: settings, policy and prompts.
    fn plan(&self) -> Result<String, ModelError> {
        let mut hasher = blake3::Hasher::new_derive_key("dissent policy tuning plan 1");
        let settings = rmp_serde::to_vec_named(&self.settings).map_err(|error| {
            ModelError::invalid_because(
                InvalidKind::Serialisation,
                "the settings cannot be serialised",
                error,
            )
        })?;
        let policy = self.policy.fingerprint();
        for part in [settings.as_slice(), policy.as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        for prompt in &self.prompts {
            hasher.update(&(prompt.ids.len() as u64).to_le_bytes());
            for id in &prompt.ids {
                hasher.update(&id.to_le_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

fn usable_prompts(prompts: &[TuningPrompt], settings: &TuningSettings) -> Result<Vec<usize>, ModelError> {
    if let Some(empty) = prompts.iter().position(|prompt| prompt.ids.is_empty()) {
        return Err(ModelError::invalid(InvalidKind::Empty, format!("prompt {empty} has no token")));
    }
    let (room, new_tokens) = (settings.training.max_length, settings.objective.ppo.max_new_tokens);
    let fits = |ids: &[u32]| ids.len() as u64 + u64::from(new_tokens) <= u64::from(room);
    let usable: Vec<usize> = (0..prompts.len()).filter(|&index| fits(&prompts[index].ids)).collect();
    if usable.is_empty() {
        return Err(ModelError::invalid(
            InvalidKind::Data,
            format!(
                "all {} prompts are too long: a prompt and {new_tokens} new tokens (ppo.max_new_tokens) must fit into \
                 {room} tokens (max_length)",
                prompts.len()
            ),
        ));
    }
    Ok(usable)
}
