//! The memory that a run of a graph takes on the CPU, computed before anything is loaded.
//!
//! The graph knows the shape of every value. [`GraphMemory`] puts the nodes into ONNX Runtime's order, gives
//! the values their buffers, and replays the allocations of a run in an [`Arena`].

mod arena;
mod buffers;
mod order;
mod sizes;
mod workspace;

use std::collections::BTreeMap;

use crate::error::ModelError;

use super::graph::Graph;
use super::value::{Source, Value};
use buffers::{Buffers, element_bytes};

pub(crate) use arena::Arena;
#[cfg(test)]
pub(in crate::onnx) use order::run_order;
pub(crate) use sizes::NamedSizes;

/// The memory of the runs of one graph.
pub(crate) struct GraphMemory<'g> {
    graph: &'g Graph,
    order: Vec<usize>,
    buffers: Buffers,
}

/// The outputs of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// In the memory of the caller.
    Bound,
    /// In the arena, until the caller has read them.
    Allocated,
}

impl<'g> GraphMemory<'g> {
    /// Plans the buffers of a graph.
    pub(crate) fn plan(graph: &'g Graph) -> Self {
        let order = order::run_order(graph);
        let buffers = Buffers::plan(graph, &order);
        Self { graph, order, buffers }
    }

    /// Replays the allocations of one run. Afterwards all chunks are free.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if a size is missing.
    pub(crate) fn run(
        &self,
        sizes: &NamedSizes,
        outputs: Outputs,
        arena: &mut Arena,
    ) -> Result<(), ModelError> {
        let dimensions = sizes::dimensions(self.graph, sizes)?;
        let bytes = |value: Value| {
            let elements: usize = dimensions[value.index()].iter().product();
            elements * element_bytes(self.graph.info(value).element)
        };
        let mut chunks = BTreeMap::new();
        for (time, &index) in self.order.iter().enumerate() {
            if self.buffers.folded.contains(&index) {
                continue;
            }
            let node = &self.graph.nodes()[index];
            for &output in node.outputs.iter().flatten() {
                let is_bound = outputs == Outputs::Bound && self.graph.outputs().contains(&output);
                if self.buffers.owner.get(&output) == Some(&output) && !is_bound {
                    chunks.extend(arena.allocate(bytes(output)).map(|chunk| (output, chunk)));
                }
            }
            let temporary = workspace::of(&node.op, |slot| {
                let input = node.inputs.get(slot).copied().flatten();
                input.map_or(&[][..], |input| &dimensions[input.index()])
            });
            let temporary: Vec<_> = temporary.into_iter().filter_map(|bytes| arena.allocate(bytes)).collect();
            temporary.into_iter().for_each(|chunk| arena.free(chunk));
            for value in &self.buffers.released[time] {
                if let Some(chunk) = chunks.remove(value) {
                    arena.free(chunk);
                }
            }
        }
        chunks.into_values().for_each(|chunk| arena.free(chunk));
        Ok(())
    }

    /// Returns the bytes of the inputs of a run.
    ///
    /// # Errors
    /// As [`GraphMemory::run`].
    pub(crate) fn input_bytes(&self, sizes: &NamedSizes) -> Result<usize, ModelError> {
        let dimensions = sizes::dimensions(self.graph, sizes)?;
        let values = self.graph.values().iter().zip(dimensions);
        let inputs = values.filter(|(info, _)| info.source == Source::Input);
        Ok(inputs.map(|(info, dims)| dims.iter().product::<usize>() * element_bytes(info.element)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::value::{Dim, ElementType};

    const MIB: usize = 1 << 20;
    const ROWS: Dim = Dim::Named("rows");

    /// Returns the MiB of a run over x `[rows, 4]` of 4 MiB.
    fn touched(build: impl Fn(&mut Graph, Value) -> Value, outputs: Outputs) -> usize {
        let mut graph = Graph::new();
        let x = graph.input("x", ElementType::F32, vec![ROWS, Dim::Fixed(4)]);
        let y = build(&mut graph, x);
        graph.output(y, "y");
        let mut arena = Arena::default();
        let sizes = NamedSizes::from([("rows", MIB / 4)]);
        GraphMemory::plan(&graph).run(&sizes, outputs, &mut arena).expect("all sizes are given");
        arena.touched() / MIB
    }

    /// Returns the MiB of an operator on a value that nothing else reads.
    fn of_operator(operator: impl Fn(&mut Graph, Value) -> Value) -> usize {
        let sum = |graph: &mut Graph, x: Value| {
            let value = graph.neg(x);
            let result = operator(graph, value);
            graph.sum_all(result)
        };
        touched(sum, Outputs::Allocated)
    }

    #[test]
    fn operators_that_overwrite_their_operand_need_no_second_buffer() {
        assert_eq!(of_operator(|graph, x| graph.tanh(x)), 4);
        assert_eq!(of_operator(|graph, x| graph.log_softmax(x)), 4);
        assert_eq!(of_operator(|graph, x| graph.exp(x)), 8);
    }

    #[test]
    fn reshapes_move_no_data() {
        let reshaped = |graph: &mut Graph, x: Value| {
            graph.reshape(x, vec![ROWS, Dim::Fixed(2), Dim::Fixed(2)]).expect("the same elements")
        };
        assert_eq!(of_operator(reshaped), 4);
    }

    #[test]
    fn a_value_that_is_read_again_is_kept() {
        let again = |graph: &mut Graph, x: Value| {
            let negative = graph.neg(x);
            let first = graph.tanh(negative);
            let second = graph.exp(first);
            let third = graph.mul(second, negative).expect("the same shape");
            graph.sum_all(third)
        };
        assert_eq!(touched(again, Outputs::Allocated), 12, "tanh may not overwrite its operand");
    }

    #[test]
    fn bound_outputs_are_in_the_memory_of_the_caller() {
        let negative = |graph: &mut Graph, x: Value| graph.neg(x);
        assert_eq!((touched(negative, Outputs::Allocated), touched(negative, Outputs::Bound)), (4, 0));
    }

    #[test]
    fn values_of_constants_are_computed_when_the_session_starts() {
        let weighted = |graph: &mut Graph, x: Value| {
            let weight = graph.constant_f32("w", &[MIB, 4], &vec![1.0; 4 * MIB]);
            let negative = graph.neg(weight);
            let wide = graph.linear(x, negative).expect("the shapes match");
            graph.sum_all(wide)
        };
        let mut graph = Graph::new();
        let x = graph.input("x", ElementType::F32, vec![ROWS, Dim::Fixed(4)]);
        let y = weighted(&mut graph, x);
        graph.output(y, "y");
        let mut arena = Arena::default();
        GraphMemory::plan(&graph)
            .run(&NamedSizes::from([("rows", 1)]), Outputs::Allocated, &mut arena)
            .expect("all sizes are given");
        assert_eq!(arena.touched() / MIB, 4, "the product alone");
    }

    #[test]
    fn a_missing_size_is_named() {
        let mut graph = Graph::new();
        let x = graph.input("x", ElementType::F32, vec![ROWS]);
        graph.output(x, "y");
        let plan = GraphMemory::plan(&graph);
        let error = plan.run(&NamedSizes::new(), Outputs::Bound, &mut Arena::default()).expect_err("no size");
        assert!(error.to_string().contains("rows"), "{error}");
    }
}
