//! The rules of conflict-aware alignment, pure: no clock, no thread, no file, no network, no ONNX.
//!
//! Read in the order of the pipeline: [`prompt`] → [`generation`] → [`reward`] → [`conflict`] → [`feedback`] →
//! [`training`], inside a [`round`] of an [`experiment`]; [`learning`] is the part of a round that follows the conflict. What happens is an [`event`]; where events are kept is a [`log`];
//! whether a history is what the rules would have made it is checked by [`replay`], what it would have asked under other settings is
//! said by [`what_if`], and how another one goes on from it by [`fork`]. What may be
//! added to it is decided by the [`journal`]; what people ask of it from outside is an [`operator`] command.

pub mod analysis;
pub mod conflict;
pub mod decision;
pub mod event;
pub mod event_ids;
pub mod experiment;
pub mod feedback;
pub mod fork;
pub mod generation;
pub mod id;
pub mod journal;
pub mod learning;
pub mod log;
pub mod operator;
pub mod plan;
pub mod prompt;
#[cfg(test)]
#[path = "../../tests/support/random.rs"]
mod random;
pub mod replay;
#[cfg(test)]
#[path = "../../tests/support/required.rs"]
mod required;
pub mod reward;
pub mod round;
pub mod snapshot;
mod state_hash;
pub mod training;
pub mod what_if;
