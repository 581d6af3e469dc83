//! Whole small models.

use crate::error::ModelError;
use crate::onnx::graph::Graph;
use crate::onnx::op::RotaryHeads;
use crate::onnx::reference::evaluate;
use crate::onnx::value::{Dim, ElementType, Value};

use super::cases::{Built as Results, smooth, tables};
use super::{Built, Case, CaseInput, fixed, ids, named, real};

pub(super) fn all() -> Vec<Case> {
    vec![
        perceptron(),
        smooth("decoder", decoder_inputs(), |graph, values| decoder(graph, values, false)),
        smooth("decoder_in_segments", decoder_inputs(), |graph, values| decoder(graph, values, true)),
    ]
}

/// Returns an embedding, two layers with norms, and the mean negative log-likelihood of some targets.
fn perceptron() -> Case {
    let rows = named("rows", 5);
    let inputs = vec![
        ids("ids", &[rows], &[2, 0, 5, 2, 1]),
        ids("targets", &[rows, fixed(1)], &[0, 5, 2, 1, 1]),
        real("table", &[fixed(6), fixed(4)], -1.0, 1.0),
        real("norm", &[fixed(4)], 0.5, 1.5),
        real("norm_bias", &[fixed(4)], -0.5, 0.5),
        real("up", &[fixed(7), fixed(4)], -1.0, 1.0),
        real("up_bias", &[fixed(7)], -0.5, 0.5),
        real("down", &[fixed(4), fixed(7)], -1.0, 1.0),
        real("last_norm", &[fixed(4)], 0.5, 1.5),
    ];
    smooth("perceptron", inputs, |graph, values| {
        let [ids, targets, table, norm, norm_bias, up, up_bias, down, last_norm] = values[..] else {
            unreachable!("nine are given")
        };
        let x = graph.gather(table, ids);
        let normed = graph.layer_norm(x, norm, norm_bias, 1e-5);
        let wide = graph.linear(normed, up)?;
        let wide = graph.add(wide, up_bias)?;
        let wide = graph.gelu(wide, false);
        let narrow = graph.linear(wide, down)?;
        let x = graph.add(x, narrow)?;
        let x = graph.rms_norm(x, last_norm, 1e-5);
        let logits = graph.linear(x, table)?;
        let log_probabilities = graph.log_softmax(logits);
        let chosen = graph.gather_elements(log_probabilities, targets)?;
        let mean = graph.mean_all(chosen);
        Ok(vec![graph.neg(mean)])
    })
}

/// Two sequences of 3 and 2 tokens, in a layout of 2 × 3.
fn decoder_inputs() -> Vec<CaseInput> {
    let (tokens, padded, seq) = (named("tokens", 5), named("padded", 6), named("seq", 3));
    let matrix = |name, rows: usize, columns: usize| real(name, &[fixed(rows), fixed(columns)], -0.7, 0.7);
    vec![
        real("x", &[tokens, fixed(8)], -1.0, 1.0),
        ids("pack", &[tokens], &[0, 1, 2, 3, 4]),
        ids("unpack", &[padded], &[0, 1, 2, 3, 4, -1]),
        ids("positions", &[tokens, fixed(1)], &[0, 1, 2, 0, 1]),
        ids("seen", &[seq, seq], &[1, 0, 0, 1, 1, 0, 1, 1, 1]),
        ids("layout", &[named("batch", 2), seq], &[0; 6]),
        real("norm", &[fixed(8)], 0.5, 1.5),
        matrix("query", 8, 8),
        matrix("query_a", 2, 8),
        matrix("query_b", 8, 2),
        matrix("key", 4, 8),
        matrix("value", 4, 8),
        matrix("output", 8, 8),
        matrix("gate_up", 12, 8),
        matrix("down", 8, 6),
    ]
}

/// Two layers with shared weights: packed tokens, two query heads with one key-value head, a low-rank change
/// of the query, gated SiLU.
fn decoder(graph: &mut Graph, values: &[Value], segments: bool) -> Results {
    let mut x = values[0];
    // Inputs live for the whole run, so the first layer starts from a computed value.
    x = graph.scale(x, 0.5);
    let rotary = tables(graph, 2);
    for _ in 0..2 {
        if segments {
            graph.begin_segment();
        }
        x = layer(graph, values, rotary, x)?;
        if segments {
            graph.end_segment();
        }
    }
    Ok(vec![graph.tanh(x)])
}

