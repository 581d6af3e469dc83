//! At least one small graph per operator.

use crate::error::ModelError;
use crate::onnx::graph::{AttentionCache, Graph};
use crate::onnx::op::{AttentionRule, Op, RotaryHeads};
use crate::onnx::value::{Dim, ElementType, Value};

use super::{Case, CaseInput, fixed, ids, named, packed, real, whole};

pub(super) type Built = Result<Vec<Value>, ModelError>;

pub(super) fn all() -> Vec<Case> {
    [
        elementwise(),
        unary(),
        products(),
        rows(),
        rows_written(),
        axes(),
        parts(),
        reductions(),
        norms(),
        rotary(),
        attention(),
        packed::all(),
        whole::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Two heads with 4 rotated dimensions each.
const HEADS: RotaryHeads = RotaryHeads { heads: 2, dims: 4, interleaved: false };

pub(super) fn smooth(
    name: &'static str,
    inputs: Vec<CaseInput>,
    build: fn(&mut Graph, &[Value]) -> Built,
) -> Case {
    Case { name, inputs, build, smooth: true, runs: true }
}

pub(super) fn forward(
    name: &'static str,
    inputs: Vec<CaseInput>,
    build: fn(&mut Graph, &[Value]) -> Built,
) -> Case {
    Case { name, inputs, build, smooth: false, runs: true }
}

/// Operands for every kind of broadcast.
fn operands(low: f64, high: f64) -> Vec<CaseInput> {
    let rows = named("rows", 3);
    vec![
        real("x", &[rows, fixed(4)], low, high),
        real("full", &[rows, fixed(4)], low, high),
        real("row", &[fixed(4)], low, high),
        real("column", &[rows, fixed(1)], low, high),
        real("number", &[], low, high),
        real("slab", &[fixed(2), fixed(1), fixed(4)], low, high),
    ]
}

fn each_way(
    graph: &mut Graph,
    values: &[Value],
    op: fn(&mut Graph, Value, Value) -> Result<Value, ModelError>,
) -> Built {
    let mut results = Vec::new();
    for &other in &values[1..] {
        results.push(op(graph, values[0], other)?);
        results.push(op(graph, other, values[0])?);
    }
    results.push(op(graph, values[2], values[3])?);
    Ok(results)
}

fn elementwise() -> Vec<Case> {
    vec![
        smooth("add", operands(-2.0, 2.0), |graph, values| each_way(graph, values, Graph::add)),
        smooth("sub", operands(-2.0, 2.0), |graph, values| each_way(graph, values, Graph::sub)),
        smooth("mul", operands(-2.0, 2.0), |graph, values| each_way(graph, values, Graph::mul)),
        smooth("div", operands(0.5, 2.0), |graph, values| each_way(graph, values, Graph::div)),
        smooth("min", operands(-2.0, 2.0), |graph, values| each_way(graph, values, Graph::min)),
        smooth("max", operands(-2.0, 2.0), |graph, values| each_way(graph, values, Graph::max)),
        forward("greater", operands(-2.0, 2.0), |graph, values| each_way(graph, values, Graph::greater)),
        forward("less_or_equal", operands(-2.0, 2.0), |graph, values| {
            each_way(graph, values, Graph::less_or_equal)
        }),
        smooth("select", operands(-2.0, 2.0), |graph, values| {
            let mask = graph.greater(values[1], values[2])?;
            let wide = graph.select(mask, values[0], values[3])?;
            let column = graph.greater(values[3], values[4])?;
            let compared = graph.add(values[1], values[4])?;
            Ok(vec![wide, graph.select(column, values[2], values[5])?, compared])
        }),
        smooth("square", operands(-2.0, 2.0), |graph, values| {
            each_way(graph, values, |graph, x, y| {
                let square = graph.square(x);
                graph.add(square, y)
            })
        }),
    ]
}

fn one(low: f64, high: f64) -> Vec<CaseInput> {
    vec![real("x", &[named("rows", 5), fixed(3)], low, high)]
}

fn unary() -> Vec<Case> {
    let cast = Case {
        // 16 bits are too imprecise to compare a gradient.
        runs: false,
        ..smooth("cast", one(-2.0, 2.0), |graph, x| {
            let [short, shorter] = [ElementType::F16, ElementType::BF16].map(|to| graph.cast(x[0], to));
            Ok([short, shorter].map(|value| graph.cast(value, ElementType::F32)).to_vec())
        })
    };
    vec![
        cast,
        smooth("neg", one(-2.0, 2.0), |graph, x| Ok(vec![graph.neg(x[0])])),
        smooth("exp", one(-2.0, 2.0), |graph, x| Ok(vec![graph.exp(x[0])])),
        smooth("log", one(0.5, 2.0), |graph, x| Ok(vec![graph.log(x[0])])),
        smooth("sqrt", one(0.5, 2.0), |graph, x| Ok(vec![graph.sqrt(x[0])])),
        smooth("reciprocal", one(0.5, 2.0), |graph, x| Ok(vec![graph.reciprocal(x[0])])),
        smooth("sigmoid", one(-4.0, 4.0), |graph, x| Ok(vec![graph.sigmoid(x[0])])),
        smooth("softplus", one(-4.0, 4.0), |graph, x| Ok(vec![graph.softplus(x[0])])),
        smooth("tanh", one(-2.0, 2.0), |graph, x| Ok(vec![graph.tanh(x[0])])),
        smooth("abs", one(-2.0, 2.0), |graph, x| Ok(vec![graph.abs(x[0])])),
        smooth("erf", one(-2.0, 2.0), |graph, x| Ok(vec![graph.erf(x[0])])),
        smooth("silu", one(-4.0, 4.0), |graph, x| Ok(vec![graph.silu(x[0])])),
        smooth("gelu", one(-4.0, 4.0), |graph, x| Ok(vec![graph.gelu(x[0], false)])),
        smooth("gelu_tanh", one(-4.0, 4.0), |graph, x| Ok(vec![graph.gelu(x[0], true)])),
        smooth("scale_and_shift", one(-2.0, 2.0), |graph, x| {
            let scaled = graph.scale(x[0], 0.75);
            Ok(vec![graph.shift(scaled, -1.5)])
        }),
        smooth("clip", one(-2.0, 2.0), |graph, x| {
            let both = graph.clip(x[0], -0.5, 0.75);
            let below = graph.clip(x[0], 0.25, f32::INFINITY);
            Ok(vec![both, below, graph.clip(x[0], f32::NEG_INFINITY, 0.25)])
        }),
        forward("sign", one(-2.0, 2.0), |graph, x| Ok(vec![graph.sign(x[0])])),
        forward("stop_gradient", one(-2.0, 2.0), |graph, x| Ok(vec![graph.stop_gradient(x[0])])),
    ]
}

fn products() -> Vec<Case> {
    let (batch, seq, rows) = (named("batch", 2), named("seq", 3), named("rows", 5));
    vec![
        smooth(
            "linear",
            vec![
                real("rows", &[rows, fixed(4)], -1.0, 1.0),
                real("sequences", &[batch, seq, fixed(4)], -1.0, 1.0),
                real("fixed", &[fixed(2), fixed(2), fixed(4)], -1.0, 1.0),
                real("weight", &[fixed(3), fixed(4)], -1.0, 1.0),
            ],
            |graph, values| values[..3].iter().map(|&x| graph.linear(x, values[3])).collect(),
        ),
        smooth(
            "matmul",
            vec![
                real("matrix", &[rows, fixed(4)], -1.0, 1.0),
                real("batched", &[batch, seq, fixed(4)], -1.0, 1.0),
                real("shared", &[fixed(4), fixed(2)], -1.0, 1.0),
                real("own", &[batch, fixed(4), fixed(2)], -1.0, 1.0),
            ],
            |graph, values| {
                let [matrix, batched, shared, own] = values[..] else { unreachable!("four are given") };
                let pairs = [(matrix, shared), (batched, shared), (batched, own), (matrix, own)];
                pairs.into_iter().map(|(a, b)| graph.matmul(a, b)).collect()
            },
        ),
        smooth(
            "matmul_transposed",
            vec![
                real("q", &[batch, fixed(2), seq, fixed(4)], -1.0, 1.0),
                real("k", &[batch, fixed(2), seq, fixed(4)], -1.0, 1.0),
                real("shared", &[fixed(3), fixed(4)], -1.0, 1.0),
            ],
            |graph, values| {
                let scores = graph.matmul_transposed(values[0], values[1])?;
                let scaled = graph.product((values[0], false), (values[1], true), 0.5)?;
                Ok(vec![scores, scaled, graph.matmul_transposed(values[0], values[2])?])
            },
        ),
        smooth(
            "product_of_a_transposed_matrix",
            vec![
                real("a", &[batch, fixed(4), fixed(3)], -1.0, 1.0),
                real("b", &[batch, fixed(4), fixed(2)], -1.0, 1.0),
                real("c", &[batch, fixed(2), fixed(4)], -1.0, 1.0),
                real("d", &[fixed(4), fixed(2)], -1.0, 1.0),
            ],
            |graph, values| {
                let [a, b, c, d] = values[..] else { unreachable!("four are given") };
                let one = graph.product((a, true), (b, false), 0.25)?;
                let both = graph.product((a, true), (c, true), 2.0)?;
                Ok(vec![one, both, graph.product((a, true), (d, false), 1.0)?])
            },
        ),
    ]
}

fn rows() -> Vec<Case> {
    let (tokens, padded) = (named("tokens", 5), named("padded", 8));
    let unpack = || ids("unpack", &[padded], &[0, 1, 2, -1, 3, 4, -1, -1]);
    let pack = || ids("pack", &[tokens], &[0, 1, 2, 4, 5]);
    vec![
        smooth(
            "gather",
            vec![
                real("table", &[fixed(4), fixed(3)], -1.0, 1.0),
                real("list", &[fixed(4)], -1.0, 1.0),
                ids("few", &[named("few", 5)], &[1, 0, 1, -1, 3]),
                ids("many", &[named("batch", 2), named("seq", 3)], &[3, 3, 3, 0, 2, 0]),
            ],
            |graph, values| {
                let pairs = [(0, 2), (0, 3), (1, 2), (1, 3)];
                Ok(pairs.into_iter().map(|(table, ids)| graph.gather(values[table], values[ids])).collect())
            },
        ),
        smooth(
            "gather_paired",
            vec![real("x", &[padded, fixed(3)], -1.0, 1.0), pack(), unpack()],
            |graph, values| Ok(vec![graph.gather_paired(values[0], values[1], values[2])]),
        ),
        smooth(
            "gather_padded",
            vec![
                real("x", &[tokens, fixed(3)], -1.0, 1.0),
                real("thick", &[tokens, fixed(2), fixed(3)], -1.0, 1.0),
                pack(),
                unpack(),
            ],
            |graph, values| {
                let packed = |graph: &mut Graph, x: Value| {
                    let padded = graph.gather_padded(x, values[3], values[2]);
                    let square = graph.square(padded);
                    graph.gather_paired(square, values[2], values[3])
                };
                Ok([values[0], values[1]].map(|x| packed(graph, x)).to_vec())
            },
        ),
        smooth(
            "gather_elements",
            vec![
                real("x", &[tokens, fixed(4)], -1.0, 1.0),
                real("logits", &[tokens, fixed(4)], -2.0, 2.0),
                ids("ids", &[tokens, fixed(1)], &[3, 0, 2, 2, 1]),
            ],
            |graph, values| {
                let log_probabilities = graph.log_softmax(values[1]);
                let chosen = graph.gather_elements(log_probabilities, values[2])?;
                let probabilities = graph.exp(log_probabilities);
                let terms = graph.mul(probabilities, log_probabilities)?;
                let entropy = graph.sum(terms, &[-1], false)?;
                Ok(vec![graph.gather_elements(values[0], values[2])?, chosen, entropy])
            },
        ),
    ]
}

fn rows_written() -> Vec<Case> {
    let tokens = named("tokens", 5);
    vec![
        forward(
            "scatter_add",
            vec![
                real("x", &[fixed(3), fixed(2)], -1.0, 1.0),
                ids("ids", &[tokens, fixed(2)], &[0, 1, 2, 2, 0, 0, 0, 1, 2, 0]),
                real("updates", &[tokens, fixed(2)], -1.0, 1.0),
            ],
            |graph, values| Ok(vec![graph.scatter_add(values[0], values[1], values[2], 0)]),
        ),
        forward(
            "replace_rows",
            vec![
                real("x", &[fixed(3), fixed(2)], -1.0, 1.0),
                ids("ids", &[fixed(2), fixed(1)], &[2, 0]),
                real("rows", &[fixed(2), fixed(2)], -1.0, 1.0),
            ],
            |graph, values| Ok(vec![graph.replace_rows(values[0], values[1], values[2])]),
        ),
    ]
}

fn axes() -> Vec<Case> {
    let (batch, seq) = (named("batch", 2), named("seq", 3));
    let layout = || ids("layout", &[batch, seq], &[0; 6]);
    vec![
        smooth(
            "reshape",
            vec![real("x", &[named("padded", 6), fixed(12)], -1.0, 1.0), layout()],
            |graph, values| {
                let [batch, seq] = ["batch", "seq"].map(Dim::Named);
                let heads = graph.reshape(values[0], vec![batch, seq, Dim::Fixed(2), Dim::Fixed(6)])?;
                let turned = graph.transpose(heads, &[0, 2, 1, 3])?;
                let square = graph.square(turned);
                let back = graph.transpose(square, &[0, 2, 1, 3])?;
                let rows = graph.reshape(back, vec![Dim::Named("padded"), Dim::Fixed(12)])?;
                let one = graph.reshape(rows, vec![Dim::Fixed(1), Dim::Named("padded"), Dim::Fixed(12)])?;
                Ok(vec![turned, rows, one])
            },
        ),
        smooth("transpose", vec![real("x", &[batch, seq, fixed(4)], -1.0, 1.0)], |graph, x| {
            let square = graph.square(x[0]);
            Ok(vec![graph.transpose(square, &[2, 0, 1])?, graph.transpose(x[0], &[0, 2, 1])?])
        }),
        smooth(
            "unsqueeze_and_squeeze",
            vec![real("x", &[batch, fixed(1), fixed(4)], -1.0, 1.0)],
            |graph, x| {
                let narrow = graph.squeeze(x[0], 1)?;
                let last = graph.unsqueeze(narrow, -1)?;
                Ok(vec![last, graph.unsqueeze(narrow, 0)?])
            },
        ),
    ]
}

fn parts() -> Vec<Case> {
    let (batch, seq) = (named("batch", 2), named("seq", 3));
    let layout = || ids("layout", &[batch, seq], &[0; 6]);
    vec![
        smooth(
            "concat",
            vec![real("x", &[batch, fixed(2)], -1.0, 1.0), real("y", &[batch, fixed(3)], -1.0, 1.0)],
            |graph, values| {
                let wide = graph.concat(&[values[0], values[1], values[0]], -1)?;
                Ok(vec![graph.square(wide)])
            },
        ),
        smooth("split", vec![real("x", &[fixed(6), batch], -1.0, 1.0)], |graph, x| {
            let parts = graph.split(x[0], 0, &[1, 3, 2])?;
            Ok(vec![graph.square(parts[0]), parts[2]])
        }),
        smooth("split_last", vec![real("x", &[batch, fixed(6)], -1.0, 1.0)], |graph, x| {
            graph.split_last(x[0], 3)
        }),
        smooth("slice", vec![real("x", &[batch, seq, fixed(6)], -1.0, 1.0)], |graph, x| {
            let middle = graph.slice_last(x[0], 1, 4)?;
            Ok(vec![graph.square(middle), graph.slice_last(x[0], 0, 2)?, graph.slice_last(x[0], 5, 6)?])
        }),
        smooth(
            "expand",
            vec![real("x", &[fixed(1), fixed(3)], -1.0, 1.0), real("number", &[], -1.0, 1.0), layout()],
            |graph, values| {
                let [batch, seq] = ["batch", "seq"].map(Dim::Named);
                let wide = graph.expand(values[0], vec![batch, seq, Dim::Fixed(3)])?;
                Ok(vec![wide, graph.expand(values[1], vec![seq, Dim::Fixed(2)])?])
            },
        ),
        // Two names that the input does not have: the layout gives their sizes.
        smooth(
            "reshape_to_a_shape",
            vec![real("x", &[named("all", 12)], -1.0, 1.0), layout()],
            |graph, values| {
                let square = graph.square(values[0]);
                let [batch, seq] = ["batch", "seq"].map(Dim::Named);
                Ok(vec![graph.reshape(square, vec![batch, seq, Dim::Fixed(2)])?])
            },
        ),
        forward("shape_of", vec![real("x", &[batch, seq], -1.0, 1.0)], |graph, x| {
            let shape = graph.shape_of(x[0]);
            let size = graph.size_of(x[0], 1);
            Ok([shape, size].map(|value| graph.cast(value, ElementType::F32)).to_vec())
        }),
    ]
}

fn reductions() -> Vec<Case> {
    let (batch, seq) = (named("batch", 2), named("seq", 3));
    let inputs = || vec![real("x", &[batch, seq, fixed(4)], -1.0, 1.0)];
    vec![
        forward(
            "greatest",
            vec![
                real("logits", &[named("tokens", 5), fixed(4)], -2.0, 2.0),
                ids("ids", &[named("tokens", 5), fixed(1)], &[3, 0, 2, 2, 1]),
            ],
            |graph, values| {
                let (greatest, chosen) =
                    (graph.greatest(values[0])?, graph.gather_elements(values[0], values[1])?);
                Ok(vec![greatest, graph.less_or_equal(greatest, chosen)?])
            },
        ),
        smooth("sum", inputs(), |graph, x| {
            let square = graph.square(x[0]);
            let kept = graph.sum(square, &[-1], true)?;
            let inner = graph.sum(square, &[1], false)?;
            Ok(vec![kept, inner, graph.sum(square, &[0, 2], false)?, graph.sum_all(square)])
        }),
        smooth("mean", inputs(), |graph, x| {
            let square = graph.square(x[0]);
            let kept = graph.mean(square, &[2], true)?;
            let inner = graph.mean(square, &[1], false)?;
            Ok(vec![kept, inner, graph.mean(square, &[0, -1], false)?, graph.mean_all(square)])
        }),
    ]
}

fn norms() -> Vec<Case> {
    let tokens = named("tokens", 3);
    let inputs = |low: f64, high: f64| {
        vec![
            real("x", &[tokens, fixed(5)], low, high),
            real("weight", &[fixed(5)], 0.5, 1.5),
            real("bias", &[fixed(5)], -1.0, 1.0),
            real("deep", &[named("batch", 2), tokens, fixed(5)], low, high),
        ]
    };
    let sequences = [named("batch", 2), tokens, fixed(8)];
    vec![
        smooth("softmax", inputs(-2.0, 2.0), |graph, values| {
            let added = graph.add(values[0], values[1])?;
            let scaled = graph.mul(values[3], values[2])?;
            Ok(vec![graph.softmax(added), graph.softmax(scaled)])
        }),
        smooth("log_softmax", inputs(-2.0, 2.0), |graph, values| {
            let added = graph.add(values[0], values[1])?;
            let scaled = graph.mul(values[3], values[2])?;
            Ok(vec![graph.log_softmax(added), graph.log_softmax(scaled)])
        }),
        smooth("rms_norm", inputs(-2.0, 2.0), |graph, values| {
            let flat = graph.rms_norm(values[0], values[1], 1e-5);
            let shifted = graph.add(values[3], values[2])?;
            Ok(vec![flat, graph.rms_norm(shifted, values[1], 0.1)])
        }),
        smooth("layer_norm", inputs(-2.0, 2.0), |graph, values| {
            let flat = graph.layer_norm(values[0], values[1], values[2], 1e-5);
            Ok(vec![flat, graph.layer_norm(values[3], values[1], values[2], 0.1)])
        }),
        forward(
            "add_rms_norm",
            vec![
                real("x", &sequences, -1.0, 1.0),
                real("skip", &sequences, -1.0, 1.0),
                real("weight", &[fixed(8)], 0.5, 1.5),
            ],
            |graph, values| {
                let (norm, sum) = graph.add_rms_norm(values[0], values[1], values[2], 1e-5);
                Ok(vec![norm, sum])
            },
        ),
    ]
}

/// Angles of four positions for two pairs of dimensions.
pub(super) fn tables(graph: &mut Graph, pairs: usize) -> (Value, Value) {
    let angles: Vec<f32> = (0_u16..4)
        .flat_map(|position| (0..pairs).map(move |_| f32::from(position)))
        .enumerate()
        .map(|(place, position)| position * if place % 2 == 0 { 0.9 } else { 0.3 })
        .collect();
    let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    (graph.constant_f32("cos", &[4, pairs], &cos), graph.constant_f32("sin", &[4, pairs], &sin))
}

fn rotary() -> Vec<Case> {
    let (batch, seq) = (named("batch", 2), named("seq", 3));
    vec![
        smooth(
            "rotary",
            vec![
                real("x", &[named("tokens", 5), fixed(1), fixed(16)], -1.0, 1.0),
                ids("positions", &[named("tokens", 5), fixed(1)], &[0, 1, 2, 0, 3]),
            ],
            |graph, values| {
                let part = tables(graph, 2);
                let part = graph.rotary(values[0], values[1], part, HEADS);
                Ok(vec![graph.square(part)])
            },
        ),
        smooth(
            "rotary_of_whole_heads",
            vec![
                real("x", &[batch, seq, fixed(8)], -1.0, 1.0),
                ids("positions", &[batch, seq], &[0, 1, 2, 1, 2, 3]),
            ],
            |graph, values| {
                let whole = tables(graph, 2);
                Ok(vec![graph.rotary(values[0], values[1], whole, HEADS)])
            },
        ),
        smooth(
            "rotary_of_neighbours",
            vec![
                real("x", &[batch, seq, fixed(8)], -1.0, 1.0),
                ids("positions", &[batch, seq], &[0, 1, 2, 1, 2, 3]),
            ],
            |graph, values| {
                let whole = tables(graph, 2);
                let heads = RotaryHeads { interleaved: true, ..HEADS };
                Ok(vec![graph.rotary(values[0], values[1], whole, heads)])
            },
        ),
    ]
}

fn attention() -> Vec<Case> {
    let (batch, seq) = (named("batch", 2), named("seq", 3));
    let integers = |name, shape: &[_], numbers: &[i64]| CaseInput {
        element: ElementType::I32,
        ..ids(name, shape, numbers)
    };
    let cache = |name| real(name, &[batch, fixed(2), fixed(4), fixed(16)], -1.0, 1.0);
    vec![
        forward(
            "attention_over_a_cache",
            vec![
                real("query", &[batch, fixed(1), fixed(64)], -1.0, 1.0),
                real("key", &[batch, fixed(1), fixed(32)], -1.0, 1.0),
                real("value", &[batch, fixed(1), fixed(32)], -1.0, 1.0),
                cache("past_key"),
                cache("past_value"),
                integers("seqlens_k", &[batch], &[3, 1]),
                integers("total_sequence_length", &[fixed(1)], &[4]),
            ],
            |graph, values| attend(graph, values, false, AttentionRule::default()),
        ),
        forward(
            "attention_of_a_prompt",
            vec![
                real("query", &[batch, seq, fixed(64)], -1.0, 1.0),
                real("key", &[batch, seq, fixed(32)], -1.0, 1.0),
                real("value", &[batch, seq, fixed(32)], -1.0, 1.0),
                cache("past_key"),
                cache("past_value"),
                integers("seqlens_k", &[batch], &[2, 2]),
                integers("total_sequence_length", &[fixed(1)], &[3]),
            ],
            |graph, values| attend(graph, values, true, AttentionRule::default()),
        ),
        forward(
            "attention_with_a_window_and_bounded_scores",
            vec![
                real("query", &[batch, seq, fixed(64)], -1.0, 1.0),
                real("key", &[batch, seq, fixed(32)], -1.0, 1.0),
                real("value", &[batch, seq, fixed(32)], -1.0, 1.0),
                cache("past_key"),
                cache("past_value"),
                integers("seqlens_k", &[batch], &[2, 2]),
                integers("total_sequence_length", &[fixed(1)], &[3]),
            ],
            |graph, values| {
                let rule =
                    AttentionRule { scale: Some(0.5), cap: Some(1.5), window: Some(2), interleaved: true };
                attend(graph, values, true, rule)
            },
        ),
    ]
}

fn attend(graph: &mut Graph, values: &[Value], rotary: bool, rule: AttentionRule) -> Built {
    let cache = AttentionCache {
        past_key: values[3],
        past_value: values[4],
        seqlens_k: values[5],
        total_sequence_length: values[6],
        rotary: rotary.then(|| tables(graph, 8)),
    };
    let (output, ..) = graph.group_query_attention(values[0], values[1], values[2], &cache, rule)?;
    debug_assert!(matches!(graph.nodes().last().map(|node| &node.op), Some(Op::GroupQueryAttention { .. })));
    Ok(vec![output])
}
