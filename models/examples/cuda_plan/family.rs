//! The checks of one family: each graph is opened and run, and its placement is read from the log.

use std::path::PathBuf;

use dissent_models::checkpoint::Checkpoint;
use dissent_models::runtime::{ComputeType, OnnxRuntime};
use tempfile::TempDir;

use crate::Failure;
use crate::inference;
use crate::placement::PlacementLog;
use crate::report::{Decoding, Outcome, Placed};
use crate::support::{families::Family, open};
use crate::training::{self, TrainingGraph};

/// A tiny model in a temporary folder.
struct Model {
    folder: TempDir,
    checkpoint: Checkpoint,
}

impl Model {
    fn new(folder: TempDir) -> Self {
        let checkpoint = open(folder.path(), None);
        Self { folder, checkpoint }
    }

    /// Returns a text that names this model after its folder, without that name.
    fn nameless(&self, text: &str) -> String {
        let name = self.folder.path().file_name().map(PathBuf::from).unwrap_or_default();
        text.replace(&*name.to_string_lossy(), "the model")
    }
}

/// Checks every graph of a family.
pub(crate) fn check(
    runtime: &'static OnnxRuntime,
    name: &str,
    log: &PlacementLog,
) -> Result<Vec<Outcome>, Failure> {
    let family = Family::named(name);
    let policy = Model::new(family.policy());
    let classifier = family.figures.classifier.as_ref().map(|_| Model::new(family.classifier()));
    let mut outcomes = Vec::new();
    let mut add = |model: &Model, group: String, graph: String, ran: Result<Vec<Decoding>, Failure>| {
        let (result, decoding) = match ran {
            Ok(decoding) => (log.take().all_on_cuda().map_err(|error| error.to_string()), decoding),
            Err(error) => (Err(model.nameless(&log.take().explain(error).to_string())), Vec::new()),
        };
        let placed = match result {
            Ok(nodes) => Placed::OnCuda { nodes },
            Err(reason) if reason.contains(inference::EXCEEDS_F16) => Placed::Refused,
            Err(reason) => Placed::Failed { reason },
        };
        outcomes.push(Outcome { family: name.to_owned(), group, graph, placed, decoding });
    };
    for dtype in inference::DTYPES {
        let ran = inference::generation(runtime, &policy.checkpoint, dtype);
        add(&policy, format!("generation, {dtype}"), "completions".to_owned(), ran);
        let ran = inference::log_probabilities(runtime, &policy.checkpoint, dtype);
        add(&policy, format!("scoring, {dtype}"), "log-probabilities".to_owned(), ran);
        if let Some(classifier) = &classifier {
            let ran = inference::rewards(runtime, &classifier.checkpoint, dtype);
            add(classifier, format!("scoring, {dtype}"), "rewards".to_owned(), ran);
        }
    }
    // Attention has no kernel for f32: such a session is refused, before or by ONNX Runtime.
    if inference::generation(runtime, &policy.checkpoint, ComputeType::F32).is_ok() {
        return Err(format!("{name} generates in f32 on CUDA, where attention has no such kernel").into());
    }
    log.take();
    for dtype in training::DTYPES {
        for graph in TrainingGraph::all(&policy.checkpoint)? {
            let ran = graph.run(runtime, &policy.checkpoint, dtype).map(|()| Vec::new());
            add(&policy, format!("{}, {dtype}", graph.group()), graph.name(), ran);
        }
    }
    Ok(outcomes)
}
