//! A scatter plot of all completions: z-score of the reward against z-score of the log-probability.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Axis, Scale};
use super::canvas::{Canvas, Chart, DrawResult, SMALL, WIDTH, anchored_text, draw, role, style_axes};
use super::marks::{Mark, MarkCount};
use crate::report::data::{CompletionFigures, Judged, PromptFigures};

/// Limit of drawn points: more would make the page large and show nothing new.
const POINTS_MAX: usize = 4000;

/// The z-scores of a completion's log-probability and reward, with its mark.
type Point = (f64, f64, Mark);

/// Returns the chart and its legend. `is_complete` tells whether the selection is made.
pub(super) fn chart(
    prompts: &[&PromptFigures],
    is_complete: bool,
) -> anyhow::Result<(Chart, Vec<MarkCount>)> {
    let completions = || prompts.iter().flat_map(|prompt| &prompt.completions);
    let is_judged = completions().any(|completion| matches!(completion.judged, Judged::At(_)));
    let point = |completion: &CompletionFigures| {
        Some((completion.z_logprob?, completion.z_reward?, Mark::of(completion, is_judged)))
    };
    let points: Vec<Point> = completions().filter_map(point).collect();
    let count = |mark: &Mark| points.iter().filter(|(.., other)| other == mark).count();
    let legend: Vec<MarkCount> = Mark::legend(is_complete, is_judged)
        .into_iter()
        .map(|mark| MarkCount::new(mark, count(&mark)))
        .filter(|entry| entry.count > 0 || !is_judged)
        .collect();
    let limit = points.iter().fold(2.0, |limit: f64, (x, y, _)| limit.max(x.abs()).max(y.abs())) * MARGIN;
    let marks: Vec<String> = legend.iter().map(MarkCount::text).collect();
    let description = format!(
        "Scatter plot of {} completions: log-probability by the policy (left to right) against proxy reward (bottom to \
         top). Both are z-scores within the prompt. On the rising diagonal the two agree. Marks: {}.",
        points.len(),
        minijinja::HtmlEscape(&marks.join(", "))
    );
    let drawn =
        draw((WIDTH, WIDTH), "Every completion: policy against proxy reward", &description, |canvas| {
            paint(canvas, &points, limit)
        });
    Ok((drawn?, legend))
}

/// Space around the points for the labels of the two sides.
const MARGIN: f64 = 1.2;

fn paint(canvas: &Canvas<'_>, points: &[Point], limit: f64) -> DrawResult {
    let axis = || Axis::new(Scale::Signed, -limit..limit, 6);
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(104)
        .build_cartesian_2d(axis(), axis())?;
    let corner = |x: f64, y: f64| vec![(-limit, -limit), (limit, limit), (x, y)];
    chart.draw_series([Polygon::new(corner(-limit, limit), role::PROXY.mix(0.09))])?;
    chart.draw_series([Polygon::new(corner(limit, -limit), role::POLICY.mix(0.09))])?;
    style_axes(chart.configure_mesh())
        .x_desc("policy: log-probability, z-score (likelier →)")
        .y_desc("proxy: reward, z-score (better →)")
        .draw()?;
    chart.draw_series(LineSeries::new([(-limit, -limit), (limit, limit)], role::MUTED.stroke_width(2)))?;
    let (marked, plain): (Vec<&Point>, Vec<&Point>) =
        points.iter().partition(|(.., mark)| *mark != Mark::Plain);
    let is_many = points.len() > 1000;
    let marked = thinned(&marked, POINTS_MAX / 2);
    let plain = thinned(&plain, POINTS_MAX - marked.len());
    // Many points are drawn small and without a rim.
    let (radius, opacity) = if is_many { (5, 0.45) } else { (8, 0.6) };
    let dots = plain.iter().map(|(x, y, _)| Circle::new((*x, *y), radius, role::MUTED.mix(opacity).filled()));
    chart.draw_series(dots)?;
    let radius = if is_many { radius + 1 } else { radius + 2 };
    for &(x, y, mark) in marked {
        let at = chart.backend_coord(&(x, y));
        if !is_many {
            mark.shape().draw_rim(canvas, at, radius)?;
        }
        mark.shape().draw(canvas, at, radius, mark.colour())?;
    }
    for (text, colour, horizontal, at) in labels(limit) {
        let vertical = if at.1 > 0.0 { VPos::Top } else { VPos::Bottom };
        chart.draw_series([Text::new(text, at, anchored_text(SMALL, colour, horizontal, vertical))])?;
    }
    Ok(())
}

/// A label: text, colour, alignment and position.
type Label = (&'static str, RGBColor, HPos, (f64, f64));

/// Returns the labels of the two sides of the diagonal.
fn labels(limit: f64) -> [Label; 2] {
    let edge = limit * 0.97;
    [
        ("PACS > 0: the proxy favours the completion", role::PROXY, HPos::Left, (-edge, edge)),
        ("PACS < 0: the policy favours the completion", role::POLICY, HPos::Right, (edge, -edge)),
    ]
}

/// Returns about `target` items, spread evenly. Every k-th item would have the same sample index in each
/// prompt.
fn thinned<T: Copy>(items: &[T], target: usize) -> Vec<T> {
    /// 2⁶⁴ divided by the golden ratio: its multiples are spread evenly (Knuth's multiplicative hash).
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    if items.len() <= target {
        return items.to_vec();
    }
    let share = target as f64 / items.len() as f64;
    let keep = |index: &u64| (index.wrapping_mul(GOLDEN) as f64) < share * u64::MAX as f64;
    (0_u64..).zip(items).filter(|(index, _)| keep(index)).map(|(_, item)| *item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_an_equal_share_of_every_sample_index() {
        let items: Vec<usize> = (0..80_000).collect();
        let kept = thinned(&items, 4000);
        assert!((3900..=4100).contains(&kept.len()), "{}", kept.len());
        for sample in 0..8 {
            let of_sample = kept.iter().filter(|item| *item % 8 == sample).count();
            assert!((400..=600).contains(&of_sample), "sample {sample}: {of_sample}");
        }
        assert_eq!(thinned(&items[..10], 4000).len(), 10);
    }
}
