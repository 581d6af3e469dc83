//! Reverse-mode differentiation: adds the gradient of a graph to the same graph, as further nodes.
//!
//! Each operator has a rule: it computes the gradients of the inputs from the gradients of the outputs (chain
//! rule). The comments of the files beside this one derive the rules. Only nodes between the requested values
//! and the loss are differentiated, so a frozen weight costs no product.
//!
//! # Recomputation
//! Values between [`Graph::begin_segment`] and [`Graph::end_segment`] that are read in that segment only are
//! not kept for the backward pass. The rules read copies, recomputed from the inputs of the segment. This
//! trades time for memory (Chen et al. 2016, *Training deep nets with sublinear memory cost*, arXiv
//! 1604.06174).
//!
//! A runtime must not compute the copies before the backward pass reaches the segment. Therefore each operand
//! with the shape of the segment's incoming gradient passes through a Reshape to the *gradient's* shape,
//! which moves no data. Operands of another shape, and shapes without a named dimension, are not tied in this
//! way. ONNX Runtime would merge the copies of those with their originals. So **disable
//! `CommonSubexpressionElimination`** in a session whose segments read such operands (positions, masks).
//!
//! # Order
//! ONNX Runtime runs a graph depth-first from its outputs, and the operand that is last in the file first.
//! The nodes that make the gradients of parameters are therefore last in the file. Their order is the order
//! in which the forward pass reads the parameters. The last layer's gradients are then computed first, as
//! soon as the backward pass reaches the layer, and no value is kept for them. This holds for the gradients
//! of several values, if the nodes that collect them keep the order. It also holds for the gradient of one
//! vector that is split into all parameters.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{InvalidKind, ModelError};

use super::graph::{Graph, Node};
use super::op::Op;
use super::value::{Dim, Shape, Source, Value};
use gradient_order::GradientOrder;
use recompute::Recomputation;

mod elementwise;
mod gradient_order;
mod norms;
mod products;
mod recompute;
mod reductions;
mod rows;
mod shapes;
#[cfg(test)]
mod tests;

