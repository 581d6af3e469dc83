//! The training step: settings, data, and the arithmetic around the model (advantages, KL estimates,
//! acceptance).
//!
//! The losses are graphs, which the crate `models` builds and differentiates.

pub mod advantage;
pub mod kl;
pub mod rows;
pub mod rso;
pub mod settings;

pub use rows::{Demonstration, Dialogue, Message, Preference, Role};
pub use settings::{
    DpoLoss, Hyperparameters, KlEstimator, LoraSettings, PolicyMethod, PolicyObjective, PpoSettings,
    Schedule, SettingError, Warmup,
};
