//! The graphs of training: steps of each loss and evaluations, each opened and run once.

use dissent_domain::training::{DpoLoss, Hyperparameters, LoraSettings};
use dissent_models::checkpoint::Checkpoint;
use dissent_models::runtime::{CancelFlag, ComputeType, OnnxRuntime, SessionOptions};
use dissent_models::training::{
    AdamWStep, EvalSession, LoraPlan, Loss, LossInputs, PackedBatch, ParameterLayout, PositionReport,
    StepSession, StepSpec, Trainable, TrainingHead, TrainingSequence, TrainingState,
};

use crate::Failure;
use crate::session_options;

const LOSSES: [Loss; 9] = [
    Loss::Sft,
    Loss::BradleyTerry,
    Loss::Cost,
    Loss::Dpo(DpoLoss::Sigmoid),
    Loss::Dpo(DpoLoss::Ipo),
    Loss::Dpo(DpoLoss::Hinge),
    Loss::Ppo,
    Loss::Grpo,
    Loss::Rloo,
];

/// The graphs of evaluations that trainers and tuners open: a head and what it reports.
const EVALUATIONS: [(TrainingHead, PositionReport); 6] = [
    (TrainingHead::Score, PositionReport { entropy: false, hits: false }),
    (TrainingHead::Vocabulary, PositionReport { entropy: false, hits: false }),
    (TrainingHead::Vocabulary, PositionReport { entropy: true, hits: false }),
    (TrainingHead::Vocabulary, PositionReport { entropy: true, hits: true }),
    (TrainingHead::VocabularyAndValue, PositionReport { entropy: false, hits: false }),
    (TrainingHead::VocabularyAndValue, PositionReport { entropy: true, hits: false }),
];

/// The types of matrix products in trainings on a GPU.
pub(crate) const DTYPES: [ComputeType; 2] = [ComputeType::F32, ComputeType::Bf16];

/// A graph of training.
pub(crate) enum TrainingGraph {
    /// A step of the optimiser.
    Step(StepSpec),
    /// A forward pass.
    Evaluation(Trainable, TrainingHead, PositionReport),
}

impl TrainingGraph {
    /// Returns every graph of a model.
    pub(crate) fn all(checkpoint: &Checkpoint) -> Result<Vec<Self>, Failure> {
        let settings = LoraSettings { r: 2, alpha: 4.0, targets: Vec::new() };
        let lora = Trainable::Lora(LoraPlan::new(&checkpoint.config, &settings)?);
        let mut graphs = Vec::new();
        for trainable in [lora, Trainable::Full] {
            for loss in LOSSES {
                for recompute in [false, true] {
                    graphs.push(Self::Step(StepSpec { trainable: trainable.clone(), loss, recompute }));
                }
            }
            for (head, report) in EVALUATIONS {
                graphs.push(Self::Evaluation(trainable.clone(), head, report));
            }
        }
        Ok(graphs)
    }

    /// Returns the group of the graph, for the table.
    pub(crate) fn group(&self) -> String {
        let (kind, trainable) = match self {
            Self::Step(spec) => ("steps", &spec.trainable),
            Self::Evaluation(trainable, ..) => ("evaluations", trainable),
        };
        let trainable = match trainable {
            Trainable::Lora(_) => "LoRA",
            Trainable::Full => "full",
        };
        format!("{kind}, {trainable}")
    }

    /// Returns the graph's name within its group.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Step(StepSpec { loss, recompute: true, .. }) => format!("{loss:?}, recomputing"),
            Self::Step(StepSpec { loss, .. }) => format!("{loss:?}"),
            Self::Evaluation(_, head, PositionReport { entropy, hits }) => {
                format!(
                    "{head:?}{}{}",
                    if *entropy { ", entropy" } else { "" },
                    if *hits { ", hits" } else { "" }
                )
            }
        }
    }

    /// Opens a session and runs a batch.
    pub(crate) fn run(
        &self,
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        dtype: ComputeType,
    ) -> Result<(), Failure> {
        let (trainable, head) = match self {
            Self::Step(spec) => (&spec.trainable, spec.loss.head()),
            Self::Evaluation(trainable, head, _) => (trainable, *head),
        };
        let layout = ParameterLayout::new(&checkpoint.config, &checkpoint.weights, trainable, head)?;
        let parameters = layout.initial(checkpoint, None, None, 0)?;
        let batch = PackedBatch::new(&sequences(), head)?;
        let (cancel, options) = (CancelFlag::new(), SessionOptions { dtype, ..session_options() });
        match self {
            Self::Step(spec) => {
                let state = TrainingState::new(parameters);
                let mut session = StepSession::open(runtime, checkpoint, spec, state, &options)?;
                let adam = AdamWStep::new(&Hyperparameters::default(), 1e-4, 1);
                session.step(&batch, &inputs(spec.loss, &batch), &adam, &cancel)?;
            }
            Self::Evaluation(trainable, head, report) => {
                let mut session =
                    EvalSession::open(runtime, checkpoint, trainable, *head, *report, &options)?;
                session.evaluate(&parameters, &batch, &cancel)?;
            }
        }
        Ok(())
    }
}

/// Returns two pairs of sequences of different lengths.
fn sequences() -> Vec<TrainingSequence> {
    let sequence = |length: u32| TrainingSequence {
        ids: (0..length).map(|place| 3 + place).collect(),
        completion_start: 2,
        skipped: Vec::new(),
    };
    [4, 6, 5, 4].map(sequence).into()
}

/// Returns inputs of a loss. The numbers do not matter.
fn inputs(loss: Loss, batch: &PackedBatch) -> LossInputs {
    let ones = |count: usize| vec![1.0; count];
    let (sequences, selected) = (batch.sequences(), batch.selected());
    let pairs = sequences / 2;
    match loss {
        Loss::Sft => LossInputs::Sft { weights: ones(selected) },
        Loss::BradleyTerry => {
            LossInputs::BradleyTerry { margins: ones(pairs), weights: ones(pairs), center: 0.1 }
        }
        Loss::Cost => LossInputs::Cost { signs: ones(sequences), weights: ones(pairs) },
        Loss::Dpo(_) => {
            LossInputs::Dpo { reference: ones(sequences), weights: ones(pairs), beta: 0.1, linear: 0.0 }
        }
        Loss::Ppo => LossInputs::Ppo {
            old_logprobs: ones(selected),
            old_values: ones(selected),
            advantages: ones(selected),
            returns: ones(selected),
            weights: ones(selected),
            clip: 0.2,
            value_clip: 0.2,
            value_coefficient: 0.1,
        },
        Loss::Grpo => LossInputs::Grpo {
            old_logprobs: ones(selected),
            reference_logprobs: ones(selected),
            advantages: ones(selected),
            weights: ones(selected),
            clip: 0.2,
            kl_coefficient: 0.1,
        },
        Loss::Rloo => LossInputs::Rloo {
            old_logprobs: ones(sequences),
            advantages: ones(sequences),
            weights: ones(sequences),
            clip: 0.2,
        },
    }
}
