//! One experiment, from its configuration to a running pipeline.
//!
//! [`models`] opens the models on disk, [`plan`] derives the plan, `plan_check` compares it with the
//! log, and `plan_fork` finds a fork for a changed one.
//! Then `start` opens the sessions of the models, and `run` runs the pipeline to its end in this process.
//! `serving` runs the pipeline as a service instead. `bundle` passes an experiment to workers on other hosts.

mod base_check;
pub(crate) mod bundle;
mod carried;
pub(crate) mod create;
pub(crate) mod focus;
pub(crate) mod fork;
pub(crate) mod kept_config;
pub mod kept_settings;
pub(crate) mod learning_plan;
pub mod models;
pub mod plan;
pub(crate) mod plan_check;
pub(crate) mod plan_fork;
mod prompt_artifact;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod uploaded_config;
