//! The running pipeline: one actor for each step, and the journal that alone writes history.
//!
//! ```text
//!            ┌──────────────────────── events, durable first ────────────────────────┐
//!            ▼                                                                       │
//!   round → prompt → generation → reward → conflict → round       every arrow: broker │
//!     └──→ feedback → round → training → round → evaluation → round                   │
//!            └────────┴─────── proposals ───┴──────────┴──────▶ journal ─── decide, append
//! ```
//!
//! A step consumes events of one type and proposes the events that follow from each. The table in
//! `steps/mod.rs` lists them; the head of each file in `steps/` gives the reason. These are the folders, from
//! top to bottom. Each uses only those below it:
//!
//! | folder | content |
//! |---|---|
//! | `process` | the parts of a server and of a worker, their start and their end |
//! | `steps` | the steps of the pipeline |
//! | `journal` | the one writer of history, operator commands, artifact checks, snapshots |
//! | `live_models` | loaded models and their versions |
//! | `runner` | the frame of every step: take a batch, compute, propose, acknowledge |
//! | `state` | the states of experiments, folded from their histories |

mod error;
mod journal;
mod live_models;
mod process;
#[cfg(test)]
#[path = "../../tests/support/required.rs"]
mod required;
mod runner;
mod state;
mod steps;
#[cfg(test)]
mod tests;

pub use error::{CommandError, LoadError, PipelineError, RunFailure, StepError, StepFault};
pub use journal::operator::{Control, command_in_log};
pub use live_models::cache::{CacheLimits, CacheStatus, ModelCache};
pub use live_models::gold::{Gold, GoldModel};
pub use live_models::policy::Policy;
pub use live_models::proxy::Proxy;
pub use live_models::token_meter::TokenMeter;
pub use live_models::versions::{Base, fingerprint};
pub use process::ending::Ending;
pub use process::experiment::RunEnd;
pub use process::health::ProcessHealth;
pub use process::history::{History, LogHistory};
pub use process::host::Host;
pub use process::recompute::{Difference, RecomputeError, Recomputed, Tally, recompute};
pub use process::resources::{LearningResources, Resources};
pub use process::roles::Roles;
pub use process::server::Pipeline;
pub use process::step_set::{groups, subscriptions};
pub use process::worker::{Worker, WorkerEnd};
pub use runner::step::{Consequence, Received, Step};
pub use runner::turns::Turns;
pub use state::clock::now_us;
pub use state::progress::{Phase, Progress};
pub use state::{CommandOutcome, Judged, JudgedLine, States};
pub use steps::feedback::inbox::read_judgements;
pub use steps::training::onnx_trainer::{OnnxTrainer, TrainableModel};
pub use steps::training::report::LeaseTimes;
pub use steps::training::trainer::{Refinement, TrainedAdapter, Trainer, TrainingWatch, Tuning};
