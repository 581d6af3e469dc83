//! The pipeline at work: one actor for each step, the journal that alone writes history, and the round
//! coordinator.
//!
//! ```text
//!            ┌──────────────────────── events, durable first ────────────────────────┐
//!            ▼                                                                       │
//!   round → prompt → generation → reward → conflict → round       every arrow: broker │
//!     └──→ feedback → round → training → round → evaluation → round                   │
//!            └────────┴─────── proposals ───┴──────────┴──────▶ journal ─── decide, append
//! ```
//!
//! A step consumes events of one kind and proposes the events that follow from each. What it consumes
//! and emits, and why, is at the head of its file: [`prompt`], [`generation`], [`reward`], [`conflict`],
//! [`feedback`], [`training`], [`evaluation`], [`round`]. The frame that they share — take a batch, compute on the step's own thread, propose,
//! acknowledge — is [`step`].

mod answered;
mod answers;
mod clock;
pub mod conflict;
pub mod control;
mod crew;
pub mod evaluation;
mod evidence;
pub mod feedback;
mod gate;
pub mod generation;
pub mod gold;
mod history;
pub mod inbox;
pub mod journal;
pub mod model;
mod model_run;
mod neglect;
pub mod pipeline;
mod progress;
pub mod prompt;
pub mod recompute;
#[cfg(test)]
#[path = "../../tests/support/required.rs"]
mod required;
pub mod reward;
mod roles;
pub mod round;
mod set_aside;
mod snapshot;
pub mod step;
#[cfg(test)]
mod tests;
mod trace;
pub mod training;
mod vitals;
mod worker;

pub use clock::now_us;
pub use control::{Control, OrderError, Ordered};
pub use crew::{LearningResources, Resources, groups, subscriptions};
pub use generation::Policy;
pub use gold::{Gold, GoldModel};
pub use history::{History, LogHistory};
pub use model::Base;
pub use pipeline::{Ending, Pipeline, PipelineError};
pub use progress::{Phase, Progress};
pub use recompute::recompute;
pub use reward::Proxy;
pub use roles::Roles;
pub use step::StepError;
pub use training::{Learnable, Learner, LeaseTimes, ModelLearner};
pub use vitals::Vitals;
pub use worker::Worker;
