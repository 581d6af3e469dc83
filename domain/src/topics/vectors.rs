//! Prompts as vectors of length 1.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::function_words::FunctionWords;
use crate::words::{folded, is_unspaced, words};

/// Largest number of dimensions of projected features.
const DIMENSIONS_MAX: usize = 128;
/// Fewest prompts that contain a term, and the largest share of them. Below `FREQUENT_MIN` prompts every
/// share is allowed.
const RARE: usize = 2;
const FREQUENT: f64 = 1.0 / 3.0;
const FREQUENT_MIN: usize = 5;
/// Latent dimensions of texts: at most this number, and one for this number of texts.
const LATENT_MAX: usize = 16;
const TEXTS_PER_LATENT: usize = 4;
/// Iterations that find the latent dimensions.
const LATENT_ITERATIONS: usize = 8;

/// Features that do not fit the prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// There is not one vector for each prompt.
    #[error("{features} feature vectors do not fit {prompts} prompts: use one for each")]
    Count {
        /// Number of vectors.
        features: usize,
        /// Number of prompts.
        prompts: usize,
    },
    /// A vector has another length than the first one.
    #[error("features[{prompt}] has {found} numbers: use {expected}, as features[0] has")]
    Length {
        /// The prompt, by position.
        prompt: usize,
        /// Its number of features.
        found: usize,
        /// The number of features of the first prompt.
        expected: usize,
    },
    /// A feature is infinite or NaN.
    #[error("features[{prompt}][{feature}] is not finite: use numbers")]
    NotFinite {
        /// The prompt, by position.
        prompt: usize,
        /// The feature, by position.
        feature: usize,
    },
}

/// Sparse vectors, each of length 1 or empty.
pub(super) struct Rows {
    /// Number of dimensions.
    pub columns: usize,
    /// The non-zero entries of each vector, by dimension.
    pub rows: Vec<Vec<(usize, f64)>>,
}

impl Rows {
    pub(super) fn is_empty(&self, row: usize) -> bool {
        self.rows[row].is_empty()
    }

    /// Returns the latent semantic vectors of texts.
    pub(super) fn of_texts(texts: &[&str], seed: u64) -> Self {
        let words = Self::of_words(texts);
        let dimensions = LATENT_MAX.min(texts.len() / TEXTS_PER_LATENT).max(2);
        if words.columns <= dimensions { words } else { words.latent(dimensions, seed) }
    }

    /// Returns the tf-idf vectors of texts: (1 + ln tf)·ln(n / df).
    fn of_words(texts: &[&str]) -> Self {
        let counts: Vec<BTreeMap<String, usize>> = texts.iter().map(|text| term_counts(text)).collect();
        let mut frequency = BTreeMap::<&str, usize>::new();
        for term in counts.iter().flat_map(BTreeMap::keys) {
            *frequency.entry(term).or_insert(0) += 1;
        }
        let n = texts.len() as f64;
        frequency.retain(|_, prompts| {
            *prompts >= RARE && (*prompts < FREQUENT_MIN || *prompts as f64 <= FREQUENT * n)
        });
        let columns: BTreeMap<&str, (usize, f64)> = frequency
            .into_iter()
            .enumerate()
            .map(|(column, (term, prompts))| (term, (column, (n / prompts as f64).ln())))
            .collect();
        let row = |counts: &BTreeMap<String, usize>| {
            let known = counts.iter().filter_map(|(term, count)| Some((columns.get(term.as_str())?, *count)));
            unit(
                known
                    .map(|((column, weight), count)| (*column, weight * (1.0 + (count as f64).ln())))
                    .collect(),
            )
        };
        Self { columns: columns.len(), rows: counts.iter().map(row).collect() }
    }

    /// Projects the rows to the subspace of their largest singular values (latent semantic analysis,
    /// Deerwester et al., 1990), found by subspace iteration from random signs.
    fn latent(&self, dimensions: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sign = |bits: u64| if bits & 1 == 0 { 1.0 } else { -1.0 };
        let mut basis: Vec<f64> = (0..self.columns * dimensions).map(|_| sign(rng.next_u64())).collect();
        for _ in 0..LATENT_ITERATIONS {
            let mut next = vec![0.0; basis.len()];
            for row in &self.rows {
                let projected = project(row, &basis, dimensions);
                for &(column, value) in row {
                    let entries = &mut next[column * dimensions..(column + 1) * dimensions];
                    entries
                        .iter_mut()
                        .zip(&projected)
                        .for_each(|(entry, projected)| *entry += value * projected);
                }
            }
            orthonormalise(&mut next, dimensions);
            basis = next;
        }
        let row = |row: &Vec<(usize, f64)>| {
            if row.is_empty() {
                Vec::new()
            } else {
                unit(project(row, &basis, dimensions).into_iter().enumerate().collect())
            }
        };
        Self { columns: dimensions, rows: self.rows.iter().map(row).collect() }
    }

