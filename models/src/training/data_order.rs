//! The data order: the examples of each step.

use dissent_domain::training::Hyperparameters;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::schedule::ceiling;

/// The order in which a training reads its examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataOrder {
    /// Shuffled in each pass, by the seed.
    #[default]
    Shuffled,
    /// In the order of the file, in every pass.
    AsGiven,
}

/// The position of a training in its data, at the beginning of the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataCursor {
    /// Whole passes done.
    pub epoch: u64,
    /// Examples of this pass that have been used.
    pub position: u64,
}

/// The division of passes over the data into steps and micro-batches.
///
/// As in transformers' `Trainer`, a step takes `batch_size · gradient_accumulation` examples. The last step
/// of a pass takes the rest, and no step reaches into the next pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPlan {
    examples: usize,
    batch_size: usize,
    step_size: usize,
    order: DataOrder,
    seed: u64,
}

impl DataPlan {
    /// Returns the plan for this number of examples, at least one.
    #[must_use]
    pub fn new(examples: usize, settings: &Hyperparameters, order: DataOrder) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX).max(1);
        let batch_size = size(settings.batch_size);
        let step_size = batch_size.saturating_mul(size(settings.gradient_accumulation));
        Self { examples, batch_size, step_size, order, seed: settings.seed }
    }

    /// Steps of one pass.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.examples.div_ceil(self.step_size) as u64
    }

    /// Steps of the whole training.
    #[must_use]
    pub fn steps(&self, settings: &Hyperparameters) -> u64 {
        let of_epochs = || ceiling(settings.epochs * self.steps_per_epoch() as f64).max(1);
        settings.steps.unwrap_or_else(of_epochs)
    }

    /// Returns the position at which the step with this number, from 0, begins.
    #[must_use]
    pub fn cursor(&self, step: u64) -> DataCursor {
        let steps = self.steps_per_epoch().max(1);
        DataCursor { epoch: step / steps, position: (step % steps) * self.step_size as u64 }
    }

    /// Returns the passes done after this number of steps, as a fraction.
    #[must_use]
    pub fn epochs_after(&self, steps: u64) -> f64 {
        steps as f64 / self.steps_per_epoch().max(1) as f64
    }

    /// Returns the micro-batches of a step: the indices of their examples in the file.
    #[must_use]
    pub fn micro_batches(&self, step: u64) -> Vec<Vec<usize>> {
        let DataCursor { epoch, position } = self.cursor(step);
        let order = self.epoch(epoch);
        let rest = usize::try_from(position).ok().and_then(|position| order.get(position..)).unwrap_or(&[]);
        let of_step = rest.get(..self.step_size).unwrap_or(rest);
        of_step.chunks(self.batch_size).map(<[usize]>::to_vec).collect()
    }

    /// Returns the order of one pass (Fisher–Yates shuffle).
    fn epoch(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.examples).collect();
        if self.order == DataOrder::AsGiven {
            return order;
        }
        let mut hasher = blake3::Hasher::new_derive_key("dissent training data order 1");
        hasher.update(&self.seed.to_le_bytes()).update(&epoch.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
        for last in (1..order.len()).rev() {
            order.swap(last, below(&mut random, last + 1));
        }
        order
    }
}

/// Uniform below a bound, without the bias of a remainder.
fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    let bound = bound as u64;
    let unbiased = u64::MAX - u64::MAX % bound;
    loop {
        let number = random.next_u64();
        if number < unbiased {
            return usize::try_from(number % bound).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(batch_size: u32, gradient_accumulation: u32, seed: u64) -> Hyperparameters {
        Hyperparameters { batch_size, gradient_accumulation, seed, ..Hyperparameters::default() }
    }

    fn plan(examples: usize, order: DataOrder) -> DataPlan {
        DataPlan::new(examples, &settings(2, 3, 7), order)
    }

    #[test]
    fn the_last_step_of_a_pass_takes_the_remaining_examples() {
        let plan = plan(9, DataOrder::AsGiven);
        assert_eq!(plan.steps_per_epoch(), 2);
        assert_eq!(plan.micro_batches(0), [[0, 1], [2, 3], [4, 5]]);
        assert_eq!(plan.micro_batches(1), [vec![6, 7], vec![8]]);
        assert_eq!(plan.micro_batches(2), plan.micro_batches(0));
        assert_eq!(plan.cursor(3), DataCursor { epoch: 1, position: 6 });
    }

    #[test]
    fn every_pass_has_each_example_once_in_its_own_order() {
        let plan = plan(103, DataOrder::Shuffled);
        let pass = |epoch: u64| -> Vec<usize> {
            let first = epoch * plan.steps_per_epoch();
            (first..first + plan.steps_per_epoch())
                .flat_map(|step| plan.micro_batches(step).concat())
                .collect()
        };
        for epoch in 0..3 {
            let mut seen = pass(epoch);
            seen.sort_unstable();
            assert_eq!(seen, (0..103).collect::<Vec<_>>());
        }
        assert_ne!(pass(0), pass(1));
        let other = DataPlan::new(103, &settings(2, 3, 8), DataOrder::Shuffled);
        assert_ne!(other.micro_batches(0), plan.micro_batches(0));
    }

    #[test]
    fn data_order_is_stable_between_versions() {
        let plan = DataPlan::new(8, &settings(8, 1, 7), DataOrder::Shuffled);
        assert_eq!([plan.micro_batches(0), plan.micro_batches(1)].concat(), ORDERS);
    }

    /// The first two passes over eight examples, for seed 7.
    const ORDERS: [[usize; 8]; 2] = [[0, 1, 6, 7, 3, 2, 4, 5], [7, 6, 0, 1, 2, 3, 4, 5]];

    #[test]
    fn shuffles_are_fair() {
        let plan = DataPlan::new(4, &settings(4, 1, 1), DataOrder::Shuffled);
        let mut counts = [[0_u32; 4]; 4];
        for step in 0..4000 {
            for (place, example) in plan.micro_batches(step).concat().into_iter().enumerate() {
                counts[place][example] += 1;
            }
        }
        // Binomial with 4000 draws of 1/4: five standard deviations are 137.
        assert!(counts.iter().flatten().all(|&count| count.abs_diff(1000) < 137), "{counts:?}");
    }

    #[test]
    fn step_counts_match_transformers() {
        let steps = |examples, epochs, steps| {
            let settings = Hyperparameters { epochs, steps, ..settings(2, 3, 0) };
            DataPlan::new(examples, &settings, DataOrder::Shuffled).steps(&settings)
        };
        assert_eq!(steps(9, 1.0, None), 2);
        assert_eq!(steps(9, 1.5, None), 3);
        assert_eq!(steps(12, 3.0, None), 6);
        assert_eq!(steps(1, 0.1, None), 1);
        assert_eq!(steps(9, 5.0, Some(3)), 3);
    }
}
