//! Options of sessions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{InvalidKind, ModelError};

/// The processor on which sessions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU; an error if there is none.
    Cuda,
    /// A working GPU if there is one, else the CPU. The log names the choice.
    #[default]
    Auto,
}

impl FromStr for Provider {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "auto" => Ok(Self::Auto),
            other => Err(ModelError::invalid(
                InvalidKind::Setting,
                format!("unknown provider {other:?}: use cpu, cuda or auto"),
            )),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Auto => "auto",
        })
    }
}

/// Options of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// The processor on which they run.
    pub provider: Provider,
    /// The index of the GPU, from 0, for CUDA.
    pub device: u32,
    /// The type of numbers that models compute with.
    pub dtype: ComputeType,
    /// Threads per operator; 0 means one per physical core.
    pub threads: usize,
    /// The number of completions that are decoded together. More of them share each read of the weights and
    /// need more memory. Scoring does not use it.
    pub rows: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { provider: Provider::Auto, device: 0, dtype: ComputeType::Auto, threads: 0, rows: 16 }
    }
}

/// The type of numbers that models compute with. Losses, log-probabilities, scores and optimisers are of 32
/// bits with any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// 32 bits on the CPU. On a GPU, bf16 for a checkpoint of bf16 and f16 otherwise; bf16 for Gemma.
    #[default]
    Auto,
    /// 32-bit floats. On a GPU only trainings have them.
    F32,
    /// The upper half of a 32-bit float, on a GPU.
    Bf16,
    /// IEEE 16-bit floats. Trainings compute in 32 bits then. On the CPU this type shows what a GPU would
    /// compute, and is slow.
    F16,
}

const NAMES: [(ComputeType, &str); 4] = [
    (ComputeType::Auto, "auto"),
    (ComputeType::F32, "f32"),
    (ComputeType::Bf16, "bf16"),
    (ComputeType::F16, "f16"),
];

impl FromStr for ComputeType {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = NAMES.into_iter().find(|(_, name)| *name == text);
        found.map(|(known, _)| known).ok_or_else(|| {
            ModelError::invalid(
                InvalidKind::Setting,
                format!("unknown dtype {text:?}: use auto, f32, bf16 or f16"),
            )
        })
    }
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.into_iter().find(|(known, _)| known == self).map_or("", |(_, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_named_in_lower_case() {
        for provider in [Provider::Cpu, Provider::Cuda, Provider::Auto] {
            assert_eq!(provider.to_string().parse::<Provider>().expect("a known name"), provider);
        }
        assert!("gpu".parse::<Provider>().is_err());
    }

    #[test]
    fn types_of_numbers_are_named_in_lower_case() {
        for (dtype, name) in NAMES {
            assert_eq!((dtype.to_string().as_str(), name.parse::<ComputeType>().ok()), (name, Some(dtype)));
        }
        assert!("half".parse::<ComputeType>().is_err());
    }
}
