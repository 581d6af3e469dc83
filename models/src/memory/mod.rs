//! The peak memory of each kind of step on the CPU, predicted before anything is loaded.
//!
//! A prediction needs the configuration and the shapes of the weights: [`Checkpoint::outline`] reads no more.
//! It builds the graphs of the step, and replays the allocations of their runs as ONNX Runtime makes them
//! (`onnx::memory`). What sessions and the program keep comes on top. Each term has a [`MemoryPart`].
//! [`crate::training::memory`] predicts trainings.
//!
//! [`Checkpoint::outline`]: crate::checkpoint::Checkpoint::outline

mod decoding;
mod session;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use decoding::{Decoding, generation, policy_scoring, reward_scoring};
pub(crate) use session::{FLOAT, add_session};

/// A part of the memory of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPart {
    /// The code of the program and of ONNX Runtime, in their files.
    Code,
    /// What the program and ONNX Runtime allocate before they open a model, and the tokenizer.
    Program,
    /// Weights in their file, mapped into memory. The kernel can drop and read them again.
    MappedWeights,
    /// Weights in 32 bits, whose file has 16.
    ConvertedWeights,
    /// The copy of weights in the fastest layout.
    PackedWeights,
    /// Graphs: nodes, and constants such as rotary tables.
    Graphs,
    /// Keys and values of earlier tokens.
    Cache,
    /// Logits that the program reads.
    Logits,
    /// Trained parameters, their moments and the accumulated gradient.
    Parameters,
    /// Token ids, indices and masks.
    Inputs,
    /// Values of the graph during a run.
    Activations,
}

impl MemoryPart {
    /// Whether the part is in files, from which the kernel can read it again.
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        matches!(self, Self::Code | Self::MappedWeights)
    }
}

impl fmt::Display for MemoryPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Program => "program",
            Self::MappedWeights => "mapped weights",
            Self::ConvertedWeights => "converted weights",
            Self::PackedWeights => "packed weights",
            Self::Graphs => "graphs",
            Self::Cache => "key-value cache",
            Self::Logits => "logits",
            Self::Parameters => "parameters and moments",
            Self::Inputs => "inputs",
            Self::Activations => "activations",
        })
    }
}

/// The predicted peak memory of a step, part by part, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct StepMemory {
    parts: BTreeMap<MemoryPart, u64>,
}

/// The resident code of the program and of ONNX Runtime, in bytes; measured.
const CODE: usize = 44 << 20;
/// What the program and ONNX Runtime allocate before they open a model, in bytes; measured.
const PROGRAM: usize = 14 << 20;
/// What a tokenizer takes for each of its tokens, in bytes; measured.
const TOKENIZER_TOKEN: usize = 1000;

impl StepMemory {
    /// Returns what every process takes that opens a model with a tokenizer of this many tokens.
    pub(crate) fn of_program(tokens: usize) -> Self {
        let mut memory = Self::default();
        memory.add(MemoryPart::Code, CODE);
        memory.add(MemoryPart::Program, PROGRAM + tokens * TOKENIZER_TOKEN);
        memory
    }

    pub(crate) fn add(&mut self, part: MemoryPart, bytes: usize) {
        *self.parts.entry(part).or_default() += bytes as u64;
    }

    /// Returns the parts.
    pub fn parts(&self) -> impl Iterator<Item = (MemoryPart, u64)> {
        self.parts.iter().map(|(&part, &bytes)| (part, bytes))
    }

    /// Returns the bytes that only this process has, and that cannot be read again from a file.
    #[must_use]
    pub fn private(&self) -> u64 {
        self.parts().filter(|(part, _)| !part.is_mapped()).map(|(_, bytes)| bytes).sum()
    }

    /// Returns all bytes: the peak resident set. A file that two sessions map counts twice, as in `VmHWM`.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts().map(|(_, bytes)| bytes).sum()
    }

    /// Returns the memory of a process that has both steps open. It has one program.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (part, bytes) in other.parts() {
            let own = self.parts.entry(part).or_default();
            *own = match part {
                MemoryPart::Code | MemoryPart::Program => bytes.max(*own),
                MemoryPart::MappedWeights
                | MemoryPart::ConvertedWeights
                | MemoryPart::PackedWeights
                | MemoryPart::Graphs
                | MemoryPart::Cache
                | MemoryPart::Logits
                | MemoryPart::Parameters
                | MemoryPart::Inputs
                | MemoryPart::Activations => *own + bytes,
            };
        }
        self
    }
}

impl FromIterator<(MemoryPart, u64)> for StepMemory {
    fn from_iter<I: IntoIterator<Item = (MemoryPart, u64)>>(parts: I) -> Self {
        Self { parts: parts.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_of_a_process_share_its_program_and_no_more() {
        let step = |cache| {
            let mut memory = StepMemory::of_program(1000);
            memory.add(MemoryPart::MappedWeights, 7);
            memory.add(MemoryPart::Cache, cache);
            memory
        };
        let (one, both) = (step(10), step(10).and(&step(5)));
        assert_eq!(both.private(), one.private() + 5);
        assert_eq!(both.total() - both.private(), one.total() - one.private() + 7);
    }
}
