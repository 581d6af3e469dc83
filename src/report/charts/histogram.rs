//! Histograms of a figure over prompts, with its distribution under noise.

use dissent_domain::conflict::NullBand;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Axis, Scale};
use super::canvas::{Canvas, Chart, DrawResult, HEIGHT, TEXT, WIDTH, anchored_text, draw, role, style_axes};
use crate::report::data::PromptFigures;

/// A histogram with the expected counts under noise.
struct Histogram<'a> {
    title: &'a str,
    description: String,
    x_title: &'a str,
    /// Bin edges, ascending.
    edges: Vec<f64>,
    /// Prompts in each bin.
    observed: Vec<u32>,
    /// Expected prompts in each bin under noise.
    expected: Vec<f64>,
    /// The 5 % and 95 % quantiles of noise.
    band: (f64, f64),
    /// The mean over prompts.
    mean: f64,
}

impl Histogram<'_> {
    fn draw(&self) -> anyhow::Result<Chart> {
        draw((WIDTH, HEIGHT), self.title, &self.description, |canvas| self.paint(canvas))
    }

    fn paint(&self, canvas: &Canvas<'_>) -> DrawResult {
        let (Some(&low), Some(&high)) = (self.edges.first(), self.edges.last()) else { return Ok(()) };
        let tallest =
            self.observed.iter().map(|count| f64::from(*count)).chain(self.expected.iter().copied());
        let top = tallest.fold(1.0, f64::max) * 1.18;
        let mut chart = ChartBuilder::on(canvas)
            .margin(12)
            .margin_right(32)
            .x_label_area_size(104)
            .y_label_area_size(104)
            .build_cartesian_2d(
                // No number at the very corner, where it would touch the 0 of the other axis.
                Axis::new(Scale::Linear, low + (high - low) * 1e-6..high, 8),
                Axis::new(Scale::Whole, 0.0..top, 5),
            )?;
        let (band_low, band_high) = (self.band.0.max(low), self.band.1.min(high));
        chart.draw_series([Rectangle::new(
            [(band_low, 0.0), (band_high, top)],
            role::NOISE.mix(0.22).filled(),
        )])?;
        style_axes(chart.configure_mesh()).disable_x_mesh().x_desc(self.x_title).y_desc("prompts").draw()?;
        let gap = (high - low) * 0.0015;
        chart.draw_series(self.edges.windows(2).zip(&self.observed).filter_map(
            |(edges, count)| match edges {
                [left, right] if *count > 0 => {
                    let corners = [(left + gap, 0.0), (right - gap, f64::from(*count))];
                    Some(Rectangle::new(corners, role::BAR.filled()))
                }
                _ => None,
            },
        ))?;
        let steps = self
            .edges
            .windows(2)
            .zip(&self.expected)
            .flat_map(|(edges, count)| edges.iter().map(|edge| (*edge, *count)).collect::<Vec<_>>());
        chart.draw_series(LineSeries::new(steps, role::INK.stroke_width(3)))?;
        let mean = self.mean.clamp(low, high);
        chart.draw_series(LineSeries::new([(mean, 0.0), (mean, top * 0.93)], role::MEAN.stroke_width(6)))?;
        let side = if mean > low + (high - low) * 0.75 { HPos::Right } else { HPos::Left };
        let offset = if matches!(side, HPos::Right) { -10 } else { 10 };
        let style = anchored_text(TEXT, role::MEAN, side, VPos::Center);
        let text = Text::new(format!("mean {:.2}", self.mean), (offset, 0), style);
        chart.draw_series([EmptyElement::at((mean, top * 0.94)) + text])?;
        Ok(())
    }
}

/// Returns the number of bins for a sample of this size: its square root, between 12 and 32.
fn bins(sample: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let root = (sample as f64).sqrt() as usize;
    root.clamp(12, 32)
}

/// Counts the values in each bin. Values beyond the outer edges count in the outer bins.
fn binned(edges: &[f64], sample: impl Iterator<Item = f64>) -> Vec<u32> {
    let mut counts = vec![0; edges.len().saturating_sub(1)];
    let last = counts.len().saturating_sub(1);
    for value in sample {
        let bin = edges.partition_point(|edge| *edge <= value).saturating_sub(1).min(last);
        if let Some(count) = counts.get_mut(bin) {
            *count += 1;
        }
    }
    counts
}

