//! The interface that the forward pass of each family is written against.

use crate::adapter::LoraTarget;
use crate::checkpoint::{Activation, ModelConfig};
use crate::error::ModelError;
use crate::onnx::{Graph, Shape, Value};

/// What a family's forward pass is written in: the parts of a model, which a decoder with a cache and a training step make each
/// in their own way.
pub(crate) trait Forward {
    fn config(&self) -> &ModelConfig;

    fn graph(&mut self) -> &mut Graph;

    /// The dimensions of the token ids, which stand before the width in every hidden state.
    fn token_shape(&self) -> Shape;

    /// A tensor of the model, by its name in the checkpoint.
    fn weight(&mut self, name: &str) -> Result<Value, ModelError>;

    /// The embeddings of the tokens.
    fn embedding(&mut self, table: &str) -> Result<Value, ModelError>;

    /// A and B of the low-rank change of a projection, `[rank, in]` and `[out, rank]`, B already scaled; none: it has no change.
    fn low_rank(&mut self, target: LoraTarget) -> Result<Option<(Value, Value)>, ModelError>;

    /// A linear layer `{block}.{module}` of a layer, with its low-rank change if there is one for it.
    fn linear(
        &mut self,
        layer: usize,
        block: &str,
        module: &str,
        x: Value,
        bias: bool,
    ) -> Result<Value, ModelError> {
        let weight = self.weight(&format!("{block}.{module}.weight"))?;
        let mut y = self.graph().linear(x, weight)?;
        if bias {
            let bias = self.weight(&format!("{block}.{module}.bias"))?;
            y = self.graph().add(y, bias)?;
        }
        let Some((a, b)) = self.low_rank(LoraTarget { layer, module: module.to_owned() })? else {
            return Ok(y);
        };
        let narrow = self.graph().linear(x, a)?;
        let change = self.graph().linear(narrow, b)?;
        self.graph().add(y, change)
    }

    /// Causal self-attention of one layer with rotary positions.
    fn attention(
        &mut self,
        layer: usize,
        query: Value,
        key: Value,
        value: Value,
    ) -> Result<Value, ModelError>;

    /// x + y, and the root-mean-square norm of that: `(norm, sum)`.
    fn add_rms_norm(&mut self, x: Value, y: Value, weight: Value) -> Result<(Value, Value), ModelError>;

    /// The rows that the head is computed for, `[selected, width]`. The last layer picks them as soon as its heads have read the
    /// sequence: its other products, 3 % of the work of a model with 30 layers, are not done for rows that nobody reads.
    fn select_positions(&mut self, x: Value) -> Result<Value, ModelError>;

    /// Called where each layer begins.
    fn begin_layer(&mut self, _layer: usize) {}

    /// The nonlinearity of the feed-forward blocks.
    fn activation(&mut self, x: Value) -> Value {
        match self.config().activation {
            Activation::Silu => self.graph().silu(x),
            Activation::Gelu => self.graph().gelu(x, false),
            Activation::GeluTanh => self.graph().gelu(x, true),
        }
    }
}
