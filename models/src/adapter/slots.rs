//! Slots for adapters in a session: adapters are swapped without a rebuild of the session.

use std::collections::BTreeMap;

use dissent_domain::training::LoraSettings;

use super::lora::{AdapterTask, LoraAdapter, LoraPair, LoraTarget, ScoreHead};
use crate::checkpoint::ModelConfig;
use crate::checkpoint::layout::projections;
use crate::error::{InvalidKind, ModelError};
use crate::training::LoraPlan;

/// The projections that the adapters of a session may change, and their highest rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraSlots {
    /// The projections, with the number of outputs and inputs of each.
    sizes: BTreeMap<LoraTarget, (usize, usize)>,
    rank: usize,
}

/// The adapters of a session.
#[derive(Debug, Clone, Copy)]
pub enum Adapters<'a> {
    /// One adapter or none, for the life of the session.
    Fixed(Option<&'a LoraAdapter>),
    /// Adapters that are swapped. Every adapter that fits the slots can be set; the second field is the first
    /// one set.
    Swappable(&'a LoraSlots, Option<&'a LoraAdapter>),
}

impl<'a> From<Option<&'a LoraAdapter>> for Adapters<'a> {
    fn from(adapter: Option<&'a LoraAdapter>) -> Self {
        Self::Fixed(adapter)
    }
}

impl LoraSlots {
    /// Slots for the adapters that these settings train.
    ///
    /// # Errors
    /// As [`LoraPlan::new`].
    pub fn of_settings(config: &ModelConfig, settings: &LoraSettings) -> Result<Self, ModelError> {
        let plan = LoraPlan::new(config, settings)?;
        let known: BTreeMap<_, _> = projections(config).into_iter().collect();
        let size = |target: &LoraTarget| {
            let projection = known.get(target.module.as_str())?;
            Some((target.clone(), (projection.outputs, projection.inputs)))
        };
        Ok(Self { sizes: plan.pairs.keys().filter_map(size).collect(), rank: plan.r })
    }

    /// Slots for an adapter, and for adapters of the same shape or smaller.
    #[must_use]
    pub fn of_adapter(adapter: &LoraAdapter) -> Self {
        let size = |(target, pair): (&LoraTarget, &LoraPair)| (target.clone(), (pair.outputs, pair.inputs));
        Self {
            sizes: adapter.layers.iter().map(size).collect(),
            rank: adapter.layers.values().map(|pair| pair.rank).max().unwrap_or(1),
        }
    }

    /// Returns the adapter's weights in the shape of the slots. Projections that the adapter does not change
    /// are zero; without an adapter all are.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the adapter changes other projections or has a higher rank.
    pub(crate) fn fill(
        &self,
        adapter: Option<&LoraAdapter>,
        score: Option<ScoreHead>,
    ) -> Result<LoraAdapter, ModelError> {
        for (target, pair) in adapter.iter().flat_map(|adapter| &adapter.layers) {
            let LoraTarget { layer, module } = target;
            let misfit = match self.sizes.get(target) {
                None => "the session has no slot for this projection",
                Some(&(outputs, inputs)) if (outputs, inputs) != (pair.outputs, pair.inputs) => {
                    "the sizes differ"
                }
                Some(_) if pair.rank > self.rank => "the rank of the adapter exceeds that of the slot",
                Some(_) => continue,
            };
            return Err(ModelError::invalid(
                InvalidKind::ShapeMismatch,
                format!("the adapter does not fit the session: layers.{layer}.{module}: {misfit}"),
            ));
        }
        let pair = |(target, &(outputs, inputs)): (&LoraTarget, &(usize, usize))| {
            let own = adapter.and_then(|adapter| adapter.layers.get(target));
            (target.clone(), padded(own, outputs, inputs, self.rank))
        };
        Ok(LoraAdapter {
            r: self.rank,
            alpha: 0.0,
            scaling: 0.0,
            layers: self.sizes.iter().map(pair).collect(),
            task: if score.is_some() { AdapterTask::SeqCls } else { AdapterTask::CausalLm },
            score,
            base_model: None,
            fingerprint: String::new(),
        })
    }
}

/// Returns a pair, padded with zeros to a higher rank.
fn padded(pair: Option<&LoraPair>, outputs: usize, inputs: usize, rank: usize) -> LoraPair {
    let (mut a, mut b) = (vec![0.0; rank * inputs], vec![0.0; outputs * rank]);
    if let Some(pair) = pair {
        a[..pair.a.len()].copy_from_slice(&pair.a);
        for (to, from) in b.chunks_exact_mut(rank).zip(pair.b.chunks_exact(pair.rank)) {
            to[..pair.rank].copy_from_slice(from);
        }
    }
    LoraPair { a, b, rank, inputs, outputs, scaling: pair.map_or(0.0, |pair| pair.scaling) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_to_a_higher_rank_keeps_the_product() {
        let pair = LoraPair {
            a: vec![1.0, 2.0, 3.0],
            b: vec![4.0, 5.0],
            rank: 1,
            inputs: 3,
            outputs: 2,
            scaling: 2.0,
        };
        let padded = padded(Some(&pair), 2, 3, 2);
        assert_eq!(padded.a, [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
        assert_eq!(padded.b, [4.0, 0.0, 5.0, 0.0]);
        assert_eq!((padded.rank, padded.scaling), (2, 2.0));
    }
}
