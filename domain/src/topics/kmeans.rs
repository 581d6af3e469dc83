//! Spherical k-means, and the choice of the number of clusters.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::settings::{PROMPTS_MIN, TopicSettings};
use super::vectors::Rows;

/// Largest number of iterations of one start.
const ITERATIONS_MAX: usize = 30;
/// Numbers of clusters that are tried first. Then the neighbours of the best one are tried.
const TRIED: [usize; 16] = [2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20, 24, 30, 40, 60, 100];
/// Rows per cluster, at least.
const ROWS_PER_CLUSTER: usize = 5;

/// Rows in clusters.
#[derive(Debug, Clone)]
pub(super) struct Clustering {
    /// Number of clusters.
    pub clusters: usize,
    /// The cluster of each row; without meaning for an empty row.
    pub of_row: Vec<usize>,
    /// The mean silhouette of the rows.
    pub silhouette: f64,
    /// The sum of the cosines between rows and their centroids.
    cohesion: f64,
}

/// Returns the clustering with the number of clusters of the settings, or with the best silhouette.
pub(super) fn choose(rows: &Rows, settings: &TopicSettings) -> Clustering {
    let one = || Clustering { clusters: 1, of_row: vec![0; rows.rows.len()], silhouette: 0.0, cohesion: 0.0 };
    let filled = rows.rows.iter().filter(|row| !row.is_empty()).count();
    if let Some(clusters) = settings.topics {
        let clusters = clusters.min(filled);
        return if clusters < 2 { one() } else { best_start(rows, clusters, settings) };
    }
    let most = settings.most.min(filled / ROWS_PER_CLUSTER);
    if filled < PROMPTS_MIN || most < 2 {
        return one();
    }
    let mut tried: Vec<Clustering> = TRIED
        .into_iter()
        .filter(|clusters| *clusters <= most)
        .map(|clusters| best_start(rows, clusters, settings))
        .collect();
    let Some(first) = best_silhouette(&tried) else { return one() };
    for clusters in [first.clusters - 1, first.clusters + 1] {
        if (2..=most).contains(&clusters) && !TRIED.contains(&clusters) {
            tried.push(best_start(rows, clusters, settings));
        }
    }
    best_silhouette(&tried).filter(|best| best.silhouette > 0.0).unwrap_or_else(one)
}

fn best_silhouette(tried: &[Clustering]) -> Option<Clustering> {
    let better = |best: &&Clustering, other: &&Clustering| {
        best.silhouette.total_cmp(&other.silhouette).then(other.clusters.cmp(&best.clusters))
    };
    tried.iter().max_by(|best, other| better(best, other)).cloned()
}

/// Returns the best of several starts, with its silhouette.
fn best_start(rows: &Rows, clusters: usize, settings: &TopicSettings) -> Clustering {
    let mut best: Option<(Clustering, Vec<f64>)> = None;
    for start in 0..settings.restarts.max(1) as u64 {
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        rng.set_stream(((clusters as u64) << 32) | start);
        let found = from_start(rows, clusters, &mut rng);
        if best.as_ref().is_none_or(|(best, _)| found.0.cohesion > best.cohesion) {
            best = Some(found);
        }
    }
    let Some((mut clustering, centroids)) = best else {
        return Clustering { clusters: 1, of_row: vec![0; rows.rows.len()], silhouette: 0.0, cohesion: 0.0 };
    };
    clustering.silhouette = silhouette(rows, &clustering, &centroids);
    clustering
}

/// Runs k-means from one start. Returns the clustering without silhouette, and the centroids, shape
/// `[columns][clusters]`, each of length 1 or 0.
fn from_start(rows: &Rows, clusters: usize, rng: &mut ChaCha8Rng) -> (Clustering, Vec<f64>) {
    let mut centroids = start(rows, clusters, rng);
    let mut of_row = vec![usize::MAX; rows.rows.len()];
    let mut cosines = vec![0.0; rows.rows.len()];
    let mut scratch = vec![0.0; clusters];
    for _ in 0..ITERATIONS_MAX {
        let mut moved = false;
        for (row, entries) in rows.rows.iter().enumerate() {
            similarities(entries, &centroids, &mut scratch);
            let nearest = largest(&scratch);
            moved |= of_row[row] != nearest;
            of_row[row] = nearest;
            cosines[row] = scratch[nearest];
        }
        if !moved {
            break;
        }
        fill_empty_clusters(rows, clusters, &mut of_row, &mut cosines);
        centroids = centroids_of(rows, clusters, &of_row);
    }
    let cohesion = cosines.iter().sum();
    (Clustering { clusters, of_row, silhouette: 0.0, cohesion }, centroids)
}

