//! Reverse-mode differentiation: the gradient of a graph, as more nodes of the same graph.
//!
//! Each operator has a rule that turns the gradient of its outputs into the gradients of its inputs (the chain rule; the
//! rules are derived in the comments of the files beside this one). Only what leads from the wanted values to the loss is
//! differentiated: a frozen weight costs no product.
//!
//! # Recomputation
//! Values between [`Graph::begin_segment`] and [`Graph::end_segment`] that only that segment reads need not be kept for the
//! backward pass: the rules read copies, computed again from what the segment read. This trades time for memory (Chen et al.
//! 2016, *Training deep nets with sublinear memory cost*). The copies' operands are tied to the gradient that comes into the
//! segment, so that a runtime cannot compute them before it: each such operand of the same shape as that gradient passes
//! through a Reshape to the *gradient's* shape, which moves nothing. Operands of another shape and shapes without a named
//! dimension are not tied; ONNX Runtime would merge copies of those with what they copy, so **disable
//! `CommonSubexpressionElimination`** in a session whose segments read such operands (positions, masks).
//!
//! # Order
//! ONNX Runtime runs a node's operands depth-first from the outputs, the one that stands latest in the file first. What makes
//! the gradients of parameters therefore stands at the end, in the order in which the forward pass reads the parameters: the
//! last layer's gradients are then computed first, as soon as the backward pass is there, and nothing is kept for them. This
//! holds for the gradients of several values, where whatever gathers them keeps that order, and for the gradient of one vector
//! that is split into all parameters.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::ModelError;

use super::graph::{Graph, Node};
use super::op::Op;
use super::value::{Dim, Shape, Source, Value};
use order::Tail;
use recompute::Recomputation;

mod elementwise;
mod norms;
mod order;
mod products;
mod recompute;
mod reductions;
mod rows;
mod shapes;
#[cfg(test)]
mod tests;

