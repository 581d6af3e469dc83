//! Operators that move elements without changing them.

use crate::error::{InvalidKind, ModelError};
use crate::onnx::op::Op;

use super::{Graph, Node};
use crate::onnx::value::{Dim, ElementType, Shape, Source, Value};

impl Graph {
    /// x in another shape. Each dimension is fixed or named. At most one name may be new to the graph; its
    /// size is inferred.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if a second name is new, or if all dimensions are fixed and the sizes differ.
    pub fn reshape(&mut self, x: Value, shape: Shape) -> Result<Value, ModelError> {
        let old = self.shape(x).clone();
        if let (Some(before), Some(after)) = (elements(&old), elements(&shape))
            && before != after
        {
            return Err(self.mismatch(&format!("a reshape to {shape:?}"), &[x]));
        }
        let element = self.info(x).element;
        let target: Vec<i64> = shape
            .iter()
            .enumerate()
            .map(|(axis, dim)| match dim {
                Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
                // 0 copies the dimension at the same place; any other has to be inferred.
                Dim::Named(_) if old.get(axis) == Some(dim) => 0,
                Dim::Named(_) => -1,
            })
            .collect();
        if target.iter().filter(|&&size| size == -1).count() <= 1 {
            return Ok(self.node(Op::Reshape { shape: target }, &[x], element, shape));
        }
        let sizes = self.shape_value(&shape)?;
        Ok(self.node(Op::ReshapeTo, &[x, sizes], element, shape))
    }

    /// x with its axes permuted: axis `i` of the result is axis `perm[i]` of x.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if `perm` does not name each axis once.
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Result<Value, ModelError> {
        let mut sorted = perm.to_vec();
        sorted.sort_unstable();
        let old = self.shape(x);
        if !sorted.iter().copied().eq(0..old.len()) {
            return Err(self.mismatch(&format!("a transposition {perm:?}"), &[x]));
        }
        let shape = perm.iter().map(|&axis| old[axis]).collect();
        let element = self.info(x).element;
        Ok(self.node(Op::Transpose { perm: perm.to_vec() }, &[x], element, shape))
    }

    /// x with one more axis of size 1, at `axis` of the result; −1 is the last.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the axis is out of range.
    pub fn unsqueeze(&mut self, x: Value, axis: i64) -> Result<Value, ModelError> {
        let mut shape = self.shape(x).clone();
        let places = i64::try_from(shape.len()).unwrap_or(i64::MAX).saturating_add(1);
        let counted = if axis < 0 { axis.saturating_add(places) } else { axis };
        let place = usize::try_from(counted).ok().filter(|&place| place <= shape.len());
        let axis = place.ok_or_else(|| self.no_axis("an unsqueeze", x, axis))?;
        shape.insert(axis, Dim::Fixed(1));
        let element = self.info(x).element;
        Ok(self.node(Op::Unsqueeze { axis }, &[x], element, shape))
    }

    /// x without an axis of size 1; −1 is the last axis.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if there is no such axis or its size is not known to be 1.
    pub fn squeeze(&mut self, x: Value, axis: i64) -> Result<Value, ModelError> {
        let axis = self.axis("a squeeze", x, axis)?;
        let mut shape = self.shape(x).clone();
        if shape.remove(axis) != Dim::Fixed(1) {
            return Err(self.mismatch(&format!("a squeeze of axis {axis}"), &[x]));
        }
        let element = self.info(x).element;
        Ok(self.node(Op::Squeeze { axis }, &[x], element, shape))
    }