fn layer(graph: &mut Graph, values: &[Value], rotary: (Value, Value), x: Value) -> Result<Value, ModelError> {
    let &[_, _, _, _, _, _, norm, query, query_a, query_b, key, value, output, gate_up, down] = values else {
        unreachable!("fifteen are given")
    };
    let normed = graph.rms_norm(x, norm, 1e-5);
    let q = graph.linear(normed, query)?;
    let low_rank = graph.linear(normed, query_a)?;
    let scaled = graph.scale(query_b, 2.0);
    let change = graph.linear(low_rank, scaled)?;
    let q = graph.add(q, change)?;
    let k = graph.linear(normed, key)?;
    let v = graph.linear(normed, value)?;
    let mixed = attention(graph, values, rotary, (q, k, v))?;
    let attended = graph.linear(mixed, output)?;
    let x = graph.add(x, attended)?;
    let normed = graph.rms_norm(x, norm, 1e-5);
    let wide = graph.linear(normed, gate_up)?;
    let parts = graph.split_last(wide, 2)?;
    let gate = graph.silu(parts[0]);
    let gated = graph.mul(gate, parts[1])?;
    let narrow = graph.linear(gated, down)?;
    graph.add(x, narrow)
}

fn attention(
    graph: &mut Graph,
    values: &[Value],
    rotary: (Value, Value),
    (q, k, v): (Value, Value, Value),
) -> Result<Value, ModelError> {
    let &[_, pack, unpack, positions, seen, ..] = values else { unreachable!("fifteen are given") };
    let [q, k] = [(q, 2), (k, 1)].map(|(x, heads)| {
        let alone = graph.unsqueeze(x, 1)?;
        let turned =
            graph.rotary(alone, positions, rotary, RotaryHeads { heads, dims: 4, interleaved: false });
        graph.squeeze(turned, 1)
    });
    let [batch, seq] = ["batch", "seq"].map(Dim::Named);
    let q = graph.gather_padded(q?, unpack, pack);
    let q = graph.reshape(q, vec![batch, seq, Dim::Fixed(1), Dim::Fixed(2), Dim::Fixed(4)])?;
    let q = graph.transpose(q, &[0, 2, 3, 1, 4])?;
    let q = graph.reshape(q, vec![batch, Dim::Fixed(1), Dim::Named("group_rows"), Dim::Fixed(4)])?;
    let mut by_head = Vec::new();
    for x in [k?, v] {
        let padded = graph.gather_padded(x, unpack, pack);
        let heads = graph.reshape(padded, vec![batch, seq, Dim::Fixed(1), Dim::Fixed(4)])?;
        by_head.push(graph.transpose(heads, &[0, 2, 1, 3])?);
    }
    let scores = graph.product((q, false), (by_head[0], true), 0.5)?;
    let scores = graph.reshape(scores, vec![batch, Dim::Fixed(1), Dim::Fixed(2), seq, seq])?;
    let seen = graph.cast(seen, ElementType::F32);
    let hidden = graph.shift(seen, -1.0);
    let hidden = graph.scale(hidden, 1e4);
    let scores = graph.add(scores, hidden)?;
    let weights = graph.softmax(scores);
    let weights = graph.reshape(weights, vec![batch, Dim::Fixed(1), Dim::Named("group_rows"), seq])?;
    let mixed = graph.matmul(weights, by_head[1])?;
    let mixed = graph.reshape(mixed, vec![batch, Dim::Fixed(1), Dim::Fixed(2), seq, Dim::Fixed(4)])?;
    let mixed = graph.transpose(mixed, &[0, 3, 1, 2, 4])?;
    let mixed = graph.reshape(mixed, vec![Dim::Named("padded"), Dim::Fixed(8)])?;
    Ok(graph.gather_paired(mixed, pack, unpack))
}

#[test]
fn recomputed_gradients_are_the_same_to_the_last_bit() {
    let gradients = |name: &str| {
        let cases = all();
        let case = cases.iter().find(|case| case.name == name).expect("the case");
        let built = Built::of(case);
        let (graph, found) = built.differentiated();
        let run = evaluate(&graph, &built.inputs);
        let bits = |value: &Value| run.get(*value).data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        (graph.nodes().len(), found.iter().map(bits).collect::<Vec<_>>())
    };
    let (nodes, kept) = gradients("decoder");
    let (more_nodes, computed_again) = gradients("decoder_in_segments");
    assert!(more_nodes > nodes + 20, "{more_nodes} nodes against {nodes}");
    assert_eq!(kept, computed_again);
}
