//! Rotary position embeddings (arXiv 2104.09864), and their changes for longer contexts.

use std::f64::consts::{PI, TAU};

use super::settings::Settings;
use crate::error::ModelError;

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// The number of rotated dimensions of each head; even, at most `head_dim`.
    pub rotary_dims: usize,
    /// The change of the frequencies for longer contexts.
    pub scaling: Option<RopeScaling>,
    /// The longest sequence for which the embedding is right, in tokens; `None` if there is no limit.
    pub context: Option<usize>,
}

/// Changes of the rotary frequencies for contexts longer than the original training context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor; positive.
        factor: f64,
    },
    /// Llama 3's scaling: long wavelengths are divided by `factor`, short ones are kept, those between are
    /// interpolated.
    Llama3 {
        /// The divisor of the long wavelengths; positive.
        factor: f64,
        /// A wavelength above `original_context / low_frequency_factor` is long.
        low_frequency_factor: f64,
        /// A wavelength below `original_context / high_frequency_factor` is short.
        high_frequency_factor: f64,
        /// The context length, in tokens, before the change.
        original_context: f64,
    },
    /// `YaRN` (arXiv 2309.00071): dimensions with many turns in the original context are kept, those with few
    /// are divided by `factor`, and a ramp connects both.
    Yarn {
        /// The divisor; positive.
        factor: f64,
        /// The first and the last dimension of the ramp.
        ramp: (f64, f64),
        /// The factor of cosines and sines.
        magnitude: f64,
    },
    /// One divisor per frequency, `rotary_dims / 2` of them, as GGUF files and `LongRoPE` (arXiv 2402.13753)
    /// store them.
    Divisors {
        /// The divisors; positive.
        divisors: Vec<f64>,
        /// The factor of cosines and sines.
        magnitude: f64,
    },
}

impl Rope {
    pub(super) fn validate(&self, head_dim: usize) -> Result<(), String> {
        if !(self.theta.is_finite() && self.theta > 0.0) {
            return Err(format!("the rotary base {} is not positive", self.theta));
        }
        if self.rotary_dims == 0 || !self.rotary_dims.is_multiple_of(2) || self.rotary_dims > head_dim {
            return Err(format!(
                "rotary dimensions {} are out of range: use an even number from 2 to {head_dim}",
                self.rotary_dims
            ));
        }
        match &self.scaling {
            Some(RopeScaling::Divisors { divisors, .. }) if divisors.len() != self.rotary_dims / 2 => {
                Err(format!(
                    "the rotary embedding has {} divisors for {} frequencies",
                    divisors.len(),
                    self.rotary_dims / 2
                ))
            }
            _ => Ok(()),
        }
    }

    /// Returns the angular frequencies after scaling, in radians per token: `rotary_dims / 2` of them,
    /// falling.
    ///
    /// Frequency i is theta^(−2i / rotary_dims), as in RoFormer (arXiv 2104.09864, section 3.2.2). The
    /// scaling is the one of Hugging Face transformers.
    #[must_use]
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        let dims = self.rotary_dims as f64;
        (0..self.rotary_dims / 2)
            .map(|index| {
                let frequency = self.theta.powf(-(2.0 * index as f64) / dims);
                self.scaling.as_ref().map_or(frequency, |scaling| scaling.apply(index, frequency))
            })
            .collect()
    }

    /// Returns the factor of cosines and sines, 1 for most models.
    #[must_use]
    pub fn magnitude(&self) -> f64 {
        match self.scaling {
            Some(RopeScaling::Yarn { magnitude, .. } | RopeScaling::Divisors { magnitude, .. }) => magnitude,
            Some(RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. }) | None => 1.0,
        }
    }
}

