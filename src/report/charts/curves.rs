//! Line charts: rewards over rounds, metrics over the steps of a training.

use std::ops::Range;

use dissent_domain::event::{PolicyEvaluated, Stage};
use plotters::prelude::*;

use super::axis::{Axis, Scale};
use super::canvas::{Chart, DrawResult, WIDTH, draw, role, style_axes};
use crate::report::learning::{LearningFigures, TrainingFigures};

const LINES_HEIGHT: u32 = 520;

/// A chart of a training's metric.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct MetricChart {
    pub(crate) title: String,
    pub(crate) chart: Chart,
}

/// A line with the standard errors of its points: `(x, y, error)`.
struct Line {
    points: Vec<(f64, f64, f64)>,
    colour: RGBColor,
}

/// Draws the gold reward over rounds; `None` without a gold reward or before the second evaluation.
pub(super) fn gold(figures: &LearningFigures) -> anyhow::Result<Option<Chart>> {
    let line = line(figures, role::MEAN, |e| e.gold_reward);
    if line.points.len() < 2 {
        return Ok(None);
    }
    over_rounds("Gold reward over rounds", "mean gold reward", &[line]).map(Some)
}

/// Draws the rewards of the models over rounds; `None` before the second evaluation.
pub(super) fn rewards(figures: &LearningFigures) -> anyhow::Result<Option<Chart>> {
    if figures.evaluations.len() < 2 {
        return Ok(None);
    }
    let proxy = line(figures, role::PROXY, |e| Some(e.proxy_reward));
    let refined = line(figures, role::POLICY, |e| Some(e.refined_reward));
    over_rounds("Rewards of the models over rounds", "mean reward", &[proxy, refined]).map(Some)
}

fn line(
    figures: &LearningFigures,
    colour: RGBColor,
    of: impl Fn(&PolicyEvaluated) -> Option<[f64; 2]>,
) -> Line {
    let point = |e: &PolicyEvaluated| of(e).map(|[mean, error]| (f64::from(e.evaluation), mean, error));
    Line { points: figures.evaluations.iter().filter_map(point).collect(), colour }
}

fn over_rounds(title: &str, y: &str, lines: &[Line]) -> anyhow::Result<Chart> {
    let values: Vec<String> =
        lines.iter().flat_map(|line| &line.points).map(|(x, y, _)| format!("{x}: {y:.3}")).collect();
    let rounds = lines.iter().flat_map(|line| &line.points).map(|(x, ..)| *x).fold(1.0, f64::max);
    let description = format!("{y} by finished rounds: {}.", values.join(", "));
    let axes = Axes { x: "finished rounds", y, x_range: -0.15..rounds + 0.15 };
    painted(title, &description, &axes, lines)
}

/// The drawn metrics of a training, in this order, with their titles and the titles of their axes.
const METRICS: [(&str, &str, &str); 6] = [
    ("loss", "Loss", "loss"),
    ("accuracy", "Accuracy", "accuracy"),
    ("rewards/accuracies", "Accuracy", "accuracy"),
    ("rewards/margins", "Margin", "margin"),
    ("objective/scores", "Reward", "reward"),
    ("objective/kl", "KL from the first policy, nats", "KL, nats"),
];

/// Draws the metrics of one training.
pub(super) fn metrics(figures: &TrainingFigures) -> anyhow::Result<Vec<MetricChart>> {
    let of = match figures.stage {
        Stage::Reward => "reward model",
        Stage::Policy => "policy",
    };
    let mut charts = Vec::new();
    for (metric, name, y) in METRICS {
        let curve = figures.curves.iter().find(|curve| curve.metric == metric && curve.points.len() >= 2);
        let Some(curve) = curve else { continue };
        let colour = if figures.stage == Stage::Reward { role::PROXY } else { role::POLICY };
        let points: Vec<_> = curve.points.iter().map(|&(step, value)| (step as f64, value, 0.0)).collect();
        let (from, to) = (points[0].0, points[points.len() - 1].0);
        let description = format!(
            "{name} of the {of} over {} steps: from {:.4} to {:.4}.",
            to,
            points[0].1,
            points[points.len() - 1].1
        );
        let axes = Axes { x: "steps", y, x_range: from..to };
        let title = format!("{name} of the {of}");
        let chart = painted(&title, &description, &axes, &[Line { points, colour }])?;
        charts.push(MetricChart { title, chart });
    }
    Ok(charts)
}

struct Axes<'a> {
    x: &'a str,
    y: &'a str,
    x_range: Range<f64>,
}

fn painted(title: &str, description: &str, axes: &Axes<'_>, lines: &[Line]) -> anyhow::Result<Chart> {
    draw((WIDTH, LINES_HEIGHT), title, description, |canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .margin(16)
            .margin_top(28)
            .margin_right(40)
            .x_label_area_size(100)
            .y_label_area_size(200)
            .build_cartesian_2d(
                Axis::new(Scale::Whole, axes.x_range.clone(), 10),
                Axis::new(Scale::Linear, y_range(lines), 6),
            )?;
        style_axes(chart.configure_mesh()).disable_x_mesh().x_desc(axes.x).y_desc(axes.y).draw()?;
        for line in lines {
            let points = line.points.iter().map(|&(x, y, _)| (x, y));
            chart.draw_series(LineSeries::new(points, line.colour.stroke_width(5)))?;
            for &(x, y, error) in line.points.iter().filter(|(.., error)| *error > 0.0) {
                let bar = [(x, y - error), (x, y + error)];
                chart.draw_series([PathElement::new(bar, line.colour.stroke_width(3))])?;
                chart.draw_series([Circle::new((x, y), 9, line.colour.filled())])?;
            }
        }
        DrawResult::Ok(())
    })
}

/// Returns the range of the values with a margin above and below.
fn y_range(lines: &[Line]) -> Range<f64> {
    let ends = || lines.iter().flat_map(|line| &line.points).flat_map(|(_, y, error)| [y - error, y + error]);
    let (low, high) = (ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max));
    let room = if high > low { 0.08 * (high - low) } else { 0.1 * high.abs().max(1.0) };
    low - room..high + room
}
