//! Training in ONNX Runtime: each step is one graph, from the token ids to the new parameters.
//!
//! A [`spec::StepSpec`] selects the trained parameters and the loss. [`packing::PackedBatch`] packs sequences
//! of different lengths into one run, and [`losses::LossInputs`] holds the other inputs of the loss.
//! [`step::StepSession`] takes steps; [`evaluation::EvalSession`] runs the same forward pass without a
//! gradient. The trained parameters are one flat vector, described by [`parameters::ParameterLayout`].
//!
//! Above these, [`trainer::Trainer`] trains on examples ([`data::TrainingData`]) with an
//! [`objective::Objective`]. It handles learning rates, the data order, gradient accumulation, checkpoints
//! and evaluation.

pub mod checkpoint;
pub mod data;
pub mod data_order;
pub mod evaluation;
mod forward;
pub mod losses;
pub mod memory;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod packing;
pub mod parameters;
mod runner;
pub mod schedule;
pub mod spec;
pub mod step;
pub mod trainer;

pub use checkpoint::TrainingCheckpoint;
pub use data::{TokenPair, TrainingData};
pub use data_order::{DataCursor, DataOrder, DataPlan};
pub use evaluation::{EvalSession, ModelOutputs};
pub use losses::LossInputs;
pub use metrics::{Details, ImitationMetrics, PreferenceMetrics, ScoreMetrics, StepMetrics};
pub use objective::Objective;
pub use optimizer::AdamWStep;
pub use packing::{PackedBatch, TrainingSequence};
pub use parameters::ParameterLayout;
pub use schedule::LearningRate;
pub use spec::{LoraPlan, Loss, PositionReport, StepSpec, Trainable, TrainingHead};
pub use step::{BatchOutput, StepSession, TrainingState};
pub use trainer::{Evaluation, Trainer, TrainingObserver, TrainingSetup, fresh_adapter};
