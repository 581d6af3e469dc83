//! The steps that a process runs for an experiment.

use std::sync::{Arc, Mutex};

use dissent_domain::event::StepName;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::{FeedbackSource, LearningPlan, Plan};
use dissent_domain::prompt::Prompt;
use dissent_models::runtime::CancelFlag;
use dissent_queues::Subscription;

use super::resources::{LearningResources, Resources};
use super::roles::Roles;
use crate::error::PipelineError;
use crate::live_models::gold::SharedGold;
use crate::live_models::policy::Policy;
use crate::live_models::proxy::Proxy;
use crate::live_models::run_failure::RunFailures;
use crate::live_models::shared::Shared;
use crate::live_models::token_meter::TokenMeter;
use crate::live_models::versions::{Base, Versions};
use crate::runner::context::{self, StepContext};
use crate::runner::skip_recorded::SkipRecorded;
use crate::runner::spec::Presence;
use crate::runner::step::AnyStep;
use crate::runner::{self, StepHandle};
use crate::state::States;
use crate::steps::conflict::ConflictStep;
use crate::steps::evaluation::EvaluationStep;
use crate::steps::feedback::oracle::OracleStep;
use crate::steps::generation::GenerationStep;
use crate::steps::reward::RewardStep;
use crate::steps::training::assignment::TrainingIntake;
use crate::steps::training::report::LeaseTimes;
use crate::steps::training::thread::{self, TrainingHandle, TrainingInputs};
use crate::steps::training::trainer::Trainer;
use crate::steps::{self, PIPELINE};

/// The running steps of an experiment.
pub(crate) struct RunningSteps {
    pub(crate) steps: Vec<StepHandle>,
    pub(crate) training: Option<TrainingHandle>,
}

impl RunningSteps {
    /// Ends the training at its next step, and waits until all steps have finished. Call it after the
    /// experiment is stopped.
    pub(crate) async fn drained(self) {
        if let Some(training) = &self.training {
            training.stop();
        }
        for step in self.steps {
            step.drained().await;
        }
        if let Some(training) = self.training {
            training.drained().await;
        }
    }

    /// Begins its trainings; `None` if the training step does not run here.
    pub(crate) fn intake(&self) -> Option<Arc<TrainingIntake>> {
        self.training.as_ref().map(TrainingHandle::intake)
    }
}

/// The steps whose results come from models, and the inputs of trainings.
pub(crate) struct ModelSteps {
    pub(crate) steps: Vec<Box<dyn AnyStep>>,
    pub(crate) inputs: Option<TrainingInputs>,
}

/// Builds the steps of an experiment from the resources that they share.
pub(crate) struct StepBuilder {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) versions: Versions,
    pub(crate) roles: Roles,
    pub(crate) policy: Option<Shared<Policy>>,
    pub(crate) proxy: Option<Shared<Proxy>>,
    pub(crate) cancel: CancelFlag,
    pub(crate) lease: LeaseTimes,
    pub(crate) meter: TokenMeter,
}

/// Splits the resources of a process into shared ones and those of single steps.
pub(crate) fn split(
    plan: &Plan,
    resources: Resources,
    states: &States,
) -> (StepBuilder, Vec<Prompt>, Option<LearningResources>) {
    let Resources { log, artifacts, roles, prompts, policy, proxy, learning, cancel, lease, .. } = resources;
    let versions = Versions { states: states.clone(), experiment: plan.experiment.clone(), artifacts };
    let builder = StepBuilder {
        log,
        plan: Arc::new(plan.clone()),
        versions,
        roles,
        policy: policy.map(|policy| Arc::new(Mutex::new(policy))),
        proxy: proxy.map(|proxy| Arc::new(Mutex::new(proxy))),
        cancel,
        lease,
        meter: TokenMeter::default(),
    };
    (builder, prompts, learning)
}

impl StepBuilder {
    /// Starts the steps of the roles of this process.
    pub(crate) fn start(
        &self,
        learning: Option<LearningResources>,
        context: &StepContext,
    ) -> Result<RunningSteps, PipelineError> {
        let mut running = RunningSteps { steps: Vec::new(), training: None };
        self.start_step(|| self.generation(), StepName::Generation, context, &mut running)?;
        self.start_step(|| self.reward(), StepName::Reward, context, &mut running)?;
        self.start_step(|| Ok(self.conflict()), StepName::Conflict, context, &mut running)?;
        if let Some(learns) = &self.plan.learning {
            let resources =
                learning.ok_or(PipelineError::Missing("held-out prompts and models for learning"))?;
            self.start_learning(learns, resources, context, &mut running)?;
        }
        Ok(running)
    }

    /// Starts a step, if it is a role of this process. Its row in the table says whether it skips recorded
    /// results.
    fn start_step<S: AnyStep>(
        &self,
        build: impl FnOnce() -> Result<S, PipelineError>,
        name: StepName,
        context: &StepContext,
        running: &mut RunningSteps,
    ) -> Result<(), PipelineError> {
        if !self.roles.contains(name) {
            return Ok(());
        }
        let (step, spec) = (build()?, steps::spec(name));
        running.steps.push(if spec.skips_recorded {
            runner::start(SkipRecorded::new(step, spec, self.log.clone()), context)?
        } else {
            runner::start(step, context)?
        });
        Ok(())
    }

