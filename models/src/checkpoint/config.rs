//! A model's configuration: architecture, sizes, rotary embedding, special token ids.

use std::f64::consts::TAU;

/// The supported families of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and similar models (SmolLM2, TinyLlama, …): RMS norm, gated SiLU, grouped-query attention, full
    /// rotary.
    Llama,
    /// GPT-NeoX (Pythia): layer norm with bias, fused query-key-value, partial rotary, parallel residual.
    GptNeoX,
}

/// The activation function of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// x · Φ(x), with the error function.
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluTanh,
}

/// A checkpoint's configuration. Sizes are counts of elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of transformer layers in use (after any cut to the first K).
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// The longest sequence that the model supports, in tokens.
    pub context_length: usize,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the output head is the token embedding.
    pub tied_embeddings: bool,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether attention and MLP read the same residual (GPT-NeoX).
    pub parallel_residual: bool,
    /// Activation function of the MLP.
    pub activation: Activation,
    /// Beginning-of-sequence token, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a completion; chat models often have several.
    pub eos_token_ids: Vec<u32>,
    /// The padding token. A sequence classifier does not read its score there.
    pub pad_token_id: Option<u32>,
    /// The class of transformers that the configuration names, such as `LlamaForSequenceClassification`.
    pub class: Option<String>,
    /// Outputs of the sequence-classification head, if there is one.
    pub num_labels: Option<usize>,
}

/// The largest accepted width, vocabulary or head count. Products of two of them stay far below overflow.
const SIZE_MAX: usize = 1 << 24;
/// The highest accepted number of layers.
const LAYERS_MAX: usize = 4096;
/// The longest accepted context, in tokens.
const CONTEXT_MAX: usize = 1 << 31;

impl ModelConfig {
    /// Checks that the sizes are valid, alone and together. The error names the invalid size.
    pub(crate) fn validate(&self) -> Result<(), String> {
        for (name, value, most) in [
            ("hidden size", self.hidden_size, SIZE_MAX),
            ("intermediate size", self.intermediate_size, SIZE_MAX),
            ("number of layers", self.layers, LAYERS_MAX),
            ("number of attention heads", self.heads, SIZE_MAX),
            ("number of key-value heads", self.kv_heads, SIZE_MAX),
            ("head dimension", self.head_dim, SIZE_MAX),
            ("vocabulary size", self.vocab_size, SIZE_MAX),
            ("context length", self.context_length, CONTEXT_MAX),
        ] {
            if value == 0 || value > most {
                return Err(format!("the {name} {value} is out of range: use 1 to {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} attention heads cannot share {} key-value heads",
                self.heads, self.kv_heads
            ));
        }
        if self.architecture == Architecture::GptNeoX && self.heads * self.head_dim != self.hidden_size {
            return Err(format!("{} heads do not divide a hidden size of {}", self.heads, self.hidden_size));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(format!("the epsilon {} of the norms is not positive", self.norm_eps));
        }
        self.rope.validate(self.head_dim)?;
        if self.architecture == Architecture::Llama && self.rope.rotary_dims != self.head_dim {
            return Err(format!(
                "{} rotary dimensions are not supported for Llama: all {} of a head are required",
                self.rope.rotary_dims, self.head_dim
            ));
        }
        Ok(())
    }
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// The number of rotated dimensions of each head; even, at most `head_dim`.
    pub rotary_dims: usize,
    /// The change of the frequencies for longer contexts.
    pub scaling: Option<RopeScaling>,
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
    /// One divisor per frequency, as GGUF files store them: `rotary_dims / 2` divisors.
    Divisors(Vec<f64>),
}

impl Rope {
    fn validate(&self, head_dim: usize) -> Result<(), String> {
        if !(self.theta.is_finite() && self.theta > 0.0) {
            return Err(format!("the rotary base {} is not positive", self.theta));
        }
        if self.rotary_dims == 0 || !self.rotary_dims.is_multiple_of(2) || self.rotary_dims > head_dim {
            return Err(format!(
                "rotary dimensions {} are out of range: use an even number from 2 to {head_dim}",
                self.rotary_dims
            ));
        }
        Ok(())
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
}

impl RopeScaling {
    fn apply(&self, index: usize, frequency: f64) -> f64 {
        match self {
            Self::Linear { factor } => frequency / factor,
            Self::Divisors(divisors) => frequency / divisors.get(index).copied().unwrap_or(1.0),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Option<RopeScaling>) -> Rope {
        Rope { theta: 10_000.0, rotary_dims: 8, scaling }
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
        let scaled = Rope { theta: 500_000.0, rotary_dims: 64, scaling: Some(scaling) }.inverse_frequencies();
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
