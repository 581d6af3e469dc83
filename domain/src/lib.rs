//! The rules of conflict-aware alignment, pure: no clock, no thread, no file, no network, no ONNX.
//!
//! Read in the order of the pipeline: [`prompt`] → [`generation`] → [`reward`] → [`conflict`] → [`feedback`]
//! → [`training`], inside a [`round`] of an [`experiment`]. [`learning`] is the part of a round after the
//! conflict step.
//!
//! An [`event`] is a fact of an experiment, and a [`log`] stores events. The [`journal`] decides which events
//! may be appended. [`replay`] checks a history against the rules. [`what_if`] selects again under other
//! settings, [`lift`] tells how well rules find errors, and [`fork`] continues a history under another name.
//! An [`operator`] command starts, pauses, resumes or cancels.
//!
//! For reports, [`flags`] notes what is wrong with a completion's text, and [`outcome`] says which model a
//! judgement contradicts. [`topics`] finds the prompts on which the proxy errs, and [`drift`] follows
//! conflicts over rounds.

pub mod analysis;
pub mod conflict;
pub mod drift;
pub mod due;
pub mod error;
pub mod event;
pub mod event_ids;
pub mod experiment;
pub mod feedback;
pub mod flags;
pub mod fork;
mod function_words;
pub mod generation;
pub mod id;
pub mod journal;
pub mod learning;
pub mod lift;
pub mod log;
pub mod operator;
pub mod outcome;
mod pipeline;
pub mod plan;
pub mod prompt;
#[cfg(test)]
#[path = "../../tests/support/random.rs"]
mod random;
pub mod rejection;
pub mod replay;
#[cfg(test)]
#[path = "../../tests/support/required.rs"]
mod required;
pub mod reward;
pub mod round;
pub mod snapshot;
mod state_hash;
pub mod topics;
pub mod training;
pub mod weight_form;
pub mod what_if;
mod words;