impl RopeScaling {
    fn apply(&self, index: usize, frequency: f64) -> f64 {
        match self {
            Self::Linear { factor } => frequency / factor,
            Self::Divisors { divisors, .. } => frequency / divisors.get(index).copied().unwrap_or(1.0),
            Self::Yarn { factor, ramp: (first, last), .. } => {
                let divided = ((index as f64 - first) / (last - first)).clamp(0.0, 1.0);
                frequency / factor * divided + frequency * (1.0 - divided)
            }
            Self::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                let wavelength = TAU / frequency;
                if wavelength < original_context / high_frequency_factor {
                    frequency
                } else if wavelength > original_context / low_frequency_factor {
                    frequency / factor
                } else {
                    let smooth = (original_context / wavelength - low_frequency_factor)
                        / (high_frequency_factor - low_frequency_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// A family's defaults of the rotary embedding.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeDefaults {
    pub(super) theta: f64,
    /// The rotated share of each head; `None` for families that always rotate whole heads.
    pub(super) share: Option<f64>,
}

/// Most families rotate whole heads, with base 10000.
pub(super) const WHOLE_HEADS: RopeDefaults = RopeDefaults { theta: 10_000.0, share: None };

/// The sizes that a rotary embedding depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeSizes {
    pub(super) head_dim: usize,
    /// The longest sequence of the configuration, in tokens.
    pub(super) context: usize,
}

/// Reads the rotary embedding of the layers of a type: `full_attention` or `sliding_attention`.
///
/// The parameters are in `rope_parameters` (transformers 5, for all layers or by type) or in `rope_scaling`.
pub(super) fn read(
    settings: &Settings,
    layer_type: &str,
    sizes: RopeSizes,
    defaults: RopeDefaults,
) -> Result<Rope, ModelError> {
    let parameters = match settings.group("rope_parameters")? {
        Some(by_type) => by_type.group(layer_type)?.or(Some(by_type)),
        None => settings.group("rope_scaling")?,
    };
    read_parameters(settings, parameters.as_ref(), sizes, defaults)
}

/// Reads the rotary embedding of a type of layers that has parameters of its own, or none.
///
/// `theta` is the base where the parameters do not name one.
pub(super) fn read_apart(
    parameters: Option<&Settings>,
    sizes: RopeSizes,
    theta: f64,
) -> Result<Rope, ModelError> {
    match parameters {
        Some(parameters) => {
            let defaults = RopeDefaults { theta, share: None };
            read_parameters(parameters, Some(parameters), sizes, defaults)
        }
        None => Ok(Rope { theta, rotary_dims: sizes.head_dim, scaling: None, context: None }),
    }
}

/// Reads a rotary embedding from its parameters, with the older keys beside them.
fn read_parameters(
    settings: &Settings,
    parameters: Option<&Settings>,
    sizes: RopeSizes,
    defaults: RopeDefaults,
) -> Result<Rope, ModelError> {
    let number = |key: &str| -> Result<Option<f64>, ModelError> {
        parameters.map_or(Ok(None), |parameters| parameters.number(key))
    };
    let theta = number("rope_theta")?.or(settings.number("rope_theta")?);
    let theta = theta.or(settings.number("rotary_emb_base")?).unwrap_or(defaults.theta);
    let share = number("partial_rotary_factor")?.or(settings.number("partial_rotary_factor")?);
    let share = share.or(settings.number("rotary_pct")?).or(defaults.share).unwrap_or(1.0);
    if !(share > 0.0 && share <= 1.0) {
        return Err(settings.error(format!("partial_rotary_factor {share} is not in (0, 1]")));
    }
    if defaults.share.is_none() && share < 1.0 {
        return Err(settings.error(format!(
            "partial_rotary_factor {share} is not supported for this family: its heads are rotated whole"
        )));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share in (0, 1] of a head: rounded towards zero, as transformers does"
    )]
    let rotary_dims = (sizes.head_dim as f64 * share) as usize;
    let mut rope = Rope { theta, rotary_dims, scaling: None, context: None };
    if let Some(parameters) = parameters {
        scale(&mut rope, settings, parameters, sizes.context as f64)?;
    }
    Ok(rope)
}

fn scale(rope: &mut Rope, settings: &Settings, raw: &Settings, context: f64) -> Result<(), ModelError> {
    let need = |key: &str| raw.positive(key).and_then(|value| raw.need(key, value));
    let original = || -> Result<Option<f64>, ModelError> {
        let key = "original_max_position_embeddings";
        Ok(raw.positive(key)?.or(settings.positive(key)?))
    };
    let kind = match raw.text("rope_type")? {
        Some(kind) => kind,
        None => raw.text("type")?.unwrap_or("default"),
    };
    rope.scaling = match kind {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_frequency_factor: need("low_freq_factor")?,
            high_frequency_factor: need("high_freq_factor")?,
            original_context: raw.need("original_max_position_embeddings", original()?)?,
        }),
        "yarn" => {
            let original = original()?.unwrap_or(context);
            Some(yarn(raw, rope, original, context)?)
        }
        // `su` is the name of LongRoPE in the first configurations of Phi-3.
        "longrope" | "su" => {
            let original = raw.need("original_max_position_embeddings", original()?)?;
            Some(long_rope(rope, raw, original, context)?)
        }
        other => {
            return Err(raw.error(format!(
                "rope scaling {other:?} is not supported: use default, linear, llama3, yarn or longrope"
            )));
        }
    };
    Ok(())
}

