//! The resources of a process.

use std::sync::Arc;

use dissent_domain::log::EventLog;
use dissent_domain::prompt::Prompt;
use dissent_models::runtime::CancelFlag;
use dissent_queues::Broker;
use dissent_storage::{ArtifactStore, Snapshots};

use super::roles::Roles;
use crate::live_models::gold::Gold;
use crate::live_models::policy::Policy;
use crate::live_models::proxy::Proxy;
use crate::live_models::versions::Base;
use crate::steps::training::report::LeaseTimes;
use crate::steps::training::trainer::Trainer;

/// The resources of a process. Models and the gold reward are needed only if a role of the process uses them.
pub struct Resources {
    /// The history: the log itself where the journal is, a copy in memory elsewhere.
    pub log: Arc<dyn EventLog>,
    /// The broker of events and proposals.
    pub broker: Arc<dyn Broker>,
    /// Adapters, checkpoints and data that the log names.
    pub artifacts: ArtifactStore,
    /// The store of snapshots; `None`: every start folds the whole history. Only the process of the journal
    /// uses the store.
    pub snapshots: Option<Snapshots>,
    /// The steps that run here.
    pub roles: Roles,
    /// The prompts of the plan, in order; only the process of the journal needs them.
    pub prompts: Vec<Prompt>,
    /// The loaded policy.
    pub policy: Option<Policy>,
    /// The loaded proxy.
    pub proxy: Option<Proxy>,
    /// The further resources of a plan that learns.
    pub learning: Option<LearningResources>,
    /// Interrupts computations. A later run repeats them with the same result.
    pub cancel: CancelFlag,
    /// The lease of the trainings of this process.
    pub lease: LeaseTimes,
    /// Whether other processes may run steps of the experiment too.
    pub shared: bool,
    /// Whether the run waits for judgements of people, instead of ending.
    pub waits_for_people: bool,
}

/// The resources of a plan that learns.
pub struct LearningResources {
    /// The prompts that policies are evaluated on.
    pub held_out: Vec<Prompt>,
    /// The gold reward, if the plan has one.
    pub gold: Option<Box<dyn Gold>>,
    /// Trains the models; `None` if the training step does not run.
    pub trainer: Option<Box<dyn Trainer>>,
    /// The policy that the experiment began with.
    pub policy: Base,
    /// The reward model that the experiment began with.
    pub reward: Base,
}
