//! The charts of a study, drawn as those of an experiment.

use dissent_domain::analysis::Interval;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::report::charts::{Canvas, Chart, Drawn, SMALL, WIDTH, anchored, draw, role, styled};

/// Colours of lines, in the order of the lines.
const COLOURS: [RGBColor; 7] =
    [role::MUTED, role::POLICY, role::MEAN, role::PROXY, role::PICK, role::BAR, role::INK];

/// A line with an interval at each of its points.
pub(in crate::study) struct Line {
    pub(in crate::study) name: String,
    /// Where, ascending, and what.
    pub(in crate::study) points: Vec<(f64, Interval)>,
}

/// What lines show.
pub(super) struct LineChart<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// Whether both axes are shares, written as percentages.
    pub(super) shares: [bool; 2],
    pub(super) lines: &'a [Line],
}

/// Lines with bars for their intervals, a little apart so that bars do not hide each other. None without a point.
pub(super) fn lines(chart: &LineChart<'_>) -> anyhow::Result<Option<Chart>> {
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
    let x = range(&mut points().map(|(x, _)| *x));
    let y = range(&mut points().flat_map(|(_, interval)| [interval.low, interval.high]));
    let names: Vec<&str> = chart.lines.iter().map(|line| line.name.as_str()).collect();
    let description = format!(
        "{} against {}, a line for each of: {}. Bars are 95 % intervals.",
        chart.y,
        chart.x,
        names.join(", ")
    );
    let height = 640 + 44 * u32::try_from(chart.lines.len().div_ceil(2)).unwrap_or(0);
    let drawn = draw((WIDTH, height), chart.title, &description, |canvas| paint(canvas, chart, x, y));
    drawn.map(Some)
}

fn paint(canvas: &Canvas<'_>, of: &LineChart<'_>, x: (f64, f64), y: (f64, f64)) -> Drawn {
    let legend = 44 * i32::try_from(of.lines.len().div_ceil(2)).unwrap_or(0);
    let (top, below) = canvas.split_vertically(legend);
    for (index, line) in (0_i32..).zip(of.lines) {
        let (left, row) = (40 + (index % 2) * 520, 22 + 44 * (index / 2));
        let colour = colour(index);
        top.draw(&PathElement::new([(left, row), (left + 48, row)], colour.stroke_width(7)))?;
        top.draw(&Text::new(
            line.name.clone(),
            (left + 62, row),
            anchored(SMALL, role::INK, HPos::Left, VPos::Center),
        ))?;
    }
    let mut chart = ChartBuilder::on(&below)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(120)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    let written = |is_share: bool, value: f64| {
        if is_share { format!("{:.0} %", 100.0 * value) } else { number(value) }
    };
    styled(chart.configure_mesh())
        .x_desc(of.x)
        .y_desc(of.y)
        .x_labels(8)
        .y_labels(7)
        .x_label_formatter(&|value| written(of.shares[0], *value))
        .y_label_formatter(&|value| written(of.shares[1], *value))
        .draw()?;
    let apart = (x.1 - x.0) * 0.004;
    for (index, line) in (0_i32..).zip(of.lines) {
        let shift = apart * (f64::from(index) - of.lines.len() as f64 / 2.0);
        let colour = colour(index);
        let bars = line.points.iter().map(|(at, interval)| {
            let at = at + shift;
            PathElement::new([(at, interval.low), (at, interval.high)], colour.mix(0.45).stroke_width(3))
        });
        chart.draw_series(bars)?;
        let means = || line.points.iter().map(|(at, interval)| (at + shift, interval.mean));
        chart.draw_series(LineSeries::new(means(), colour.stroke_width(5)))?;
        chart.draw_series(means().map(|point| Circle::new(point, 7, colour.filled())))?;
    }
    Ok(())
}

fn colour(index: i32) -> RGBColor {
    let index = usize::try_from(index).unwrap_or(0);
    COLOURS[index % COLOURS.len()]
}

/// A row of a forest plot: a name, a figure, and the same figure with something held equal.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) plain: Option<Interval>,
    pub(super) held: Option<Interval>,
}

/// Intervals under each other, against the line of no effect at `null`.
pub(super) fn forest(title: &str, x: &str, null: f64, rows: &[Row]) -> anyhow::Result<Option<Chart>> {
    let intervals = || rows.iter().flat_map(|row| [row.plain, row.held]).flatten();
    let Some(first) = intervals().next() else { return Ok(None) };
    let (low, high) = intervals()
        .fold((null.min(first.low), null.max(first.high)), |(low, high), interval| {
            (low.min(interval.low), high.max(interval.high))
        });
    let room = ((high - low) * 0.05).max(1e-3);
    let range = (low - room)..(high + room);
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let description = format!(
        "{x} of each rule with its 95 % interval; in a paler colour the same among pairs of about the same margin."
    );
    draw((WIDTH, 130 + 62 * count), title, &description, |canvas| {
        let bottom = f64::from(count);
        let mut chart = ChartBuilder::on(canvas)
            .margin(12)
            .margin_right(32)
            .x_label_area_size(96)
            .y_label_area_size(400)
            .build_cartesian_2d(range, bottom..0.0)?;
        styled(chart.configure_mesh())
            .disable_y_mesh()
            .x_desc(x)
            .y_labels(0)
            .x_labels(8)
            .x_label_formatter(&|value| format!("{value:.2}"))
            .draw()?;
        chart.draw_series(LineSeries::new([(null, 0.0), (null, bottom)], role::INK.stroke_width(2)))?;
        for (row, place) in rows.iter().zip(0_u32..) {
            let middle = f64::from(place) + 0.5;
            let each = [(row.plain, middle - 0.14, 1.0), (row.held, middle + 0.2, 0.4)];
            for (interval, at, strength) in each {
                let Some(interval) = interval else { continue };
                let colour = role::PROXY.mix(strength);
                let ends = [(interval.low, at), (interval.high, at)];
                chart.draw_series([PathElement::new(ends, colour.stroke_width(4))])?;
                chart.draw_series([Circle::new((interval.mean, at), 8, colour.filled())])?;
            }
            let (left, pixel) = chart.backend_coord(&(null, middle));
            let _ = left;
            let style = anchored(SMALL, role::INK, HPos::Right, VPos::Center);
            canvas.draw(&Text::new(row.name.clone(), (396, pixel), style))?;
        }
        Ok(())
    })
    .map(Some)
}

/// A number on an axis, without digits that it does not need.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