/// Returns the gradients of a scalar `loss []` with respect to 32-bit float values, each in its value's
/// shape.
///
/// # Examples
/// The loss Σ (w x)² has the gradient 2 w Σ x², summed over the rows. Building and exporting a graph needs no
/// ONNX Runtime.
///
/// ```
/// use dissent_models::onnx::autodiff::gradients;
/// use dissent_models::onnx::export::export;
/// use dissent_models::onnx::{Dim, ElementType, Graph};
///
/// let mut graph = Graph::new();
/// let x = graph.input("x", ElementType::F32, vec![Dim::Named("rows"), Dim::Fixed(3)]);
/// let w = graph.input("w", ElementType::F32, vec![Dim::Fixed(3)]);
/// let y = graph.mul(x, w)?;
/// let squares = graph.square(y);
/// let loss = graph.sum_all(squares);
/// let gradient = gradients(&mut graph, loss, &[w])?[0];
/// assert_eq!(graph.info(gradient).shape, [Dim::Fixed(3)]);
///
/// graph.output(loss, "loss");
/// graph.output(gradient, "gradient");
/// let model = export(&graph)?;
/// assert!(model.weights_dir.is_none(), "the graph has no weights in files");
/// # Ok::<(), dissent_models::ModelError>(())
/// ```
///
/// # Errors
/// [`ModelError::Invalid`] if the loss is not a scalar or does not depend on one of the values. Also if it
/// depends on one through an operator without a gradient. The error names the value or the operator.
pub fn gradients(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<Value>, ModelError> {
    if !graph.shape(loss).is_empty() {
        return Err(graph.mismatch("a loss, which must be a scalar", &[loss]));
    }
    graph.end_segment();
    let path = GradientPath::between(graph, wrt, loss);
    let recomputation = Recomputation::new(graph, wrt, loss, &path.prepared);
    let one = graph.constant_scalar(1.0);
    let mut backward = Backward {
        graph,
        depends: path.depends,
        gradients: BTreeMap::from([(loss, one)]),
        recomputation,
        negated: BTreeMap::new(),
        masks: BTreeMap::new(),
    };
    let first = backward.graph.nodes().len();
    for &index in &path.order {
        backward.step(index)?;
    }
    let wanted = backward.required_gradients();
    let mut gradient_order =
        GradientOrder::new(first, backward.graph, &wanted, &path.order, &path.preparations);
    for (place, index) in gradient_order.preparations() {
        let before = backward.graph.nodes().len();
        backward.step(index)?;
        gradient_order.made(place, before..backward.graph.nodes().len());
    }
    gradient_order.put_in_order(backward.graph);
    let Backward { graph, gradients, .. } = backward;
    let gradient = |value: &Value| {
        gradients.get(value).copied().ok_or_else(|| {
            ModelError::invalid(
                InvalidKind::Graph,
                format!("the loss does not depend on {}", graph.info(*value).name),
            )
        })
    };
    wrt.iter().map(gradient).collect()
}

/// The part of a graph between the requested values and the loss.
struct GradientPath {
    /// For each value, whether it depends on a requested value.
    depends: Vec<bool>,
    /// For each value, whether it depends on constants and requested values only, such as a reshaped
    /// parameter.
    prepared: Vec<bool>,
    /// The nodes to differentiate, last first, without the preparations.
    order: Vec<usize>,
    /// The nodes to differentiate afterwards: they read parameters and constants only.
    preparations: BTreeSet<usize>,
}

impl GradientPath {
    fn between(graph: &Graph, wrt: &[Value], loss: Value) -> Self {
        let mut depends = vec![false; graph.values().len()];
        let constant = |source: &Source| match source {
            Source::Constant(_) | Source::Weight(_) | Source::Bytes(_) => true,
            Source::Input | Source::Node => false,
        };
        let mut prepared: Vec<bool> = graph.values().iter().map(|value| constant(&value.source)).collect();
        for value in wrt {
            depends[value.index()] = true;
            prepared[value.index()] = true;
        }
        let mut preparing = vec![false; graph.nodes().len()];
        for (index, node) in graph.nodes().iter().enumerate() {
            let mut operands = node.inputs.iter().flatten();
            preparing[index] = operands.clone().all(|input| prepared[input.index()]);
            let leads = passes_gradient(&node.op) && operands.any(|input| depends[input.index()]);
            for &output in node.outputs.iter().flatten() {
                depends[output.index()] |= leads && graph.info(output).element.is_float();
                prepared[output.index()] |= preparing[index];
            }
        }
        let mut leads = vec![false; graph.values().len()];
        leads[loss.index()] = true;
        let (mut order, mut preparations) = (Vec::new(), BTreeSet::new());
        for (index, node) in graph.nodes().iter().enumerate().rev() {
            let mut outputs = node.outputs.iter().flatten();
            if !outputs.any(|output| depends[output.index()] && leads[output.index()])
                || !passes_gradient(&node.op)
            {
                continue;
            }
            for input in node.inputs.iter().flatten() {
                leads[input.index()] |= depends[input.index()];
            }
            if preparing[index] {
                preparations.insert(index);
            } else {
                order.push(index);
            }
        }
        Self { depends, prepared, order, preparations }
    }
}

/// Whether an operator passes a gradient on. The gradient of the others is zero or not needed.
fn passes_gradient(op: &Op) -> bool {
    !matches!(
        op,
        Op::StopGradient { .. }
            | Op::Sign
            | Op::Greater
            | Op::LessOrEqual
            | Op::ReduceMax { .. }
            | Op::Size { .. }
            | Op::ShapeOf
    )
}

/// The state of the backward pass.
struct Backward<'g> {
    graph: &'g mut Graph,
    depends: Vec<bool>,
    gradients: BTreeMap<Value, Value>,
    recomputation: Recomputation,
    /// −sin of the rotary tables, by the sin table.
    negated: BTreeMap<Value, Value>,
    /// Masks `[n]` by their index: 0 where the index is −1, else 1.
    masks: BTreeMap<Value, Value>,
}

