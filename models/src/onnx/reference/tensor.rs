//! Row-major tensors.

/// Numbers with a shape.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Tensor {
    pub(crate) fn new(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?} holds another number of elements");
        Self { shape, data }
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes of tensors in tests are small")]
    pub(crate) fn of_sizes(sizes: &[usize]) -> Self {
        Self::new([sizes.len()], sizes.iter().map(|&size| size as f64).collect())
    }

    /// Returns a tensor whose elements are a function of their index.
    pub(crate) fn from_fn(shape: impl Into<Vec<usize>>, mut element: impl FnMut(&[usize]) -> f64) -> Self {
        let shape = shape.into();
        let data = indices(&shape).map(|index| element(&index)).collect();
        Self { shape, data }
    }

    pub(crate) fn offset(&self, index: &[usize]) -> usize {
        assert_eq!(index.len(), self.shape.len());
        index.iter().zip(&self.shape).fold(0, |offset, (&place, &size)| {
            assert!(place < size, "{index:?} is outside {:?}", self.shape);
            offset * size + place
        })
    }

    pub(crate) fn at(&self, index: &[usize]) -> f64 {
        self.data[self.offset(index)]
    }

    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the elements are integers")]
    pub(crate) fn integers(&self) -> Vec<i64> {
        self.data.iter().map(|&x| x as i64).collect()
    }

    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.integers().into_iter().map(|size| usize::try_from(size).expect("a size")).collect()
    }

    pub(crate) fn broadcast_to(&self, shape: &[usize]) -> Self {
        let outer = shape.len() - self.shape.len();
        Self::from_fn(shape, |index| {
            let own: Vec<usize> = index[outer..]
                .iter()
                .zip(&self.shape)
                .map(|(&place, &size)| if size == 1 { 0 } else { place })
                .collect();
            self.at(&own)
        })
    }

    /// Returns the rows along the last axis.
    pub(crate) fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.width())
    }

    pub(crate) fn width(&self) -> usize {
        *self.shape.last().expect("an axis")
    }
}

/// Returns every index into a shape, in row-major order.
pub(crate) fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let shape = shape.to_vec();
    (0..shape.iter().product::<usize>()).map(move |mut flat| {
        let mut index = vec![0; shape.len()];
        for (place, &size) in index.iter_mut().zip(&shape).rev() {
            (*place, flat) = (flat % size, flat / size);
        }
        index
    })
}

/// Returns the broadcast shape of two operands, aligned at their last axes.
pub(crate) fn joint(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    let joined = (0..rank).map(|axis| match (size(a, axis), size(b, axis)) {
        (1, other) | (other, 1) => other,
        (x, y) => {
            assert_eq!(x, y, "{a:?} and {b:?} cannot be broadcast");
            x
        }
    });
    joined.collect()
}
