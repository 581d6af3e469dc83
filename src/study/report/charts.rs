//! The charts of a study, in the style of those of an experiment.

use dissent_domain::analysis::Interval;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use serde::Serialize;

use super::line::Line;
use crate::report::charts::{
    Axis, Canvas, Chart, DrawResult, SMALL, Scale, Shape, WIDTH, anchored_text, draw, role, room_for,
    style_axes,
};

/// Colours of lines, in the order of the lines.
const COLOURS: [RGBColor; 7] =
    [role::MUTED, role::POLICY, role::MEAN, role::PROXY, role::PICK, role::BAR, role::INK];

/// Intervals between the tick marks of an axis, at most.
const INTERVALS: u32 = 6;

/// A drawn line chart with its legend.
#[derive(Serialize)]
pub(super) struct Lines {
    svg: String,
    legend: Vec<LegendEntry>,
}

/// The name of a line, with the shape of its points as SVG in a square of 24 units around the origin.
#[derive(Serialize)]
struct LegendEntry {
    icon: String,
    name: String,
}

/// The content of a line chart.
pub(super) struct LineChart<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// The scales of x and y.
    pub(super) scales: [Scale; 2],
    pub(super) lines: &'a [Line],
}

/// Draws lines with bars for their intervals; `None` without points. Lines are shifted horizontally, so that
/// bars do not overlap.
pub(super) fn lines(chart: &LineChart<'_>) -> anyhow::Result<Option<Lines>> {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    if points().next().is_none() {
        return Ok(None);
    }
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let room = ((high - low) * 0.06).max(1e-3);
        (low - room, high + room)
    };
    let [x_scale, y_scale] = chart.scales;
    let x = range(&mut points().map(|(x, _)| x_scale.coordinate(*x)));
    let ends = |interval: &Interval| [interval.low, interval.high].map(|y| y_scale.coordinate(y));
    let y = range(&mut points().flat_map(|(_, interval)| ends(interval)));
    let names: Vec<&str> = chart.lines.iter().map(|line| line.name.as_str()).collect();
    let description = format!(
        "{} by {}, one line each for: {}. Bars are 95 % intervals.",
        chart.y,
        chart.x,
        names.join(", ")
    );
    let drawn = draw((WIDTH, 640), chart.title, &description, |canvas| paint(canvas, chart, x, y))?;
    let entry = |(index, line): (usize, &Line)| {
        let (colour, shape) = look(index);
        LegendEntry { icon: shape.icon(colour), name: line.name.clone() }
    };
    Ok(Some(Lines { svg: drawn.svg, legend: chart.lines.iter().enumerate().map(entry).collect() }))
}

fn paint(canvas: &Canvas<'_>, of: &LineChart<'_>, x: (f64, f64), y: (f64, f64)) -> DrawResult {
    let [x_scale, y_scale] = of.scales;
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(200)
        .build_cartesian_2d(
            Axis::new(x_scale, x.0..x.1, INTERVALS),
            Axis::new(y_scale, y.0..y.1, INTERVALS),
        )?;
    style_axes(chart.configure_mesh()).x_desc(of.x).y_desc(of.y).draw()?;
    let apart = (x.1 - x.0) * 0.004;
    for (index, line) in of.lines.iter().enumerate() {
        let shift = apart * (index as f64 - of.lines.len() as f64 / 2.0);
        let (colour, shape) = look(index);
        let bars = line.points.iter().map(|(at, interval)| {
            let at = x_scale.coordinate(*at) + shift;
            let ends = [interval.low, interval.high].map(|y| (at, y_scale.coordinate(y)));
            PathElement::new(ends, colour.mix(0.45).stroke_width(3))
        });
        chart.draw_series(bars)?;
        let mean = |(at, interval): &(f64, Interval)| {
            (x_scale.coordinate(*at) + shift, y_scale.coordinate(interval.mean))
        };
        let means = || line.points.iter().map(mean);
        chart.draw_series(LineSeries::new(means(), colour.stroke_width(5)))?;
        for point in means() {
            shape.draw(canvas, chart.backend_coord(&point), 9, colour)?;
        }
    }
    Ok(())
}

/// The colour of a line and the shape of its points.
fn look(index: usize) -> (RGBColor, Shape) {
    (COLOURS[index % COLOURS.len()], Shape::ALL[index % Shape::ALL.len()])
}

/// A row of a forest plot.
pub(super) struct Row {
    pub(super) name: String,
    /// The figure over all pairs.
    pub(super) all: Option<Interval>,
    /// The figure among pairs of about the same margin.
    pub(super) at_equal_margin: Option<Interval>,
}

/// Draws a forest plot with the line of no effect at `null`; `None` without intervals.
pub(super) fn forest(title: &str, x: &str, null: f64, rows: &[Row]) -> anyhow::Result<Option<Chart>> {
    let intervals = || rows.iter().flat_map(|row| [row.all, row.at_equal_margin]).flatten();
    let Some(first) = intervals().next() else { return Ok(None) };
    let (low, high) = intervals()
        .fold((null.min(first.low), null.max(first.high)), |(low, high), interval| {
            (low.min(interval.low), high.max(interval.high))
        });
    let room = ((high - low) * 0.05).max(1e-3);
    let range = (low - room)..(high + room);
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let names = room_for(rows.iter().flat_map(|row| row.name.split(", ")));
    let names_end = i32::try_from(names).unwrap_or(0) - 4;
    let description = format!(
        "{x} of each rule with its 95 % interval. The paler colour shows {x} among pairs of about equal margin."
    );
    draw((WIDTH, 130 + 88 * count), title, &description, |canvas| {
        let bottom = f64::from(count);
        let mut chart = ChartBuilder::on(canvas)
            .margin(12)
            .margin_right(32)
            .x_label_area_size(96)
            .y_label_area_size(names)
            .build_cartesian_2d(Axis::new(Scale::Linear, range, INTERVALS), bottom..0.0)?;
        style_axes(chart.configure_mesh()).disable_y_mesh().x_desc(x).y_labels(0).draw()?;
        chart.draw_series(LineSeries::new([(null, 0.0), (null, bottom)], role::INK.stroke_width(2)))?;
        for (row, index) in rows.iter().zip(0_u32..) {
            let middle = f64::from(index) + 0.5;
            let each = [(row.all, middle - 0.14, 1.0), (row.at_equal_margin, middle + 0.2, 0.4)];
            for (interval, at, strength) in each {
                let Some(interval) = interval else { continue };
                let colour = role::PROXY.mix(strength);
                let ends = [(interval.low, at), (interval.high, at)];
                chart.draw_series([PathElement::new(ends, colour.stroke_width(4))])?;
                chart.draw_series([Circle::new((interval.mean, at), 8, colour.filled())])?;
            }
            let (_, pixel) = chart.backend_coord(&(null, middle));
            let style = anchored_text(SMALL, role::INK, HPos::Right, VPos::Center);
            // A rule with a kind of log-probability has two lines.
            let lines = (0_i32..).zip(row.name.split(", "));
            let above = if row.name.contains(", ") { 20 } else { 0 };
            for (line, text) in lines {
                let at = (names_end, pixel - above + 40 * line);
                canvas.draw(&Text::new(text.to_owned(), at, style.clone()))?;
            }
        }
        Ok(())
    })
    .map(Some)
}