/// A node to which its rule is applied.
struct BackwardNode {
    index: usize,
    node: Node,
    /// The gradients of its outputs; `None` for an output on which the loss does not depend.
    gradients: Vec<Option<Value>>,
}

impl BackwardNode {
    /// Returns the gradient of the first output. A node whose only output has no gradient is skipped.
    fn gradient(&self) -> Result<Value, ModelError> {
        let missing = || {
            ModelError::invalid(
                InvalidKind::Graph,
                format!("{:?} has no gradient at its first output", self.node.op),
            )
        };
        self.gradients.first().copied().flatten().ok_or_else(missing)
    }

    fn input(&self, slot: usize) -> Result<Value, ModelError> {
        let missing =
            || ModelError::invalid(InvalidKind::Graph, format!("{:?} has no operand {slot}", self.node.op));
        self.node.inputs.get(slot).copied().flatten().ok_or_else(missing)
    }

    fn output(&self) -> Result<Value, ModelError> {
        let missing = || ModelError::invalid(InvalidKind::Graph, format!("{:?} has no output", self.node.op));
        self.node.outputs.first().copied().flatten().ok_or_else(missing)
    }
}

impl Backward<'_> {
    fn step(&mut self, index: usize) -> Result<(), ModelError> {
        let node = self.graph.nodes()[index].clone();
        let gradients: Vec<Option<Value>> = node
            .outputs
            .iter()
            .map(|output| output.and_then(|output| self.gradients.get(&output).copied()))
            .collect();
        let Some(incoming) = gradients.iter().flatten().next() else { return Ok(()) };
        self.recomputation.record_incoming(index, *incoming);
        let node = BackwardNode { index, node, gradients };
        match &node.node.op {
            Op::Add => self.add(&node),
            Op::Sub => self.sub(&node),
            Op::Mul => self.mul(&node),
            Op::Div => self.div(&node),
            Op::Min => self.min(&node),
            Op::Max => self.max(&node),
            Op::Where => self.select(&node),
            Op::Neg => self.neg(&node),
            Op::Exp => self.exp(&node),
            Op::Log => self.log(&node),
            Op::Sqrt => self.sqrt(&node),
            Op::Reciprocal => self.reciprocal(&node),
            Op::Sigmoid => self.sigmoid(&node),
            Op::Softplus => self.softplus(&node),
            Op::Tanh => self.tanh(&node),
            Op::Abs => self.abs(&node),
            Op::Erf => self.erf(&node),
            Op::Silu => self.silu(&node),
            Op::Gelu { tanh: false } => self.gelu(&node),
            Op::Gelu { tanh: true } => self.gelu_tanh(&node),
            &Op::Clip { low, high } => self.clip(&node, low, high),
            Op::Cast { .. } => self.cast(&node),
            Op::Linear => self.linear(&node),
            &Op::MatMul { transpose_a, transpose_b, alpha } => {
                self.matmul(&node, transpose_a, transpose_b, alpha)
            }
            Op::Gather => self.gather(&node),
            &Op::GatherPaired { inverse, covers } => self.gather_paired(&node, inverse, covers),
            Op::GatherElements => self.gather_elements(&node),
            Op::Reshape { .. } | Op::ReshapeTo => self.reshape(&node),
            Op::Expand => self.accumulate_summed(node.input(0)?, node.gradient()?),
            Op::Transpose { perm } => self.transpose(&node, perm),
            &Op::Unsqueeze { axis } => self.unsqueeze(&node, axis),
            &Op::Squeeze { axis } => self.squeeze(&node, axis),
            &Op::Concat { axis } => self.concat(&node, axis),
            &Op::Split { axis, .. } => self.split(&node, axis),
            &Op::Slice { axis, start, end } => self.slice(&node, axis, start, end),
            Op::ReduceSum { axes, keep } => self.reduced(&node, axes, *keep, false),
            Op::ReduceMean { axes, keep } => self.reduced(&node, axes, *keep, true),
            Op::Softmax => self.softmax(&node),
            Op::LogSoftmax => self.log_softmax(&node),
            Op::RmsNorm { .. } => self.rms_norm(&node),
            Op::LayerNorm { .. } => self.layer_norm(&node),
            &Op::Rotary(heads) => self.rotary(&node, heads),
            Op::ScatterAdd { .. }
            | Op::ReplaceRows
            | Op::AddRmsNorm { .. }
            | Op::GroupQueryAttention { .. }
            | Op::PackedLinear { .. }
            | Op::PackedGather(_) => Err(no_rule(&node)),
            // No gradient passes through these: see `passes_gradient`.
            Op::StopGradient { .. }
            | Op::Sign
            | Op::Greater
            | Op::LessOrEqual
            | Op::ReduceMax { .. }
            | Op::Size { .. }
            | Op::ShapeOf => Err(no_rule(&node)),
        }
    }

    /// Whether the gradient of a value is needed.
    fn requires_gradient(&self, value: Value) -> bool {
        self.depends.get(value.index()).copied().unwrap_or(false)
    }

    /// Returns the values whose gradient is needed and known, with their gradients.
    fn required_gradients(&self) -> Vec<(Value, Value)> {
        let wanted = self.gradients.iter().filter(|&(&value, _)| self.requires_gradient(value));
        wanted.map(|(&value, &gradient)| (value, gradient)).collect()
    }

    /// Returns a value of the forward pass, or its recomputed copy.
    fn forward_value(&mut self, value: Value) -> Value {
        self.recomputation.forward_value(self.graph, value)
    }

    /// Returns an optional output of the node, or of its copy.
    fn saved(&mut self, node: &BackwardNode, slot: usize, shape: Shape) -> Value {
        let node = self.recomputation.node(self.graph, node.index);
        self.graph.optional_output(node, slot, shape)
    }

    /// Adds to the gradient of a value.
    fn accumulate(&mut self, value: Value, gradient: Value) -> Result<(), ModelError> {
        if !self.requires_gradient(value) {
            return Ok(());
        }
        if self.graph.shape(value) != self.graph.shape(gradient) {
            return Err(self.graph.mismatch("a value and its gradient", &[value, gradient]));
        }
        let sum = match self.gradients.get(&value) {
            Some(&known) => self.graph.add(known, gradient)?,
            None => gradient,
        };
        self.gradients.insert(value, sum);
        Ok(())
    }

    /// Adds to the gradient of a value that was broadcast: sums over the axes along which it was repeated.
    fn accumulate_summed(&mut self, value: Value, gradient: Value) -> Result<(), ModelError> {
        if self.requires_gradient(value) {
            let summed = self.summed_to(gradient, value)?;
            self.accumulate(value, summed)?;
        }
        Ok(())
    }

    /// Returns a gradient summed over the axes along which `value` was broadcast.
    fn summed_to(&mut self, gradient: Value, value: Value) -> Result<Value, ModelError> {
        let (wide, narrow) = (self.graph.shape(gradient).clone(), self.graph.shape(value).clone());
        let outer = wide.len().saturating_sub(narrow.len());
        let repeated = |&axis: &usize| narrow[axis - outer] == Dim::Fixed(1) && wide[axis] != Dim::Fixed(1);
        let inner: Vec<usize> = (outer..wide.len()).filter(repeated).collect();
        let summed = self.graph.reduced_sum(gradient, inner, true);
        Ok(self.graph.reduced_sum(summed, (0..outer).collect(), false))
    }
}

fn no_rule(node: &BackwardNode) -> ModelError {
    let (_, name) = node.node.op.onnx_type();
    ModelError::invalid(
        InvalidKind::Graph,
        format!("the operator {name} ({:?}) has no gradient", node.node.op),
    )
}
