//! Rules of indexing and of position embedding. In the comments, y is the result and ȳ its gradient.

use crate::error::ModelError;
use crate::onnx::op::{Op, RotaryHeads};
use crate::onnx::value::{Dim, ElementType, Shape, Value};

use super::{Backward, BackwardNode, no_rule};

impl Backward<'_> {
    /// Adds each gathered row's gradient to its source row.
    pub(super) fn gather(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (table, ids, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        let ids = self.forward_value(ids);
        let shape = self.graph.shape(table).clone();
        let mut flat = shape.clone();
        // All index axes become one axis. It has a name that no other dimension has.
        flat[0] = match self.graph.shape(ids)[..] {
            [only] => only,
            _ => Dim::Named("chosen_rows"),
        };
        let updates = self.graph.reshape(dy, flat.clone())?;
        let mut index_shape = vec![flat[0]];
        let ids = self.graph.reshape(ids, index_shape.clone())?;
        let mut index = ids;
        // ScatterElements needs an index per element: the index of the row, repeated.
        if flat.len() > 1 {
            index_shape.resize(flat.len(), Dim::Fixed(1));
            index = self.graph.reshape(index, index_shape)?;
            let sizes = self.graph.shape_of(updates);
            let element = self.graph.info(index).element;
            index = self.graph.node(Op::Expand, &[index, sizes], element, flat);
        }
        let zeros = self.zeros_at_run(ids, shape)?;
        let sums = self.graph.scatter_add(zeros, index, updates, 0);
        self.accumulate(table, sums)
    }

    /// x̄ = ȳ at the inverse index, and zero for rows that were not gathered.
    pub(super) fn gather_paired(
        &mut self,
        node: &BackwardNode,
        inverse: Value,
        covers: bool,
    ) -> Result<(), ModelError> {
        let (x, dy) = (node.input(0)?, node.gradient()?);
        let shape = self.graph.shape(x).clone();
        let mut dx = self.graph.node(Op::Gather, &[dy, inverse], ElementType::F32, shape.clone());
        if !covers {
            let mut mask = self.mask(inverse)?;
            for _ in 1..shape.len() {
                mask = self.graph.unsqueeze(mask, -1)?;
            }
            dx = self.graph.node(Op::Mul, &[dx, mask], ElementType::F32, shape);
        }
        self.accumulate(x, dx)
    }

    /// 0 where an index is −1, else 1.
    fn mask(&mut self, index: Value) -> Result<Value, ModelError> {
        if let Some(&known) = self.masks.get(&index) {
            return Ok(known);
        }
        let nowhere = self.graph.constant_scalar(-1.0);
        let nowhere = self.graph.cast(nowhere, self.graph.info(index).element);
        let mask = self.graph.greater(index, nowhere)?;
        self.masks.insert(index, mask);
        Ok(mask)
    }

    /// The gradient is zero except at the gathered elements.
    ///
    /// After a log-softmax y = z − ln Σ eᶻ, both rules combine to z̄ = ȳ · (gathered − eʸ): one product, and
    /// one addition at the gathered elements.
    pub(super) fn gather_elements(&mut self, node: &BackwardNode) -> Result<(), ModelError> {
        let (x, ids, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        let ids = self.forward_value(ids);
        let producer = self.graph.nodes().iter().find(|node| node.outputs.contains(&Some(x)));
        let logits = producer.filter(|node| node.op == Op::LogSoftmax).and_then(|node| node.inputs[0]);
        let Some(logits) = logits else {
            let shape = self.graph.shape(x).clone();
            let zeros = self.zeros(shape)?;
            let placed = self.graph.scatter_add(zeros, ids, dy, 1);
            return self.accumulate(x, placed);
        };
        let log_probabilities = self.forward_value(x);
        let probabilities = self.graph.exp(log_probabilities);
        let negative = self.graph.neg(dy);
        let pulled = self.graph.mul(probabilities, negative)?;
        let dz = self.graph.scatter_add(pulled, ids, dy, 1);
        self.accumulate(logits, dz)
    }

    /// Returns a rotation by −angle: the same operator with −sin.
    pub(super) fn rotary(&mut self, node: &BackwardNode, heads: RotaryHeads) -> Result<(), ModelError> {
        let (x, positions, dy) = (node.input(0)?, node.input(1)?, node.gradient()?);
        let (cos, sin) = (node.input(2)?, node.input(3)?);
        if self.requires_gradient(cos) || self.requires_gradient(sin) {
            return Err(no_rule(node));
        }
        let negative = match self.negated.get(&sin) {
            Some(&known) => known,
            None => self.graph.neg(sin),
        };
        self.negated.insert(sin, negative);
        let positions = self.forward_value(positions);
        let dx = self.graph.rotary(dy, positions, (cos, negative), heads);
        self.accumulate(x, dx)
    }

    /// Zeros that depend on the first id of `[ids]`. A runtime would compute constant zeros when the session
    /// starts and keep them for its whole life. Of the number of ids, it would compute them on the CPU, and
    /// copy them to a GPU.
    fn zeros_at_run(&mut self, ids: Value, shape: Shape) -> Result<Value, ModelError> {
        let first = self.graph.slice(ids, 0, 0, 1);
        let first = self.graph.cast(first, ElementType::F32);
        let zero = self.graph.scale(first, 0.0);
        self.graph.expand(zero, shape)
    }

    /// Zeros.
    pub(super) fn zeros(&mut self, shape: Shape) -> Result<Value, ModelError> {
        let zero = self.graph.constant_scalar(0.0);
        self.graph.expand(zero, shape)
    }
}
