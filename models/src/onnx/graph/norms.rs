//! Norms and softmax, over the last axis.

use crate::onnx::op::Op;

use super::{Graph, Node};
use crate::onnx::value::{Value, ValueInfo};

impl Graph {
    /// eˣ / Σ eˣ over the last axis.
    pub fn softmax(&mut self, x: Value) -> Value {
        self.same_shape(Op::Softmax, &[x])
    }

    /// x − ln Σ eˣ over the last axis, in nats.
    pub fn log_softmax(&mut self, x: Value) -> Value {
        self.same_shape(Op::LogSoftmax, &[x])
    }

    /// Root-mean-square norm over the last axis.
    pub fn rms_norm(&mut self, x: Value, weight: Value, epsilon: f32) -> Value {
        self.same_shape(Op::RmsNorm { epsilon }, &[x, weight])
    }

    /// x + y, and the root-mean-square norm of the sum: `(norm, sum)`. It has no gradient: use [`Graph::add`]
    /// and [`Graph::rms_norm`] where one is needed.
    pub fn add_rms_norm(&mut self, x: Value, y: Value, weight: Value, epsilon: f32) -> (Value, Value) {
        let ValueInfo { element, shape, .. } = self.info(x).clone();
        let norm = self.result(element, shape.clone());
        let sum = self.result(element, shape);
        self.nodes.push(Node {
            op: Op::AddRmsNorm { epsilon },
            inputs: vec![Some(x), Some(y), Some(weight)],
            outputs: vec![Some(norm), None, None, Some(sum)],
        });
        (norm, sum)
    }

    /// Layer norm over the last axis.
    pub fn layer_norm(&mut self, x: Value, weight: Value, bias: Value, epsilon: f32) -> Value {
        self.same_shape(Op::LayerNorm { epsilon }, &[x, weight, bias])
    }
}