    /// Values concatenated along an axis, whose sizes are fixed; −1 is the last axis. A single value is
    /// returned unchanged.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if there is no value, or if the other dimensions differ.
    pub fn concat(&mut self, values: &[Value], axis: i64) -> Result<Value, ModelError> {
        let &[first, ref rest @ ..] = values else {
            return Err(ModelError::invalid(InvalidKind::Graph, "a concatenation needs at least one value"));
        };
        let axis = self.axis("a concatenation", first, axis)?;
        let mut shape = self.shape(first).clone();
        for &value in rest {
            let next = self.shape(value);
            let same = next.len() == shape.len()
                && (0..shape.len()).all(|other| other == axis || next[other] == shape[other]);
            match (shape[axis], next.get(axis)) {
                (Dim::Fixed(sum), Some(&Dim::Fixed(size))) if same => shape[axis] = Dim::Fixed(sum + size),
                _ => return Err(self.mismatch("a concatenation", values)),
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let element = self.info(first).element;
        Ok(self.node(Op::Concat { axis }, values, element, shape))
    }

    /// x split along an axis into parts of these sizes; −1 is the last axis.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the sizes do not add up to the axis's.
    pub fn split(&mut self, x: Value, axis: i64, sizes: &[usize]) -> Result<Vec<Value>, ModelError> {
        let axis = self.axis("a split", x, axis)?;
        let mut shape = self.shape(x).clone();
        if sizes.is_empty() || shape[axis] != Dim::Fixed(sizes.iter().sum()) {
            return Err(self.mismatch(&format!("a split into {sizes:?}"), &[x]));
        }
        let element = self.info(x).element;
        let mut outputs = Vec::with_capacity(sizes.len());
        for &size in sizes {
            shape[axis] = Dim::Fixed(size);
            outputs.push(self.result(element, shape.clone()));
        }
        self.nodes.push(Node {
            op: Op::Split { axis, sizes: sizes.to_vec() },
            inputs: vec![Some(x)],
            outputs: outputs.iter().copied().map(Some).collect(),
        });
        Ok(outputs)
    }

    /// x split into equal parts along its last axis.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the last dimension is not divisible.
    pub fn split_last(&mut self, x: Value, parts: usize) -> Result<Vec<Value>, ModelError> {
        match self.shape(x).last() {
            Some(Dim::Fixed(size)) if parts > 0 && size % parts == 0 => {
                self.split(x, -1, &vec![size / parts; parts])
            }
            Some(_) | None => Err(self.mismatch("a split", &[x])),
        }
    }

    /// Returns the elements `start..end` along the last axis.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the range exceeds the axis.
    pub fn slice_last(&mut self, x: Value, start: usize, end: usize) -> Result<Value, ModelError> {
        let axis = self.axis("a slice", x, -1)?;
        let mut shape = self.shape(x).clone();
        match shape[axis] {
            Dim::Fixed(size) if start < end && end <= size => shape[axis] = Dim::Fixed(end - start),
            Dim::Fixed(_) | Dim::Named(_) => {
                return Err(self.mismatch(&format!("a slice {start}..{end}"), &[x]));
            }
        }
        Ok(self.slice(x, axis, start, end))
    }

    /// Returns the elements `start..end` along an axis, which must contain them.
    pub(in crate::onnx) fn slice(&mut self, x: Value, axis: usize, start: usize, end: usize) -> Value {
        let mut shape = self.shape(x).clone();
        shape[axis] = Dim::Fixed(end - start);
        let element = self.info(x).element;
        self.node(Op::Slice { axis, start, end }, &[x], element, shape)
    }

    /// x in the shape that a vector of 64-bit integers holds.
    pub(in crate::onnx) fn reshape_to(&mut self, x: Value, sizes: Value, shape: Shape) -> Value {
        let element = self.info(x).element;
        self.node(Op::ReshapeTo, &[x, sizes], element, shape)
    }

    /// Returns the shape of x as a vector of 64-bit integers.
    pub(in crate::onnx) fn shape_of(&mut self, x: Value) -> Value {
        let rank = self.shape(x).len();
        self.node(Op::ShapeOf, &[x], ElementType::I64, vec![Dim::Fixed(rank)])
    }

    /// x broadcast to a shape.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the shape is incompatible, or if no value of the graph has one of its named
    /// dimensions.
    pub fn expand(&mut self, x: Value, shape: Shape) -> Result<Value, ModelError> {
        if *self.shape(x) == shape {
            return Ok(x);
        }
        if super::elementwise::joint(self.shape(x), &shape).as_ref() != Some(&shape) {
            return Err(self.mismatch(&format!("an expansion to {shape:?}"), &[x]));
        }
        let sizes = self.shape_value(&shape)?;
        let element = self.info(x).element;
        Ok(self.node(Op::Expand, &[x, sizes], element, shape))
    }

    /// Returns x broadcast to the shape that `sizes [rank]` holds, 64-bit integers. `shape` describes it.
    pub fn expand_to(&mut self, x: Value, sizes: Value, shape: Shape) -> Value {
        let element = self.info(x).element;
        self.node(Op::Expand, &[x, sizes], element, shape)
    }

    /// Returns a shape as a vector of 64-bit integers.
    pub(in crate::onnx) fn shape_value(&mut self, shape: &[Dim]) -> Result<Value, ModelError> {
        if let Some((_, input)) = self.shapes.iter().find(|(known, _)| known == shape) {
            return Ok(*input);
        }
        let mut parts: Vec<Value> = Vec::new();
        let mut fixed: Vec<i64> = Vec::new();
        for dim in shape {
            match *dim {
                Dim::Fixed(size) => fixed.push(i64::try_from(size).unwrap_or(i64::MAX)),
                Dim::Named(name) => {
                    let size = self.size(name)?;
                    if !fixed.is_empty() {
                        parts.push(self.constant_integers(&fixed));
                        fixed.clear();
                    }
                    parts.push(size);
                }
            }
        }
        if !fixed.is_empty() || parts.is_empty() {
            parts.push(self.constant_integers(&fixed));
        }
        self.concat(&parts, 0)
    }

    /// Returns the size of a named dimension, `[1]`, a 64-bit integer.
    pub(in crate::onnx) fn size(&mut self, name: &'static str) -> Result<Value, ModelError> {
        if let Some(&known) = self.sizes.get(name) {
            return Ok(known);
        }
        let place = |value: &super::ValueInfo| value.shape.iter().position(|&dim| dim == Dim::Named(name));
        let inputs = self.values.iter().enumerate().filter(|(_, value)| value.source == Source::Input);
        // An input lives for the whole run. Any other value would be kept for its size.
        let found = inputs
            .chain(self.values.iter().enumerate())
            .find_map(|(index, value)| Some((Value::new(index), place(value)?)));
        let (value, axis) = found.ok_or_else(|| {
            ModelError::invalid(InvalidKind::Graph, format!("no value of the graph has a dimension {name:?}"))
        })?;
        let size = self.size_of(value, axis);
        self.sizes.insert(name, size);
        Ok(size)
    }

    /// Returns the size of one axis of a value, `[1]`, a 64-bit integer.
    pub(in crate::onnx) fn size_of(&mut self, value: Value, axis: usize) -> Value {
        self.node(Op::Size { axis }, &[value], ElementType::I64, vec![Dim::Fixed(1)])
    }
}

/// Returns the number of elements of a shape; `None` if a dimension is not fixed.
fn elements(shape: &[Dim]) -> Option<usize> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Named(_) => None,
    };
    shape.iter().map(size).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(graph: &mut Graph, shape: &[Dim]) -> Value {
        graph.input(format!("input_{}", graph.values().len()), ElementType::F32, shape.to_vec())
    }

