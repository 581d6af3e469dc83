//! Limits of numbers in a configuration.

/// Largest `generation.batch_prompts`.
pub(super) const BATCH_PROMPTS_MAX: usize = 64;

/// Maximum number of rounds. A policy drifts far from its start long before that.
pub(crate) const ROUNDS_MAX: u32 = 1000;

/// Maximum number of threads of one model run. Far more threads than cores would take minutes to start.
pub(crate) const THREADS_MAX: usize = 256;