    /// Returns centred features, projected if they have many dimensions.
    pub(super) fn of_features(
        features: &[Vec<f32>],
        prompts: usize,
        seed: u64,
    ) -> Result<Self, FeatureError> {
        if features.len() != prompts {
            return Err(FeatureError::Count { features: features.len(), prompts });
        }
        let expected = features.first().map_or(0, Vec::len);
        for (prompt, vector) in features.iter().enumerate() {
            if vector.len() != expected {
                return Err(FeatureError::Length { prompt, found: vector.len(), expected });
            }
            if let Some(feature) = vector.iter().position(|value| !value.is_finite()) {
                return Err(FeatureError::NotFinite { prompt, feature });
            }
        }
        let mut means = vec![0.0; expected];
        for vector in features {
            means
                .iter_mut()
                .zip(vector)
                .for_each(|(mean, value)| *mean += f64::from(*value) / prompts as f64);
        }
        let projection = Projection::new(expected, seed);
        let row = |vector: &Vec<f32>| {
            let centred: Vec<f64> =
                vector.iter().zip(&means).map(|(value, mean)| f64::from(*value) - mean).collect();
            unit(projection.apply(centred).into_iter().enumerate().collect())
        };
        Ok(Self { columns: expected.min(DIMENSIONS_MAX), rows: features.iter().map(row).collect() })
    }
}

/// Returns the product of a row with a basis of shape `[columns][dimensions]`.
fn project(row: &[(usize, f64)], basis: &[f64], dimensions: usize) -> Vec<f64> {
    let mut projected = vec![0.0; dimensions];
    for &(column, value) in row {
        let entries = &basis[column * dimensions..(column + 1) * dimensions];
        projected.iter_mut().zip(entries).for_each(|(sum, entry)| *sum += value * entry);
    }
    projected
}

/// Makes the columns of a matrix of shape `[n][dimensions]` orthonormal by the method of Gram and Schmidt. A
/// column that depends on earlier ones becomes 0.
fn orthonormalise(matrix: &mut [f64], dimensions: usize) {
    for column in 0..dimensions {
        let length = |matrix: &[f64]| {
            matrix.chunks_exact(dimensions).map(|row| row[column] * row[column]).sum::<f64>().sqrt()
        };
        let before = length(matrix);
        for earlier in 0..column {
            let dot: f64 = matrix.chunks_exact(dimensions).map(|row| row[column] * row[earlier]).sum();
            matrix.chunks_exact_mut(dimensions).for_each(|row| row[column] -= dot * row[earlier]);
        }
        let after = length(matrix);
        let scale = if after > 1e-10 * before { 1.0 / after } else { 0.0 };
        matrix.chunks_exact_mut(dimensions).for_each(|row| row[column] *= scale);
    }
}

/// Random signs, `[dimensions][d]`, as bits. None for few dimensions.
struct Projection(Vec<Vec<u64>>);

impl Projection {
    fn new(dimensions: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let rows = if dimensions > DIMENSIONS_MAX { DIMENSIONS_MAX } else { 0 };
        let words = dimensions.div_ceil(64);
        Self((0..rows).map(|_| (0..words).map(|_| rng.next_u64()).collect()).collect())
    }

    fn apply(&self, vector: Vec<f64>) -> Vec<f64> {
        if self.0.is_empty() {
            return vector;
        }
        let project = |signs: &Vec<u64>| {
            let signed = |(at, value): (usize, &f64)| {
                if signs[at / 64] >> (at % 64) & 1 == 1 { *value } else { -value }
            };
            vector.iter().enumerate().map(signed).sum()
        };
        self.0.iter().map(project).collect()
    }
}

/// Scales a vector to length 1. A vector of length 0 becomes empty.
fn unit(mut row: Vec<(usize, f64)>) -> Vec<(usize, f64)> {
    let length = row.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
    if length.is_nan() || length <= 1e-12 {
        return Vec::new();
    }
    row.iter_mut().for_each(|(_, value)| *value /= length);
    row
}

/// Returns the terms of a text with their counts: words in lower case, and pairs of neighbours in scripts
/// without spaces. Function words of several languages are no terms.
pub(super) fn term_counts(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut count = |term: String| *counts.entry(term).or_insert(0) += 1;
    for word in words(&folded(text)) {
        if word.contains(is_unspaced) {
            let characters: Vec<char> = word.chars().collect();
            characters.windows(2).for_each(|pair| count(pair.iter().collect()));
        } else if word.chars().any(char::is_alphabetic) && !FunctionWords::table().contains(word) {
            count(word.to_owned());
        }
    }
    counts
}