/// The gradients of a scalar `loss []` with respect to some 32-bit float values, each in its value's shape.
///
/// # Errors
/// [`ModelError::Invalid`] when the loss is not a scalar, when it does not depend on one of the values, or when an operator in
/// between has no gradient; the error names it.
pub fn gradients(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<Value>, ModelError> {
    if !graph.shape(loss).is_empty() {
        return Err(graph.mismatch("a loss, which is one number,", &[loss]));
    }
    graph.end_segment();
    let path = Path::between(graph, wrt, loss);
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
    let wanted = backward.wanted_gradients();
    let mut tail = Tail::new(first, backward.graph, &wanted, &path.order, &path.preparations);
    for (place, index) in tail.preparations() {
        let before = backward.graph.nodes().len();
        backward.step(index)?;
        tail.made(place, before..backward.graph.nodes().len());
    }
    tail.put_in_order(backward.graph);
    let Backward { graph, gradients, .. } = backward;
    let gradient = |value: &Value| {
        gradients.get(value).copied().ok_or_else(|| {
            ModelError::Invalid(format!("the loss does not depend on {}", graph.info(*value).name))
        })
    };
    wrt.iter().map(gradient).collect()
}

/// What lies between the wanted values and the loss.
struct Path {
    /// Of each value, whether it depends on a wanted one.
    depends: Vec<bool>,
    /// Of each value, whether it is a constant or made of wanted values and constants alone, such as a parameter in its shape.
    prepared: Vec<bool>,
    /// The nodes to differentiate, the last first, but for those that prepare parameters.
    order: Vec<usize>,
    /// The nodes to differentiate after them: those that read parameters and constants alone.
    preparations: BTreeSet<usize>,
}

impl Path {
    fn between(graph: &Graph, wrt: &[Value], loss: Value) -> Self {
        let mut depends = vec![false; graph.values().len()];
        let constant = |source: &Source| match source {
            Source::Constant(_) | Source::Weight(_) => true,
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

/// Whether a gradient can go through an operator at all; elsewhere it is zero or not wanted.
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

/// The gradient so far.
struct Backward<'g> {
    graph: &'g mut Graph,
    depends: Vec<bool>,
    gradients: BTreeMap<Value, Value>,
    recomputation: Recomputation,
    /// −sin of the rotary tables.
    negated: BTreeMap<Value, Value>,
    /// `[n]`, 0 where an index is −1.
    masks: BTreeMap<Value, Value>,
}

/// A node whose rule is applied.
struct Step {
    index: usize,
    node: Node,
    /// The gradients of its outputs; `None` where the loss does not depend on one.
    gradients: Vec<Option<Value>>,
}

impl Step {
    /// The gradient of the first output. A step whose only output has none is not taken.
    fn gradient(&self) -> Result<Value, ModelError> {
        let missing =
            || ModelError::Invalid(format!("{:?} has no gradient at its first output", self.node.op));
        self.gradients.first().copied().flatten().ok_or_else(missing)
    }

    fn input(&self, slot: usize) -> Result<Value, ModelError> {
        let missing = || ModelError::Invalid(format!("{:?} has no operand {slot}", self.node.op));
        self.node.inputs.get(slot).copied().flatten().ok_or_else(missing)
    }

    fn output(&self) -> Result<Value, ModelError> {
        let missing = || ModelError::Invalid(format!("{:?} has no output", self.node.op));
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
        self.recomputation.enter(index, *incoming);
        let step = Step { index, node, gradients };
        match &step.node.op {
            Op::Add => self.add(&step),
            Op::Sub => self.sub(&step),
            Op::Mul => self.mul(&step),
            Op::Div => self.div(&step),
            Op::Min => self.min(&step),
            Op::Max => self.max(&step),
            Op::Where => self.select(&step),
            Op::Neg => self.neg(&step),
            Op::Exp => self.exp(&step),
            Op::Log => self.log(&step),
            Op::Sqrt => self.sqrt(&step),
            Op::Reciprocal => self.reciprocal(&step),
            Op::Sigmoid => self.sigmoid(&step),
            Op::Softplus => self.softplus(&step),
            Op::Tanh => self.tanh(&step),
            Op::Abs => self.abs(&step),
            Op::Erf => self.erf(&step),
            Op::Silu => self.silu(&step),
            Op::Gelu { tanh: false } => self.gelu(&step),
            Op::Gelu { tanh: true } => self.gelu_tanh(&step),
            &Op::Clip { low, high } => self.clip(&step, low, high),
            Op::Cast { .. } => self.cast(&step),
            Op::Linear => self.linear(&step),
            &Op::MatMul { transpose_a, transpose_b, alpha } => {
                self.matmul(&step, transpose_a, transpose_b, alpha)
            }
            Op::Gather => self.gather(&step),
            &Op::GatherPaired { inverse, covers } => self.gather_paired(&step, inverse, covers),
            Op::GatherElements => self.gather_elements(&step),
            Op::Reshape { .. } | Op::ReshapeTo => self.reshape(&step),
            Op::Expand => self.give_summed(step.input(0)?, step.gradient()?),
            Op::Transpose { perm } => self.transpose(&step, perm),
            &Op::Unsqueeze { axis } => self.unsqueeze(&step, axis),
            &Op::Squeeze { axis } => self.squeeze(&step, axis),
            &Op::Concat { axis } => self.concat(&step, axis),
            &Op::Split { axis, .. } => self.split(&step, axis),
            &Op::Slice { axis, start, end } => self.slice(&step, axis, start, end),
            Op::ReduceSum { axes, keep } => self.reduced(&step, axes, *keep, false),
            Op::ReduceMean { axes, keep } => self.reduced(&step, axes, *keep, true),
            Op::Softmax => self.softmax(&step),
            Op::LogSoftmax => self.log_softmax(&step),
            Op::RmsNorm { .. } => self.rms_norm(&step),
            Op::LayerNorm { .. } => self.layer_norm(&step),
            &Op::Rotary { heads, rotary_dims } => self.rotary(&step, heads, rotary_dims),
            Op::ScatterAdd { .. } | Op::AddRmsNorm { .. } | Op::GroupQueryAttention { .. } => {
                Err(no_rule(&step))
            }
            // No path leads through these: see `passes_gradient`.
            Op::StopGradient { .. }
            | Op::Sign
            | Op::Greater
            | Op::LessOrEqual
            | Op::ReduceMax { .. }
            | Op::Size { .. }
            | Op::ShapeOf => Err(no_rule(&step)),
        }
    }

    /// Whether the gradient of a value is needed.
    fn wants(&self, value: Value) -> bool {
        self.depends.get(value.index()).copied().unwrap_or(false)
    }

    /// The values whose gradient is needed and known, with their gradients.
    fn wanted_gradients(&self) -> Vec<(Value, Value)> {
        let wanted = self.gradients.iter().filter(|&(&value, _)| self.wants(value));
        wanted.map(|(&value, &gradient)| (value, gradient)).collect()
    }

    /// A value of the forward pass, computed again where it is not kept.
    fn primal(&mut self, value: Value) -> Value {
        self.recomputation.primal(self.graph, value)
    }

    /// An optional output of the step's node, or of its copy.
    fn saved(&mut self, step: &Step, slot: usize, shape: Shape) -> Value {
        let node = self.recomputation.node(self.graph, step.index);
        self.graph.optional_output(node, slot, shape)
    }

    /// Adds to the gradient of a value.
    fn give(&mut self, value: Value, gradient: Value) -> Result<(), ModelError> {
        if !self.wants(value) {
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

    /// Adds to the gradient of a value that was broadcast: each of its elements gets the sum over where it went.
    fn give_summed(&mut self, value: Value, gradient: Value) -> Result<(), ModelError> {
        if self.wants(value) {
            let summed = self.summed_to(gradient, value)?;
            self.give(value, summed)?;
        }
        Ok(())
    }

    /// A gradient summed over the axes along which `value` was broadcast.
    fn summed_to(&mut self, gradient: Value, value: Value) -> Result<Value, ModelError> {
        let (wide, narrow) = (self.graph.shape(gradient).clone(), self.graph.shape(value).clone());
        let outer = wide.len().saturating_sub(narrow.len());
        let repeated = |&axis: &usize| narrow[axis - outer] == Dim::Fixed(1) && wide[axis] != Dim::Fixed(1);
        let inner: Vec<usize> = (outer..wide.len()).filter(repeated).collect();
        let summed = self.graph.reduced_sum(gradient, inner, true);
        Ok(self.graph.reduced_sum(summed, (0..outer).collect(), false))
    }
}

fn no_rule(step: &Step) -> ModelError {
    let (_, name) = step.node.op.onnx_type();
    ModelError::Invalid(format!("the operator {name} ({:?}) has no gradient", step.node.op))
}