    #[test]
    fn reshape_refuses_other_element_counts_and_unknown_sizes() {
        let mut graph = Graph::new();
        let x = input(&mut graph, &[Dim::Fixed(2), Dim::Fixed(6)]);
        let error = graph.reshape(x, vec![Dim::Fixed(5)]).expect_err("12 is not 5");
        assert_eq!(error.invalid_kind(), Some(InvalidKind::ShapeMismatch), "{error}");
        let unknown = vec![Dim::Named("one"), Dim::Named("two")];
        let error = graph.reshape(x, unknown).expect_err("both sizes are unknown");
        assert_eq!(error.invalid_kind(), Some(InvalidKind::Graph), "{error}");
    }

    #[test]
    fn sizes_are_read_once_from_an_input() {
        let mut graph = Graph::new();
        let [batch, seq] = ["batch", "seq"].map(Dim::Named);
        let layout = input(&mut graph, &[batch, seq]);
        let rows = input(&mut graph, &[Dim::Named("rows")]);
        for _ in 0..2 {
            graph.reshape(rows, vec![batch, seq]).expect("both are known");
        }
        let sizes = graph.nodes().iter().filter(|node| matches!(node.op, Op::Size { .. }));
        assert_eq!(sizes.map(|node| node.inputs[0]).collect::<Vec<_>>(), [Some(layout); 2]);
    }

    #[test]
    fn a_shape_that_is_an_input_is_not_computed() {
        let mut graph = Graph::new();
        let shape = vec![Dim::Named("batch"), Dim::Fixed(2), Dim::Named("seq")];
        let x = input(&mut graph, &[Dim::Named("rows")]);
        let sizes = graph.shape_input("shape", shape.clone());
        graph.reshape(x, shape).expect("the shape is known");
        let nodes: Vec<_> = graph.nodes().iter().map(|node| (&node.op, node.inputs[1])).collect();
        assert_eq!(nodes, [(&Op::ReshapeTo, Some(sizes))]);
    }

    #[test]
    fn split_and_concat_check_sizes() {
        let mut graph = Graph::new();
        let rows = Dim::Named("rows");
        let x = input(&mut graph, &[rows, Dim::Fixed(6)]);
        let y = input(&mut graph, &[Dim::Named("others"), Dim::Fixed(6)]);
        assert!(graph.split(x, -1, &[2, 3]).is_err(), "5 of 6");
        assert!(graph.split(x, 0, &[1, 1]).is_err(), "an open size");
        assert!(graph.slice_last(x, 4, 7).is_err(), "7 of 6");
        assert!(graph.concat(&[x, y], -1).is_err(), "other rows");
        assert!(graph.concat(&[x, x], 0).is_err(), "an open size");
        assert!(graph.squeeze(x, -1).is_err(), "6 is not 1");
        assert!(graph.transpose(x, &[0, 0]).is_err(), "axis 1 is missing");
        assert!(graph.sum(x, &[2], false).is_err(), "there are two axes");
        let whole = graph.concat(&[x, x], -1).expect("the rows are the same");
        assert_eq!(graph.info(whole).shape, [rows, Dim::Fixed(12)]);
    }
}
