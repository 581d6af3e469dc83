//! Operators that move elements, and reductions over axes.

use super::tensor::{Tensor, indices};

pub(super) fn reshape(x: &Tensor, target: &[i64]) -> Tensor {
    let known = |(axis, &size): (usize, &i64)| match size {
        -1 => None,
        0 => Some(x.shape[axis]),
        size => Some(usize::try_from(size).expect("a size")),
    };
    let sizes: Vec<Option<usize>> = target.iter().enumerate().map(known).collect();
    let rest = x.data.len() / sizes.iter().flatten().product::<usize>().max(1);
    assert!(sizes.iter().filter(|size| size.is_none()).count() <= 1);
    Tensor::new(sizes.into_iter().map(|size| size.unwrap_or(rest)).collect::<Vec<_>>(), x.data.clone())
}

pub(super) fn transpose(x: &Tensor, perm: &[usize]) -> Tensor {
    let shape: Vec<usize> = perm.iter().map(|&axis| x.shape[axis]).collect();
    Tensor::from_fn(shape, |index| {
        let mut own = vec![0; index.len()];
        for (&axis, &place) in perm.iter().zip(index) {
            own[axis] = place;
        }
        x.at(&own)
    })
}

pub(super) fn unsqueeze(x: &Tensor, axis: usize) -> Tensor {
    let mut shape = x.shape.clone();
    shape.insert(axis, 1);
    Tensor::new(shape, x.data.clone())
}

pub(super) fn squeeze(x: &Tensor, axis: usize) -> Tensor {
    let mut shape = x.shape.clone();
    assert_eq!(shape.remove(axis), 1);
    Tensor::new(shape, x.data.clone())
}

pub(super) fn concat(values: &[&Tensor], axis: usize) -> Tensor {
    let mut shape = values[0].shape.clone();
    shape[axis] = values.iter().map(|value| value.shape[axis]).sum();
    Tensor::from_fn(shape, |index| {
        let mut own = index.to_vec();
        let mut value = values.iter();
        let mut current = value.next().expect("a value");
        while own[axis] >= current.shape[axis] {
            own[axis] -= current.shape[axis];
            current = value.next().expect("another value");
        }
        current.at(&own)
    })
}

pub(super) fn slice(x: &Tensor, axis: usize, start: usize, end: usize) -> Tensor {
    let mut shape = x.shape.clone();
    shape[axis] = end - start;
    Tensor::from_fn(shape, |index| {
        let mut own = index.to_vec();
        own[axis] += start;
        x.at(&own)
    })
}

pub(super) fn split(x: &Tensor, axis: usize, sizes: &[usize]) -> Vec<Tensor> {
    let starts = sizes.iter().scan(0, |start, &size| {
        *start += size;
        Some(*start - size)
    });
    starts.zip(sizes).map(|(start, &size)| slice(x, axis, start, start + size)).collect()
}

pub(super) fn sum(x: &Tensor, axes: &[usize], keep: bool) -> Tensor {
    let summed = |axis: &usize| axes.contains(axis);
    let mut sums = folded(x, axes, 0.0, |sum, element| sum + element);
    if !keep {
        sums.shape = (0..x.shape.len()).filter(|axis| !summed(axis)).map(|axis| x.shape[axis]).collect();
    }
    sums
}

pub(super) fn greatest(x: &Tensor, axis: usize) -> Tensor {
    folded(x, &[axis], f64::NEG_INFINITY, f64::max)
}

/// Reduces the elements along some axes, in their order. The axes stay with size 1.
fn folded(x: &Tensor, axes: &[usize], first: f64, fold: fn(f64, f64) -> f64) -> Tensor {
    let size = |axis: usize| if axes.contains(&axis) { 1 } else { x.shape[axis] };
    let kept: Vec<usize> = (0..x.shape.len()).map(size).collect();
    let mut results = Tensor::from_fn(kept, |_| first);
    for (mut index, &element) in indices(&x.shape).zip(&x.data) {
        for &axis in axes {
            index[axis] = 0;
        }
        let offset = results.offset(&index);
        results.data[offset] = fold(results.data[offset], element);
    }
    results
}

#[expect(clippy::cast_precision_loss, reason = "sizes of tensors in tests are small")]
pub(super) fn mean(x: &Tensor, axes: &[usize], keep: bool) -> Tensor {
    let count: usize = axes.iter().map(|&axis| x.shape[axis]).product();
    sum(x, axes, keep).map(|sum| sum / count as f64)
}
