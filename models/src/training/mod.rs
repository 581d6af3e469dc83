//! Training in ONNX Runtime: each step is one graph, from the token ids to the new parameters.
//!
//! A [`spec::StepSpec`] says what is trained and towards what. [`packing::PackedBatch`] brings sequences of different lengths into
//! one run, [`losses::LossInputs`] what the loss needs besides; [`step::StepSession`] takes the steps, and
//! [`evaluation::EvalSession`] runs the same forward pass without a gradient. The trained numbers are one flat vector, which
//! [`parameters::ParameterLayout`] explains.
//!
//! On top of that, [`trainer::Trainer`] trains on examples ([`data::TrainingData`]) towards an [`objective::Objective`]: learning
//! rates, the order of the data, accumulation, checkpoints that a training goes on from, evaluation.

pub mod checkpoint;
pub mod data;
pub mod data_order;
pub mod evaluation;
mod forward;
pub mod losses;
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
