//! The models in the course of an experiment: loaded sessions, and the versions that trainings make.

pub(crate) mod cache;
pub(crate) mod completions;
pub(crate) mod gold;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod run_failure;
pub(crate) mod shared;
pub(crate) mod token_meter;
pub(crate) mod versions;