/// Chooses rows as centroids by k-means++ (Arthur and Vassilvitskii, 2007): each next one with a probability
/// in proportion to its squared distance from the nearest, 2 − 2·cosine.
fn start(rows: &Rows, clusters: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut centroids = vec![0.0; rows.columns * clusters];
    let mut distances: Vec<f64> =
        rows.rows.iter().map(|row| if row.is_empty() { 0.0 } else { 1.0 }).collect();
    let mut dense = vec![0.0; rows.columns];
    for cluster in 0..clusters {
        let chosen = draw(&distances, rng);
        dense.fill(0.0);
        for &(column, value) in &rows.rows[chosen] {
            centroids[column * clusters + cluster] = value;
            dense[column] = value;
        }
        for (row, distance) in rows.rows.iter().zip(&mut distances) {
            let cosine: f64 = row.iter().map(|&(column, value)| value * dense[column]).sum();
            *distance = distance.min((1.0 - cosine).max(0.0));
        }
    }
    centroids
}

/// Draws a position with a probability in proportion to its weight.
fn draw(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let uniform = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut left = uniform * weights.iter().sum::<f64>();
    for (position, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return position;
        }
    }
    largest(weights)
}

/// Writes the cosine between a row and every centroid.
fn similarities(row: &[(usize, f64)], centroids: &[f64], out: &mut [f64]) {
    out.fill(0.0);
    let clusters = out.len();
    for &(column, value) in row {
        let entries = &centroids[column * clusters..(column + 1) * clusters];
        out.iter_mut().zip(entries).for_each(|(sum, entry)| *sum += value * entry);
    }
}

/// Returns the position of the largest value, the first of equal ones.
fn largest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, at| if values[at] > values[best] { at } else { best })
}

/// Gives every empty cluster the row that is farthest from its centroid, of a cluster with other rows.
fn fill_empty_clusters(rows: &Rows, clusters: usize, of_row: &mut [usize], cosines: &mut [f64]) {
    let mut sizes = vec![0_usize; clusters];
    for (row, cluster) in of_row.iter().enumerate() {
        sizes[*cluster] += usize::from(!rows.is_empty(row));
    }
    for cluster in 0..clusters {
        if sizes[cluster] > 0 {
            continue;
        }
        let movable = (0..of_row.len()).filter(|row| !rows.is_empty(*row) && sizes[of_row[*row]] > 1);
        let farthest = movable.min_by(|a, b| cosines[*a].total_cmp(&cosines[*b]));
        let Some(row) = farthest else { return };
        sizes[of_row[row]] -= 1;
        sizes[cluster] = 1;
        of_row[row] = cluster;
        cosines[row] = 1.0;
    }
}

/// Returns the sums of the rows of each cluster, shape `[columns][clusters]`, scaled to length 1.
fn centroids_of(rows: &Rows, clusters: usize, of_row: &[usize]) -> Vec<f64> {
    let mut centroids = sums_of(rows, clusters, of_row);
    let lengths = squared_lengths(&centroids, clusters);
    for entries in centroids.chunks_exact_mut(clusters) {
        for (entry, squared) in entries.iter_mut().zip(&lengths) {
            *entry /= squared.sqrt().max(1e-12);
        }
    }
    centroids
}

fn sums_of(rows: &Rows, clusters: usize, of_row: &[usize]) -> Vec<f64> {
    let mut sums = vec![0.0; rows.columns * clusters];
    for (entries, cluster) in rows.rows.iter().zip(of_row) {
        for &(column, value) in entries {
            sums[column * clusters + cluster] += value;
        }
    }
    sums
}

fn squared_lengths(vectors: &[f64], clusters: usize) -> Vec<f64> {
    let mut squares = vec![0.0; clusters];
    for entries in vectors.chunks_exact(clusters) {
        squares.iter_mut().zip(entries).for_each(|(sum, entry)| *sum += entry * entry);
    }
    squares
}

/// Returns the mean silhouette (b − a)/max(a, b) over the rows. a is 1 minus the cosine with the centroid of
/// the other rows of the cluster, b is 1 minus the cosine with the nearest other centroid.
fn silhouette(rows: &Rows, clustering: &Clustering, centroids: &[f64]) -> f64 {
    let clusters = clustering.clusters;
    let sums = sums_of(rows, clusters, &clustering.of_row);
    let squares = squared_lengths(&sums, clusters);
    let mut scratch = vec![0.0; clusters];
    let (mut total, mut count) = (0.0, 0_usize);
    for (entries, &own) in rows.rows.iter().zip(&clustering.of_row) {
        if entries.is_empty() {
            continue;
        }
        count += 1;
        // The cosine with the sum of the cluster without the row: |s − x|² = |s|² − 2·s·x + 1.
        let with_own: f64 =
            entries.iter().map(|&(column, value)| value * sums[column * clusters + own]).sum();
        let length = (squares[own] - 2.0 * with_own + 1.0).max(0.0).sqrt();
        let cosine = if length > 1e-6 { (with_own - 1.0) / length } else { 0.0 };
        similarities(entries, centroids, &mut scratch);
        let others = scratch.iter().enumerate().filter(|(cluster, _)| *cluster != own);
        let nearest = others.map(|(_, cosine)| *cosine).fold(f64::NEG_INFINITY, f64::max);
        let (a, b) = (1.0 - cosine, 1.0 - nearest);
        total += (b - a) / a.max(b).max(1e-12);
    }
    total / count.max(1) as f64
}
