//! The pipeline at work: one actor for each step, the journal that alone writes history, and the round
//! coordinator.
//!
//! ```text
//!            ┌──────────────────────── events, durable first ────────────────────────┐
//!            ▼                                                                       │
//!   round → prompt → generation → reward → conflict → round       every arrow: broker │
//!            └────────┴─────── proposals ───┴──────────┴──────▶ journal ─── decide, append
//! ```
//!
//! A step consumes events of one kind and proposes the events that follow from each. What it consumes
//! and emits, and why, is at the head of its file: [`prompt`], [`generation`], [`reward`], [`conflict`],
//! [`round`]. The frame that they share — take a batch, compute on the step's own thread, propose,
//! acknowledge — is [`step`].

mod clock;
pub mod conflict;
pub mod generation;
pub mod journal;
mod model_run;
pub mod pipeline;
pub mod prompt;
pub mod reward;
pub mod round;
mod set_aside;
pub mod step;
#[cfg(test)]
mod tests;

pub use generation::Policy;
pub use journal::Progress;
pub use pipeline::{Pipeline, PipelineError, Resources};
pub use reward::Proxy;
pub use step::StepError;
