//! Element-wise operators.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

use crate::onnx::value::ElementType;

use super::tensor::{Tensor, joint};

pub(super) fn truth(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

pub(super) fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let shape = joint(&a.shape, &b.shape);
    let (a, b) = (a.broadcast_to(&shape), b.broadcast_to(&shape));
    Tensor::new(shape, a.data.iter().zip(&b.data).map(|(&x, &y)| f(x, y)).collect())
}

pub(super) fn choose(condition: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    let shape = joint(&condition.shape, &joint(&a.shape, &b.shape));
    let [condition, a, b] = [condition, a, b].map(|tensor| tensor.broadcast_to(&shape).data);
    let chosen = condition.iter().zip(a.iter().zip(&b)).map(|(&c, (&x, &y))| if c > 0.0 { x } else { y });
    Tensor::new(shape, chosen.collect())
}

pub(super) fn cast(x: &Tensor, to: ElementType) -> Tensor {
    match to {
        ElementType::F32 | ElementType::F16 | ElementType::BF16 => x.clone(),
        ElementType::I32 | ElementType::I64 | ElementType::U8 => x.map(f64::trunc),
        ElementType::Bool => x.map(|x| truth(x.abs() > 0.0)),
    }
}

pub(super) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

pub(super) fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// erf x = 2/√π e^(−x²) Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!!, whose terms all have one sign (Abramowitz and Stegun 7.1.6).
pub(super) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, 0.0_f64, 1.0);
    while term.abs() > f64::EPSILON * sum.abs() / 4.0 {
        sum += term;
        odd += 2.0;
        term *= 2.0 * x * x / odd;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_tabulated_values() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (-1.0, -0.842_700_792_949_714_9),
            (3.0, 0.999_977_909_503_001_4),
        ] {
            assert!((erf(x) - expected).abs() < 1e-14, "erf {x} is {}", erf(x));
        }
    }
}
