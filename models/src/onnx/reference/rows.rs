//! Selecting rows and elements by index.

use super::tensor::{Tensor, indices};

fn place(index: i64, size: usize) -> usize {
    let counted = if index < 0 { index + i64::try_from(size).expect("a size") } else { index };
    usize::try_from(counted).ok().filter(|&place| place < size).expect("an index within the table")
}

pub(super) fn gather(table: &Tensor, ids: &Tensor) -> Tensor {
    let row: usize = table.shape[1..].iter().product();
    let mut data = Vec::with_capacity(ids.data.len() * row);
    for id in ids.integers() {
        let start = place(id, table.shape[0]) * row;
        data.extend_from_slice(&table.data[start..start + row]);
    }
    Tensor::new([&ids.shape[..], &table.shape[1..]].concat(), data)
}

pub(super) fn gather_elements(x: &Tensor, ids: &Tensor) -> Tensor {
    let chosen = ids.integers();
    Tensor::from_fn(&ids.shape[..], |index| x.at(&[index[0], place(chosen[ids.offset(index)], x.shape[1])]))
}

pub(super) fn replace_rows(x: &Tensor, ids: &Tensor, rows: &Tensor) -> Tensor {
    let width: usize = x.shape[1..].iter().product();
    let mut replaced = x.clone();
    for (id, row) in ids.integers().into_iter().zip(rows.data.chunks_exact(width)) {
        let start = place(id, x.shape[0]) * width;
        replaced.data[start..start + width].copy_from_slice(row);
    }
    replaced
}

pub(super) fn scatter_add(x: &Tensor, ids: &Tensor, updates: &Tensor, axis: usize) -> Tensor {
    let mut sums = x.clone();
    for ((mut index, id), update) in indices(&ids.shape).zip(ids.integers()).zip(&updates.data) {
        index[axis] = place(id, x.shape[axis]);
        let offset = sums.offset(&index);
        sums.data[offset] += update;
    }
    sums
}
