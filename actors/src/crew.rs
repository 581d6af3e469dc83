//! The steps that a process does, and what it does them with. The journal's process and every worker start theirs here.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use dissent_domain::event::StepName;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::{FeedbackSource, LearningPlan, Plan};
use dissent_domain::prompt::Prompt;
use dissent_models::runtime::CancelFlag;
use dissent_queues::{Broker, Subscription};
use dissent_storage::{ArtifactStore, Snapshots};

use crate::answered::Unanswered;
use crate::conflict::Conflict;
use crate::evaluation::Evaluation;
use crate::feedback::Oracle;
use crate::generation::{Generation, Policy, TokenMeter};
use crate::gold::{Gold, SharedGold};
use crate::journal::States;
use crate::model::{Base, Shared, Versions};
use crate::model_run::Judge;
use crate::pipeline::PipelineError;
use crate::prompt::Prompts;
use crate::reward::{Proxy, Reward};
use crate::roles::Roles;
use crate::round::Coordinator;
use crate::set_aside;
use crate::step::{self, AnyStep, StepHandle, Surroundings};
use crate::training::worker::{self, LeaseTimes, TrainingHandle, Workshop};
use crate::training::{Intake, Learner, Training};

/// What a process works with. Models and gold reward are needed only where a role of the process uses them.
pub struct Resources {
    /// The history: the log itself where the journal is, a copy in memory elsewhere.
    pub log: Arc<dyn EventLog>,
    /// Carries events and proposals.
    pub broker: Arc<dyn Broker>,
    /// Adapters, checkpoints and data that the log names.
    pub artifacts: ArtifactStore,
    /// Where snapshots of the state are kept; none: the whole history is folded at every start. Only the journal's process has
    /// use for them.
    pub snapshots: Option<Snapshots>,
    /// The steps to do here.
    pub roles: Roles,
    /// The prompts of the plan, in order; only the journal's process needs them.
    pub prompts: Vec<Prompt>,
    /// The policy, running.
    pub policy: Option<Policy>,
    /// The proxy reward model, running.
    pub proxy: Option<Proxy>,
    /// What a plan that learns needs besides.
    pub learning: Option<LearningResources>,
    /// Gives up what is being computed: it will be computed again, with the same result.
    pub cancel: CancelFlag,
    /// How long a training of this process may be silent.
    pub lease: LeaseTimes,
    /// Whether other processes may do steps of the experiment too.
    pub shared: bool,
}

/// What is learnt with.
pub struct LearningResources {
    /// The prompts that policies are evaluated on.
    pub held_out: Vec<Prompt>,
    /// The gold reward, where the plan has one.
    pub gold: Option<Box<dyn Gold>>,
    /// Trains the models; none where no training is done.
    pub learner: Option<Box<dyn Learner>>,
    /// The policy that the experiment began with.
    pub policy: Base,
    /// The reward model that the experiment began with.
    pub reward: Base,
    /// The folder into which people's judgements come while the pipeline runs; none: it does not wait for people.
    pub inbox: Option<PathBuf>,
}

/// Steps at work.
pub(crate) struct Crew {
    pub(crate) steps: Vec<StepHandle>,
    pub(crate) training: Option<TrainingHandle>,
}

impl Crew {
    /// Lets trainings end at their next step, and waits until nothing is in hand any more, after the broker was closed.
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

    /// Where its trainings begin, if it trains.
    pub(crate) fn intake(&self) -> Option<Arc<Intake>> {
        self.training.as_ref().map(TrainingHandle::intake)
    }
}

/// The steps whose results come from models, and what trainings are done with.
pub(crate) struct ModelSteps {
    pub(crate) steps: Vec<Box<dyn AnyStep>>,
    pub(crate) workshop: Option<Workshop>,
}

