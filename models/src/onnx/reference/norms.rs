//! Norms and softmax, over the last axis.

use super::tensor::Tensor;

pub(super) fn softmax(x: &Tensor) -> Tensor {
    log_softmax(x).map(f64::exp)
}

pub(super) fn log_softmax(x: &Tensor) -> Tensor {
    let data = x.rows().flat_map(|row| {
        let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|element| (element - greatest).exp()).sum();
        row.iter().map(move |element| element - greatest - sum.ln())
    });
    Tensor::new(&x.shape[..], data.collect())
}

fn per_row(x: &Tensor, numbers: Vec<f64>) -> Tensor {
    let mut shape = x.shape.clone();
    *shape.last_mut().expect("an axis") = 1;
    Tensor::new(shape, numbers)
}

#[expect(clippy::cast_precision_loss, reason = "sizes of tensors in tests are small")]
fn mean(row: impl Iterator<Item = f64>, width: usize) -> f64 {
    row.sum::<f64>() / width as f64
}

/// Returns the norm and 1 / √(mean x² + ε).
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Vec<Tensor> {
    let inverse: Vec<f64> =
        x.rows().map(|row| (mean(row.iter().map(|x| x * x), x.width()) + epsilon).sqrt().recip()).collect();
    let rows = x.rows().zip(&inverse);
    let data = rows.flat_map(|(row, r)| row.iter().zip(&weight.data).map(move |(x, w)| x * r * w)).collect();
    vec![Tensor::new(&x.shape[..], data), per_row(x, inverse)]
}

/// Returns the norm, two omitted outputs, and the sum.
pub(super) fn add_rms_norm(x: &Tensor, skip: &Tensor, weight: &Tensor, epsilon: f64) -> Vec<Tensor> {
    let sum = Tensor::new(&x.shape[..], x.data.iter().zip(&skip.data).map(|(x, y)| x + y).collect());
    let norm = rms_norm(&sum, weight, epsilon).swap_remove(0);
    let nothing = || Tensor::new([0], Vec::new());
    vec![norm, nothing(), nothing(), sum]
}

/// Returns the norm, the mean and 1 / √(var + ε).
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Vec<Tensor> {
    let (mut data, mut means, mut inverses) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.rows() {
        let level = mean(row.iter().copied(), x.width());
        let variance = mean(row.iter().map(|x| (x - level).powi(2)), x.width());
        let inverse = (variance + epsilon).sqrt().recip();
        let affine = weight.data.iter().zip(&bias.data);
        data.extend(row.iter().zip(affine).map(|(x, (w, b))| (x - level) * inverse * w + b));
        means.push(level);
        inverses.push(inverse);
    }
    vec![Tensor::new(&x.shape[..], data), per_row(x, means), per_row(x, inverses)]
}
