//! Position embedding, and attention over a cache.

use super::norms::softmax;
use super::tensor::Tensor;

/// Rotates the first and the second half of each head's first `rotary_dims` dimensions against each other.
pub(super) fn rotary(
    x: &Tensor,
    positions: &Tensor,
    tables: (&Tensor, &Tensor),
    heads: usize,
    rotary_dims: usize,
) -> Tensor {
    let head_dim = x.width() / heads;
    let rotary_dims = if rotary_dims == 0 { head_dim } else { rotary_dims };
    let positions = positions.sizes();
    let mut rotated = x.clone();
    for (row, &position) in rotated.data.chunks_exact_mut(x.width()).zip(&positions) {
        for head in row.chunks_exact_mut(head_dim) {
            rotate(&mut head[..rotary_dims], position, tables);
        }
    }
    rotated
}

fn rotate(head: &mut [f64], position: usize, (cos, sin): (&Tensor, &Tensor)) {
    let half = head.len() / 2;
    for pair in 0..half {
        let (c, s) = (cos.at(&[position, pair]), sin.at(&[position, pair]));
        let (x, y) = (head[pair], head[pair + half]);
        (head[pair], head[pair + half]) = (x * c - y * s, x * s + y * c);
    }
}

/// `query, key, value [batch, seq, heads · d], past_key, past_value [batch, kv_heads, capacity, d],
/// seqlens_k, total, cos?, sin?`.
pub(super) fn attend(operands: &[Option<&Tensor>], heads: usize, kv_heads: usize) -> Vec<Tensor> {
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
            rotate(&mut head, position, tables);
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
        output.extend(weighted(&asked, (&keys, &values), [row, kv_head], position + 1));
    }
    vec![Tensor::new(&query.shape[..], output), keys, values]
}

/// Returns the values of the first `count` positions, weighted by the softmax of their scores.
#[expect(clippy::cast_precision_loss, reason = "sizes of tensors in tests are small")]
fn weighted(
    query: &[f64],
    (keys, values): (&Tensor, &Tensor),
    [row, head]: [usize; 2],
    count: usize,
) -> Vec<f64> {
    let scale = (query.len() as f64).sqrt().recip();
    let fit = |place: usize| -> f64 {
        query.iter().enumerate().map(|(d, q)| q * keys.at(&[row, head, place, d]) * scale).sum()
    };
    let weights = softmax(&Tensor::new([count], (0..count).map(fit).collect()));
    let mix =
        |d: usize| (0..count).map(|place| weights.data[place] * values.at(&[row, head, place, d])).sum();
    (0..query.len()).map(mix).collect()
}
