//! Position embedding, and attention over a cache.

use super::norms::softmax;
use super::tensor::Tensor;
use crate::onnx::op::{AttentionRule, RotaryHeads};

/// Rotates the pairs of each head's first dimensions.
pub(super) fn rotary(
    x: &Tensor,
    positions: &Tensor,
    tables: (&Tensor, &Tensor),
    RotaryHeads { heads, dims, interleaved }: RotaryHeads,
) -> Tensor {
    let head_dim = x.width() / heads;
    let dims = if dims == 0 { head_dim } else { dims };
    let positions = positions.sizes();
    let mut rotated = x.clone();
    for (row, &position) in rotated.data.chunks_exact_mut(x.width()).zip(&positions) {
        for head in row.chunks_exact_mut(head_dim) {
            rotate(&mut head[..dims], position, tables, interleaved);
        }
    }
    rotated
}

fn rotate(head: &mut [f64], position: usize, (cos, sin): (&Tensor, &Tensor), interleaved: bool) {
    let half = head.len() / 2;
    for pair in 0..half {
        let (c, s) = (cos.at(&[position, pair]), sin.at(&[position, pair]));
        let (first, second) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
        let (x, y) = (head[first], head[second]);
        (head[first], head[second]) = (x * c - y * s, x * s + y * c);
    }
}

/// `query, key, value [batch, seq, heads · d], past_key, past_value [batch, kv_heads, capacity, d],
/// seqlens_k, total, cos?, sin?`.
pub(super) fn attend(
    operands: &[Option<&Tensor>],
    heads: usize,
    kv_heads: usize,
    rule: AttentionRule,
) -> Vec<Tensor> {
    let at = |slot: usize| operands[slot].expect("the operand is there");
    let (query, seqlens, total) = (at(0), at(5).sizes(), at(6).sizes()[0]);
    let tables = operands.get(7).copied().flatten().zip(operands.get(8).copied().flatten());
    let (batch, seq, head_dim) = (query.shape[0], query.shape[1], query.width() / heads);
    let [mut keys, mut values] = [at(3).clone(), at(4).clone()];
    let past = |row: usize| if seq == total { 0 } else { seqlens[row] + 1 - seq };
    let part = |x: &Tensor, row: usize, token: usize, head: usize| {
        let start = (row * seq + token) * x.width() + head * head_dim;
        x.data[start..start + head_dim].to_vec()
    };
    let turned = |mut head: Vec<f64>, position: usize| {
        if let Some(tables) = tables {
            rotate(&mut head, position, tables, rule.interleaved);
        }
        head
    };
    for row in 0..batch {
        for token in 0..seq {
            let position = past(row) + token;
            for head in 0..kv_heads {
                let start = keys.offset(&[row, head, position, 0]);
                let key = turned(part(at(1), row, token, head), position);
                keys.data[start..start + head_dim].copy_from_slice(&key);
                values.data[start..start + head_dim].copy_from_slice(&part(at(2), row, token, head));
            }
        }
    }
    let mut output = Vec::with_capacity(query.data.len());
    for (row, token, head) in (0..batch)
        .flat_map(|row| (0..seq).flat_map(move |token| (0..heads).map(move |head| (row, token, head))))
    {
        let position = past(row) + token;
        let asked = turned(part(query, row, token, head), position);
        let kv_head = head / (heads / kv_heads);
        output.extend(weighted(&asked, (&keys, &values), [row, kv_head], position + 1, rule));
    }
    vec![Tensor::new(&query.shape[..], output), keys, values]
}

/// Returns the values of the last positions before `count` that the window shows, weighted by the softmax of
/// their scores.
#[expect(clippy::cast_precision_loss, reason = "sizes of tensors in tests are small")]
fn weighted(
    query: &[f64],
    (keys, values): (&Tensor, &Tensor),
    [row, head]: [usize; 2],
    count: usize,
    rule: AttentionRule,
) -> Vec<f64> {
    let scale = rule.scale.map_or((query.len() as f64).sqrt().recip(), f64::from);
    let first = rule.window.map_or(0, |window| count.saturating_sub(window));
    let fit = |place: usize| -> f64 {
        let score: f64 =
            query.iter().enumerate().map(|(d, q)| q * keys.at(&[row, head, place, d]) * scale).sum();
        rule.cap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
    };
    let weights = softmax(&Tensor::new([count - first], (first..count).map(fit).collect()));
    let mix = |d: usize| {
        (first..count).map(|place| weights.data[place - first] * values.at(&[row, head, place, d])).sum()
    };
    (0..query.len()).map(mix).collect()
}
