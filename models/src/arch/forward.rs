//! The interface that the forward pass is written against.

use crate::adapter::LoraTarget;
use crate::checkpoint::ModelConfig;
use crate::error::ModelError;
use crate::onnx::{ElementType, Graph, Shape, Value};

/// The parts of a model from which the forward pass is built.
///
/// The decoder with a key-value cache and the training step implement them in different ways.
pub(crate) trait Forward {
    fn config(&self) -> &ModelConfig;

    fn graph(&mut self) -> &mut Graph;

    /// Returns the element type of hidden states.
    fn element(&self) -> ElementType {
        ElementType::F32
    }

    /// Returns the dimensions of the token ids. They precede the width in every hidden state.
    fn token_shape(&self) -> Shape;

    /// Returns a tensor of the model, by its name in the checkpoint, in the element type of hidden states.
    fn weight(&mut self, name: &str) -> Result<Value, ModelError>;

    /// Returns x · wᵀ for a weight `[out, in]` of the model, by its name in the checkpoint; with
    /// `inputs_first`, x · w for a weight `[in, out]`.
    fn product(&mut self, x: Value, weight: &str, inputs_first: bool) -> Result<Value, ModelError> {
        product_of_floats(self, x, weight, inputs_first)
    }

    /// Returns the embeddings of the tokens.
    fn embedding(&mut self, table: &str) -> Result<Value, ModelError>;

    /// Returns the embeddings of the tokens' positions in their sequences.
    fn position_embedding(&mut self, table: &str) -> Result<Value, ModelError>;

    /// A and B of the low-rank change of a projection, `[rank, in]` and `[out, rank]`, with B already scaled;
    /// `None` if it has none.
    fn low_rank(&mut self, target: LoraTarget) -> Result<Option<(Value, Value)>, ModelError>;

    /// Causal self-attention of one layer, with its rotary embedding and its window.
    fn attention(
        &mut self,
        layer: usize,
        query: Value,
        key: Value,
        value: Value,
    ) -> Result<Value, ModelError>;

    /// x + y, and the root-mean-square norm of the sum: `(norm, sum)`.
    fn add_rms_norm(&mut self, x: Value, y: Value, weight: Value) -> Result<(Value, Value), ModelError>;

    /// Returns the rows for which the head is computed, `[selected, width]`.
    ///
    /// The last layer selects them right after attention. Its other products are then computed for these rows
    /// only, which saves 3 % of the work of a model with 30 layers.
    fn select_positions(&mut self, x: Value) -> Result<Value, ModelError>;

    /// Marks the beginning of a layer.
    fn begin_layer(&mut self, _layer: usize) {}
}

/// Returns the product with a weight of floats, as [`Forward::product`].
pub(crate) fn product_of_floats<F: Forward + ?Sized>(
    forward: &mut F,
    x: Value,
    weight: &str,
    inputs_first: bool,
) -> Result<Value, ModelError> {
    let weight = forward.weight(weight)?;
    if inputs_first { forward.graph().matmul(x, weight) } else { forward.graph().linear(x, weight) }
}