pub(super) fn pacs(prompts: &[&PromptFigures], band: &NullBand) -> anyhow::Result<Chart> {
    let sample: Vec<f64> = prompts.iter().filter_map(|prompt| prompt.mean_abs_pacs).collect();
    // mean|PACS| lies in [0, 2]; the axis omits the empty ends.
    let low = sample.iter().copied().fold(band.mean_abs_pacs.q01, f64::min);
    let high = sample.iter().copied().fold(band.mean_abs_pacs.q99, f64::max);
    let low = ((low - 0.1) * 10.0).floor().max(0.0) / 10.0;
    let high = ((high + 0.1) * 10.0).ceil().min(20.0) / 10.0;
    let count = bins(sample.len());
    let edges: Vec<f64> = (0..=count).map(|edge| low + (high - low) * edge as f64 / count as f64).collect();
    let total = sample.len() as f64;
    let expected = edges
        .windows(2)
        .map(|edges| match edges {
            [left, right] => total * (band.mean_abs_pacs_above(*left) - band.mean_abs_pacs_above(*right)),
            _ => 0.0,
        })
        .collect();
    let mean = sample.iter().sum::<f64>() / total;
    let noise = &band.mean_abs_pacs;
    Histogram {
        title: "Conflict per prompt, against noise",
        description: format!(
            "Histogram of mean |PACS| over {total} prompts, mean {mean:.2}. Under noise, 90 % of prompts lie between \
             {:.2} and {:.2}, with a median of {:.2}.",
            noise.q05, noise.q95, noise.q50
        ),
        x_title: "mean |PACS| of a prompt",
        observed: binned(&edges, sample.iter().copied()),
        edges,
        expected,
        band: (noise.q05, noise.q95),
        mean,
    }
    .draw()
}

pub(super) fn distance(prompts: &[&PromptFigures], band: &NullBand) -> anyhow::Result<Chart> {
    let sample: Vec<f64> = prompts.iter().filter_map(|prompt| prompt.kendall_tau_distance).collect();
    let edges = distance_edges(band.completions, bins(sample.len()));
    let total = sample.len() as f64;
    let expected = edges
        .windows(2)
        .map(|edges| match edges {
            [left, right] => total * (band.distance_at_least(*left) - band.distance_at_least(*right)),
            _ => 0.0,
        })
        .collect();
    let mean = sample.iter().sum::<f64>() / total.max(1.0);
    let noise = &band.kendall_tau_distance;
    Histogram {
        title: "Kendall-tau distance per prompt, against noise",
        description: format!(
            "Histogram of the Kendall-tau distance over {total} prompts, mean {mean:.2}. Under noise, 90 % of prompts \
             lie between {:.2} and {:.2}, with a mean of 0.50.",
            noise.q05, noise.q95
        ),
        x_title: "distance (0 same order, 1 opposite order)",
        observed: binned(&edges, sample.iter().copied()),
        edges,
        expected,
        band: (noise.q05, noise.q95),
        mean,
    }
    .draw()
}

/// Returns edges halfway between the possible values of the distance. Each bin holds the same number of
/// possible values, so the heights of bins are comparable.
fn distance_edges(completions: usize, bins: usize) -> Vec<f64> {
    let pairs = completions.saturating_mul(completions.saturating_sub(1)) / 2;
    let values = pairs + 1;
    let per_bin = values.div_ceil(bins.max(1));
    let count = values.div_ceil(per_bin);
    // Centred: the outermost bins exceed the possible values by the same amount on both sides.
    let excess = (count * per_bin - values) as f64 / 2.0;
    let pairs = pairs as f64;
    (0..=count).map(|edge| ((edge * per_bin) as f64 - 0.5 - excess) / pairs).collect()
}

#[cfg(test)]
mod tests {
    use dissent_domain::conflict::null_band;

    use super::*;

    #[test]
    fn every_value_counts_in_one_bin_and_outliers_in_the_outer_bins() {
        let edges = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(binned(&edges, [-1.0, 0.0, 0.99, 1.0, 2.5, 3.0, 9.0].into_iter()), [3, 1, 3]);
        assert_eq!(binned(&[], [1.0].into_iter()), [0_u32; 0]);
    }

    #[test]
    fn bins_of_the_distance_hold_equal_numbers_of_its_values() {
        for (completions, bins) in [(2, 12), (4, 12), (8, 12), (8, 32), (16, 20), (64, 32)] {
            let edges = distance_edges(completions, bins);
            let pairs = completions * (completions - 1) / 2;
            assert!(edges.len() <= bins + 1);
            let counts = binned(&edges, (0..=pairs).map(|opposed| opposed as f64 / pairs as f64));
            assert_eq!(counts.iter().sum::<u32>() as usize, pairs + 1);
            let inner = &counts[1..counts.len() - 1];
            assert!(inner.iter().all(|count| *count == inner[0]), "{completions} in {bins}: {counts:?}");
            let band = null_band(completions, 0).unwrap();
            let noise: f64 = edges
                .windows(2)
                .map(|edges| band.distance_at_least(edges[0]) - band.distance_at_least(edges[1]))
                .sum();
            assert!((noise - 1.0).abs() < 1e-9, "the bins cover the distribution of noise");
        }
    }
}
