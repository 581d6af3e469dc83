//! Small graphs of packed matrices, which only inference has.

use crate::onnx::graph::Graph;
use crate::onnx::op::{Blocks, Op};
use crate::onnx::value::{Dim, ElementType, Value};

use super::cases::{Built, forward};
use super::{Case, fixed, ids, named};

/// Products and rows of packed matrices. The greatest input of every block is 127: rounding to 8 bits leaves
/// whole numbers as they are.
pub(super) fn all() -> Vec<Case> {
    let inputs: Vec<i64> =
        (0..128).map(|place| if place % 16 == 0 { 127 } else { place * 37 % 255 - 127 }).collect();
    let operands =
        || vec![ids("x", &[named("rows", 2), fixed(64)], &inputs), ids("ids", &[named("rows", 2)], &[2, 0])];
    vec![
        forward("packed_4_bits", operands(), |graph, values| {
            packed_matrix(graph, values, Blocks { bits: 4, elements: 32 })
        }),
        forward("packed_8_bits", operands(), |graph, values| {
            packed_matrix(graph, values, Blocks { bits: 8, elements: 16 })
        }),
    ]
}

fn packed_matrix(graph: &mut Graph, values: &[Value], blocks: Blocks) -> Built {
    let (outputs, inputs) = (3, 64);
    let (count, bytes) = (inputs / blocks.elements, blocks.elements * blocks.bits / 8);
    let integers: Vec<u8> =
        (0..outputs * count * bytes).map(|place| u8::try_from(place * 71 % 251).expect("a byte")).collect();
    let scales: Vec<f32> = (0..outputs * count)
        .map(|place| 0.5 - f32::from(u8::try_from(place).expect("a byte")) / 8.0)
        .collect();
    let scales = graph.constant_f32("scales", &[outputs, count], &scales);
    let by_block = graph.constant_bytes("by_block", &[outputs, count, bytes], integers.clone());
    let by_row = graph.constant_bytes("by_row", &[outputs, count * bytes], integers);
    let x = graph.cast(values[0], ElementType::F32);
    let rows = graph.shape(x)[0];
    let product = Op::PackedLinear { outputs, inputs, blocks };
    let y = graph.node(product, &[x, by_block, scales], ElementType::F32, vec![rows, Dim::Fixed(outputs)]);
    let found = vec![graph.shape(values[1])[0], Dim::Fixed(inputs)];
    let found = graph.node(Op::PackedGather(blocks), &[by_row, values[1], scales], ElementType::F32, found);
    Ok(vec![y, found])
}