    fn policy(&self) -> Result<Shared<Policy>, PipelineError> {
        self.policy.clone().ok_or(PipelineError::Missing("the policy"))
    }

    fn proxy(&self) -> Result<Shared<Proxy>, PipelineError> {
        self.proxy.clone().ok_or(PipelineError::Missing("the reward model"))
    }

    fn start_learning(
        &self,
        learns: &LearningPlan,
        resources: LearningResources,
        context: &StepContext,
        running: &mut RunningSteps,
    ) -> Result<(), PipelineError> {
        let LearningResources { held_out, gold, trainer, policy, reward } = resources;
        let gold: Option<SharedGold> = gold.map(|gold| Arc::new(Mutex::new(gold)));
        let evaluation = || self.evaluation(learns, held_out, gold.clone());
        self.start_step(evaluation, StepName::Evaluation, context, running)?;
        if learns.feedback.source == FeedbackSource::Oracle {
            self.start_step(|| self.oracle(gold), StepName::Feedback, context, running)?;
        }
        if self.roles.contains(StepName::Training) {
            let trainer = trainer.ok_or(PipelineError::Missing("a trainer"))?;
            let inputs = self.inputs(learns, trainer, [policy, reward]);
            running.training = Some(thread::start(inputs, self.lease, context)?);
        }
        Ok(())
    }

    /// The steps whose results come from models, to run outside the pipeline, and the inputs of trainings.
    pub(crate) fn model_steps(
        &self,
        learning: Option<LearningResources>,
    ) -> Result<ModelSteps, PipelineError> {
        let mut steps: Vec<Box<dyn AnyStep>> = vec![Box::new(self.generation()?), Box::new(self.reward()?)];
        let Some(learns) = &self.plan.learning else { return Ok(ModelSteps { steps, inputs: None }) };
        let resources = learning.ok_or(PipelineError::Missing("held-out prompts and models for learning"))?;
        let LearningResources { held_out, gold, trainer, policy, reward } = resources;
        let gold: Option<SharedGold> = gold.map(|gold| Arc::new(Mutex::new(gold)));
        if learns.feedback.source == FeedbackSource::Oracle {
            steps.push(Box::new(self.oracle(gold.clone())?));
        }
        steps.push(Box::new(self.evaluation(learns, held_out, gold)?));
        let trainer = trainer.ok_or(PipelineError::Missing("a trainer"))?;
        Ok(ModelSteps { steps, inputs: Some(self.inputs(learns, trainer, [policy, reward])) })
    }

    fn generation(&self) -> Result<GenerationStep, PipelineError> {
        let Self { plan, versions, cancel, meter, .. } = self;
        Ok(GenerationStep::new(self.policy()?, versions.clone(), plan, cancel.clone(), meter.clone()))
    }

    fn reward(&self) -> Result<RewardStep, PipelineError> {
        Ok(RewardStep::new(self.proxy()?, self.versions.clone(), self.cancel.clone()))
    }

    fn conflict(&self) -> ConflictStep {
        ConflictStep::new(self.log.clone(), &self.plan)
    }

    fn oracle(&self, gold: Option<SharedGold>) -> Result<OracleStep, PipelineError> {
        let gold = gold.ok_or(PipelineError::Missing("a gold reward for the oracle"))?;
        Ok(OracleStep::new(self.log.clone(), self.plan.clone(), gold))
    }

    fn evaluation(
        &self,
        learns: &LearningPlan,
        held_out: Vec<Prompt>,
        gold: Option<SharedGold>,
    ) -> Result<EvaluationStep, PipelineError> {
        Ok(EvaluationStep {
            plan: self.plan.clone(),
            versions: self.versions.clone(),
            policy: self.policy()?,
            proxy: self.proxy()?,
            gold,
            prompts: held_out,
            samples: learns.evaluation.samples,
            cancel: self.cancel.clone(),
            meter: self.meter.clone(),
            failures: RunFailures::default(),
        })
    }

    fn inputs(
        &self,
        learns: &LearningPlan,
        trainer: Box<dyn Trainer>,
        [policy, reward]: [Base; 2],
    ) -> TrainingInputs {
        TrainingInputs {
            log: self.log.clone(),
            plan: self.plan.clone(),
            learning: learns.clone(),
            versions: self.versions.clone(),
            policy,
            reward,
            trainer,
            cancel: self.cancel.clone(),
        }
    }
}

/// The subscriptions of the steps of a plan, so that their queues exist before their consumers.
#[must_use]
pub fn subscriptions(plan: &Plan, batch_prompts: usize) -> Vec<Subscription> {
    let source = plan.learning.as_ref().map(|learns| learns.feedback.source);
    let is_present = |presence| match presence {
        Presence::Always => true,
        Presence::Learning => source.is_some(),
        Presence::Oracle => source == Some(FeedbackSource::Oracle),
    };
    let present = PIPELINE.iter().filter(|spec| is_present(spec.presence));
    present
        .map(|spec| {
            let batch = if spec.name == StepName::Generation { batch_prompts } else { 1 };
            context::subscription(spec.name, spec.consumes, &plan.experiment, batch)
        })
        .collect()
}

/// The names of the broker's groups that consume the events of an experiment.
#[must_use]
pub fn groups(experiment: &ExperimentId) -> Vec<String> {
    PIPELINE.iter().map(|spec| context::group(spec.name, experiment)).collect()
}