/// What several steps work with.
pub(crate) struct Shop {
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

/// The resources of a process, split into what its steps share and what only one of them needs.
pub(crate) fn split(
    plan: &Plan,
    resources: Resources,
    states: &States,
) -> (Shop, Vec<Prompt>, Option<LearningResources>) {
    let Resources { log, artifacts, roles, prompts, policy, proxy, learning, cancel, lease, .. } = resources;
    let versions = Versions { states: states.clone(), experiment: plan.experiment.clone(), artifacts };
    let shop = Shop {
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
    (shop, prompts, learning)
}

fn lacks(what: &str) -> PipelineError {
    PipelineError::Rejected(format!("a role of this process needs {what}, and there is none"))
}

impl Shop {
    /// Starts the steps of this process's roles.
    pub(crate) fn start(
        &self,
        learning: Option<LearningResources>,
        around: &Surroundings,
    ) -> Result<Crew, PipelineError> {
        let mut crew = Crew { steps: self.start_measuring(around)?, training: None };
        if let Some(learns) = &self.plan.learning {
            let resources = learning.ok_or_else(|| lacks("what the plan learns with"))?;
            self.start_learning(learns, resources, around, &mut crew)?;
        }
        Ok(crew)
    }

    /// The same step, for what is not answered in the log already.
    fn unanswered<P>(&self, step: P) -> Unanswered<P> {
        Unanswered::new(step, self.log.clone())
    }

    fn policy(&self) -> Result<Shared<Policy>, PipelineError> {
        self.policy.clone().ok_or_else(|| lacks("the policy"))
    }

    fn proxy(&self) -> Result<Shared<Proxy>, PipelineError> {
        self.proxy.clone().ok_or_else(|| lacks("the reward model"))
    }

    fn start_measuring(&self, around: &Surroundings) -> Result<Vec<StepHandle>, PipelineError> {
        let mut steps = Vec::new();
        if self.roles.contains(StepName::Generation) {
            steps.push(step::start(self.unanswered(self.generation()?), around)?);
        }
        if self.roles.contains(StepName::Reward) {
            steps.push(step::start(self.unanswered(self.reward()?), around)?);
        }
        if self.roles.contains(StepName::Conflict) {
            steps.push(step::start(self.conflict(), around)?);
        }
        Ok(steps)
    }

    fn start_learning(
        &self,
        learns: &LearningPlan,
        resources: LearningResources,
        around: &Surroundings,
        crew: &mut Crew,
    ) -> Result<(), PipelineError> {
        let LearningResources { held_out, gold, learner, policy, reward, inbox: _ } = resources;
        let gold: Option<SharedGold> = gold.map(|gold| Arc::new(Mutex::new(gold)));
        if self.roles.contains(StepName::Evaluation) {
            let evaluation = self.evaluation(learns, held_out, gold.clone())?;
            crew.steps.push(step::start(self.unanswered(evaluation), around)?);
        }
        if self.roles.contains(StepName::Feedback) && learns.feedback.source == FeedbackSource::Oracle {
            crew.steps.push(step::start(self.unanswered(self.oracle(gold)?), around)?);
        }
        if self.roles.contains(StepName::Training) {
            let learner = learner.ok_or_else(|| lacks("a learner"))?;
            let workshop = self.workshop(learns, learner, [policy, reward]);
            crew.training = Some(worker::start(workshop, self.lease, around)?);
        }
        Ok(())
    }

    /// The steps whose results come from models, to be done outside the pipeline; and what trainings are done with.
    pub(crate) fn model_steps(
        &self,
        learning: Option<LearningResources>,
    ) -> Result<ModelSteps, PipelineError> {
        let mut steps: Vec<Box<dyn AnyStep>> = vec![Box::new(self.generation()?), Box::new(self.reward()?)];
        let Some(learns) = &self.plan.learning else { return Ok(ModelSteps { steps, workshop: None }) };
        let resources = learning.ok_or_else(|| lacks("what the plan learns with"))?;
        let LearningResources { held_out, gold, learner, policy, reward, inbox: _ } = resources;
        let gold: Option<SharedGold> = gold.map(|gold| Arc::new(Mutex::new(gold)));
        if learns.feedback.source == FeedbackSource::Oracle {
            steps.push(Box::new(self.oracle(gold.clone())?));
        }
        steps.push(Box::new(self.evaluation(learns, held_out, gold)?));
        let learner = learner.ok_or_else(|| lacks("a learner"))?;
        Ok(ModelSteps { steps, workshop: Some(self.workshop(learns, learner, [policy, reward])) })
    }

    fn generation(&self) -> Result<Generation, PipelineError> {
        let Self { plan, versions, cancel, meter, .. } = self;
        Ok(Generation::new(self.policy()?, versions.clone(), plan, cancel.clone(), meter.clone()))
    }

    fn reward(&self) -> Result<Reward, PipelineError> {
        Ok(Reward::new(self.proxy()?, self.versions.clone(), self.cancel.clone()))
    }

    fn conflict(&self) -> Conflict {
        Conflict::new(self.log.clone(), self.plan.conflict.logprob)
    }

    fn oracle(&self, gold: Option<SharedGold>) -> Result<Oracle, PipelineError> {
        let gold = gold.ok_or_else(|| lacks("a gold reward for its oracle"))?;
        Ok(Oracle::new(self.log.clone(), self.plan.clone(), gold))
    }

    fn evaluation(
        &self,
        learns: &LearningPlan,
        held_out: Vec<Prompt>,
        gold: Option<SharedGold>,
    ) -> Result<Evaluation, PipelineError> {
        Ok(Evaluation {
            plan: self.plan.clone(),
            versions: self.versions.clone(),
            policy: self.policy()?,
            proxy: self.proxy()?,
            gold,
            prompts: held_out,
            samples: learns.evaluation.samples,
            cancel: self.cancel.clone(),
            meter: self.meter.clone(),
            judge: Judge::default(),
        })
    }

    fn workshop(
        &self,
        learns: &LearningPlan,
        learner: Box<dyn Learner>,
        [policy, reward]: [Base; 2],
    ) -> Workshop {
        Workshop {
            log: self.log.clone(),
            plan: self.plan.clone(),
            learning: learns.clone(),
            versions: self.versions.clone(),
            policy,
            reward,
            learner,
            cancel: self.cancel.clone(),
        }
    }
}

/// What the steps of a plan ask of the broker, so that their queues are there before those who consume them.
#[must_use]
pub fn subscriptions(plan: &Plan, batch_prompts: usize) -> Vec<Subscription> {
    let of = &plan.experiment;
    let mut subscriptions = vec![
        step::subscription::<Coordinator>(of, 1),
        step::subscription::<Prompts>(of, 1),
        step::subscription::<Generation>(of, batch_prompts),
        step::subscription::<Reward>(of, 1),
        step::subscription::<Conflict>(of, 1),
    ];
    if let Some(learns) = &plan.learning {
        subscriptions.push(step::subscription::<Evaluation>(of, 1));
        subscriptions.push(step::subscription::<Training>(of, 1));
        if learns.feedback.source == FeedbackSource::Oracle {
            subscriptions.push(step::subscription::<Oracle>(of, 1));
        }
    }
    subscriptions
}

/// The names under which the broker knows the steps of an experiment.
#[must_use]
pub fn groups(experiment: &ExperimentId) -> Vec<String> {
    set_aside::STEPS.into_iter().map(|step| step::group(step, experiment)).collect()
}
