//! Matrix products.

use super::tensor::{Tensor, joint};

pub(super) fn matmul(a: &Tensor, transpose_a: bool, b: &Tensor, transpose_b: bool, alpha: f64) -> Tensor {
    let dims = |tensor: &Tensor, transposed: bool| {
        let (outer, inner) = tensor.shape.split_at(tensor.shape.len() - 2);
        let (rows, columns) = if transposed { (inner[1], inner[0]) } else { (inner[0], inner[1]) };
        (outer.to_vec(), rows, columns)
    };
    let (outer_a, rows, shared) = dims(a, transpose_a);
    let (outer_b, shared_b, columns) = dims(b, transpose_b);
    assert_eq!(shared, shared_b);
    let outer = joint(&outer_a, &outer_b);
    let full = |tensor: &Tensor| {
        let inner = &tensor.shape[tensor.shape.len() - 2..];
        tensor.broadcast_to(&[&outer[..], inner].concat())
    };
    let (a, b) = (full(a), full(b));
    let element = |tensor: &Tensor, outer: &[usize], row: usize, column: usize, transposed: bool| {
        let inner = if transposed { [column, row] } else { [row, column] };
        tensor.at(&[outer, &inner[..]].concat())
    };
    Tensor::from_fn([&outer[..], &[rows, columns]].concat(), |index| {
        let (outer, inner) = index.split_at(index.len() - 2);
        let terms = (0..shared).map(|k| {
            element(&a, outer, inner[0], k, transpose_a) * element(&b, outer, k, inner[1], transpose_b)
        });
        alpha * terms.sum::<f64>()
    })
}
