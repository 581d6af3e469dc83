//! One experiment, from its configuration to a running pipeline.
//!
//! In this order: [`models`] opens the models on disk, [`plan`] makes the recorded plan, `plan_check`
//! compares it with the log, `start` opens the sessions of the models, and `run` drives the pipeline to its
//! end in this process. The other way to drive it is `serving`. `bundle` hands an experiment to
//! workers on other hosts.

pub(crate) mod bundle;
mod learning_plan;
pub mod models;
pub mod plan;
pub(crate) mod plan_check;
mod prompt_artifact;
pub(crate) mod run;
pub(crate) mod start;
