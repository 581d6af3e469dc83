//! The scores of a reward model: its head on the last hidden states.

use crate::adapter::ScoreHead;
use crate::checkpoint::Weights;
use crate::checkpoint::layout::SCORE_HEAD;
use crate::checkpoint::score_head::RewardHead;
use crate::error::{InvalidKind, ModelError};
use crate::onnx::{Dim, ElementType, Graph, Value};

/// Returns the scores `[selected, labels]`. An adapter's head is an input; the checkpoint's own head depends
/// on its class.
pub(super) fn scores(
    graph: &mut Graph,
    hidden: Value,
    weights: &Weights,
    class: Option<&str>,
    adapter: Option<&ScoreHead>,
) -> Result<Value, ModelError> {
    if let Some(head) = adapter {
        let shape = vec![Dim::Fixed(head.labels), Dim::Fixed(head.hidden)];
        let weight = graph.input(SCORE_HEAD, ElementType::F32, shape);
        return graph.linear(hidden, weight);
    }
    let Some(head) = RewardHead::find(weights, class.unwrap_or_default())? else {
        return Err(ModelError::invalid(
            InvalidKind::MissingTensor,
            "neither the checkpoint nor an adapter has a score head (score.weight): \
             a reward model needs one",
        ));
    };
    let mut x = hidden;
    for (index, layer) in head.layers.iter().enumerate() {
        if index > 0 {
            let zero = graph.constant_scalar(0.0);
            x = graph.max(x, zero)?;
        }
        let weight = graph.weight(&layer.weight, weights.get(&layer.weight)?);
        x = graph.linear(x, weight)?;
        if let Some(bias) = &layer.bias {
            let bias = graph.weight(bias, weights.get(bias)?);
            x = graph.add(x, bias)?;
        }
    }
    Ok(x)
}