fn yarn(raw: &Settings, rope: &Rope, original: f64, context: f64) -> Result<RopeScaling, ModelError> {
    let factor = raw.positive("factor")?.unwrap_or(context / original);
    let growth = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let magnitude =
        match (raw.number("attention_factor")?, raw.number("mscale")?, raw.number("mscale_all_dim")?) {
            (Some(factor), _, _) => factor,
            (None, Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => growth(scale) / growth(all),
            (None, _, _) => growth(1.0),
        };
    let dims = rope.rotary_dims as f64;
    // The dimension that turns this many times in the original context.
    let dimension = |turns: f64| dims * (original / (turns * 2.0 * PI)).ln() / (2.0 * rope.theta.ln());
    let first = dimension(raw.positive("beta_fast")?.unwrap_or(32.0));
    let last = dimension(raw.positive("beta_slow")?.unwrap_or(1.0));
    let (first, last) =
        if raw.flag("truncate")?.unwrap_or(true) { (first.floor(), last.ceil()) } else { (first, last) };
    let (first, mut last) = (first.max(0.0), last.min(dims - 1.0));
    if first >= last {
        last = first + 0.001;
    }
    Ok(RopeScaling::Yarn { factor, ramp: (first, last), magnitude })
}

/// The divisors of short sequences. Transformers changes to the long ones where a sequence exceeds the
/// original context; this program refuses such sequences, because the keys in a cache cannot change.
fn long_rope(
    rope: &mut Rope,
    raw: &Settings,
    original: f64,
    context: f64,
) -> Result<RopeScaling, ModelError> {
    let divisors = raw.need("short_factor", raw.numbers("short_factor")?)?;
    if divisors.iter().any(|divisor| !(divisor.is_finite() && *divisor > 0.0)) {
        return Err(raw.error("short_factor holds a value that is not positive"));
    }
    let factor = raw.positive("factor")?.unwrap_or(context / original);
    let magnitude = match raw.number("attention_factor")? {
        Some(factor) => factor,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of tokens, rounded towards zero"
    )]
    let original = original as usize;
    rope.context = Some(original);
    Ok(RopeScaling::Divisors { divisors, magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Option<RopeScaling>) -> Rope {
        Rope { theta: 10_000.0, rotary_dims: 8, scaling, context: None }
    }

    #[test]
    fn frequencies_are_a_geometric_series() {
        let frequencies = rope(None).inverse_frequencies();
        for (frequency, expected) in frequencies.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((frequency - expected).abs() < 1e-15, "{frequency} {expected}");
        }
        assert_eq!(frequencies.len(), 4);
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let plain = rope(None).inverse_frequencies();
        let scaled = rope(Some(RopeScaling::Linear { factor: 4.0 })).inverse_frequencies();
        assert!(plain.iter().zip(&scaled).all(|(plain, scaled)| (plain / 4.0 - scaled).abs() < 1e-15));
    }

    #[test]
    fn llama3_scaling_gives_the_frequencies_of_transformers() {
        // Llama 3.2's, computed by transformers' modeling_rope_utils in 32 bits, on both sides of the bounds
        // and between them.
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        };
        let scaled = Rope { theta: 500_000.0, rotary_dims: 64, scaling: Some(scaling), context: None }
            .inverse_frequencies();
        for (index, expected) in [
            (0, 1.0),
            (14, 0.003_211_446_106_433_868_4),
            (15, 0.001_290_548_010_729_253_3),
            (16, 0.000_429_556_705_057_621),
            (17, 9.708_286_233_944_818e-5),
            (18, 1.946_163_865_795_825_7e-5),
            (31, 9.418_306_490_260_875e-8),
        ] {
            let error: f64 = scaled[index] / expected - 1.0;
            assert!(error.abs() < 1e-5, "{index}: {} is not {expected}", scaled[index]);
        }
    }

    #[test]
    fn llama3_scaling_keeps_short_wavelengths_and_divides_long_ones() {
        // Wavelengths 6.3, 62.8, 628, 6283 for the bounds 32/4 = 8 and 32/1 = 32.
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 32.0,
        };
        let scaled = rope(Some(scaling)).inverse_frequencies();
        for (scaled, expected) in scaled.iter().zip([1.0, 0.0125, 0.00125, 0.000_125]) {
            assert!((scaled - expected).abs() < 1e-15, "{scaled} {expected}");
        }
    }
}
