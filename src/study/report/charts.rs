//! The charts of a study, in the style of those of an experiment.

use std::ops::Range;

use dissent_domain::analysis::Interval;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::line::Line;
use crate::report::charts::{Canvas, Chart, DrawResult, SMALL, WIDTH, anchored_text, draw, role, style_axes};

/// Colours of lines, in the order of the lines.
const COLOURS: [RGBColor; 7] =
    [role::MUTED, role::POLICY, role::MEAN, role::PROXY, role::PICK, role::BAR, role::INK];

/// The scale of an axis and the format of its numbers.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// A linear scale.
    Linear,
    /// A linear scale of shares in [0, 1], as percentages.
    Share,
    /// A logarithmic scale of counts, log(1 + n): small counts matter, and some rules have large ones.
    Count,
}

impl Scale {
    /// Maps a value to its coordinate on the axis.
    fn coordinate(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Share => value.clamp(0.0, 1.0),
            Self::Count => value.max(0.0).ln_1p(),
        }
    }

    /// Formats the value at a coordinate.
    fn format(self, coordinate: f64) -> String {
        match self {
            Self::Linear => number(coordinate),
            Self::Share => format!("{:.0} %", 100.0 * coordinate),
            Self::Count => number(coordinate.exp_m1().round()),
        }
    }

    /// Returns the coordinates of the tick marks of an axis, without crowding.
    fn ticks(self, (low, high): (f64, f64)) -> Vec<f64> {
        let step = match self {
            Self::Linear => round_step((high - low) / 6.0),
            Self::Share => {
                if high - low > 0.5 {
                    0.2
                } else {
                    round_step((high - low) / 6.0)
                }
            }
            Self::Count => {
                let decades = (0..9).map(|exponent| 10_f64.powi(exponent));
                let round = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * decade));
                let mut ticks: Vec<f64> = Vec::new();
                for tick in [0.0].into_iter().chain(round).map(|count| self.coordinate(count)) {
                    let is_apart = ticks.last().is_none_or(|last| tick - last >= (high - low) / 9.0);
                    if (low..=high).contains(&tick) && is_apart {
                        ticks.push(tick);
                    }
                }
                return ticks;
            }
        };
        let (first, last) = ((low / step).ceil(), (high / step).floor());
        (0..32)
            .map(|index| first + f64::from(index))
            .take_while(|at| *at <= last)
            .map(|at| at * step)
            .collect()
    }
}

/// An axis between two coordinates of a scale.
struct Axis {
    scale: Scale,
    ends: (f64, f64),
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, coordinate: &f64, (first, last): (i32, i32)) -> i32 {
        let (low, high) = self.ends;
        let share = (coordinate - low) / (high - low);
        #[expect(clippy::cast_possible_truncation, reason = "pixels of a drawing")]
        let pixels = (share * f64::from(last - first)).round() as i32;
        first + pixels
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.scale.ticks(self.ends)
    }

    fn range(&self) -> Range<f64> {
        self.ends.0..self.ends.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(coordinate: &f64) -> String {
        number(*coordinate)
    }

    fn format_ext(&self, coordinate: &f64) -> String {
        self.scale.format(*coordinate)
    }
}

/// Rounds a step up to 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let decade = 10_f64.powf(step.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0]
        .map(|digit| digit * decade)
        .into_iter()
        .find(|round| *round >= step)
        .unwrap_or(10.0 * decade)
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
    let height = 640 + 44 * u32::try_from(chart.lines.len().div_ceil(2)).unwrap_or(0);
    let drawn = draw((WIDTH, height), chart.title, &description, |canvas| paint(canvas, chart, x, y));
    drawn.map(Some)
}

fn paint(canvas: &Canvas<'_>, of: &LineChart<'_>, x: (f64, f64), y: (f64, f64)) -> DrawResult {
    let [x_scale, y_scale] = of.scales;
    let legend = 44 * i32::try_from(of.lines.len().div_ceil(2)).unwrap_or(0);
    let (top, below) = canvas.split_vertically(legend);
    for (index, line) in (0_i32..).zip(of.lines) {
        let (left, row) = (40 + (index % 2) * 520, 22 + 44 * (index / 2));
        let colour = colour(index);
        top.draw(&PathElement::new([(left, row), (left + 48, row)], colour.stroke_width(7)))?;
        top.draw(&Text::new(
            line.name.clone(),
            (left + 62, row),
            anchored_text(SMALL, role::INK, HPos::Left, VPos::Center),
        ))?;
    }
    let mut chart = ChartBuilder::on(&below)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(160)
        .build_cartesian_2d(Axis { scale: x_scale, ends: x }, Axis { scale: y_scale, ends: y })?;
    style_axes(chart.configure_mesh()).x_desc(of.x).y_desc(of.y).draw()?;
    let apart = (x.1 - x.0) * 0.004;
    for (index, line) in (0_i32..).zip(of.lines) {
        let shift = apart * (f64::from(index) - of.lines.len() as f64 / 2.0);
        let colour = colour(index);
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
        chart.draw_series(means().map(|point| Circle::new(point, 7, colour.filled())))?;
    }
    Ok(())
}

fn colour(index: i32) -> RGBColor {
    let index = usize::try_from(index).unwrap_or(0);
    COLOURS[index % COLOURS.len()]
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
    let description = format!(
        "{x} of each rule with its 95 % interval. The paler colour shows {x} among pairs of about equal margin."
    );
    draw((WIDTH, 130 + 62 * count), title, &description, |canvas| {
        let bottom = f64::from(count);
        let mut chart = ChartBuilder::on(canvas)
            .margin(12)
            .margin_right(32)
            .x_label_area_size(96)
            .y_label_area_size(400)
            .build_cartesian_2d(range, bottom..0.0)?;
        style_axes(chart.configure_mesh())
            .disable_y_mesh()
            .x_desc(x)
            .y_labels(0)
            .x_labels(8)
            .x_label_formatter(&|value| format!("{value:.2}"))
            .draw()?;
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
            canvas.draw(&Text::new(row.name.clone(), (396, pixel), style))?;
        }
        Ok(())
    })
    .map(Some)
}

/// Formats a number with at most three decimals and without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, low: f64, high: f64) -> Vec<String> {
        let ticks = scale.ticks((scale.coordinate(low), scale.coordinate(high)));
        ticks.into_iter().map(|at| scale.format(at)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_that_do_not_crowd() {
        assert_eq!(labels(Scale::Count, 0.0, 96.0), ["0", "1", "5", "10", "20", "50"]);
        assert_eq!(labels(Scale::Count, 0.0, 4000.0), ["0", "2", "10", "50", "200", "1000"]);
        assert_eq!(labels(Scale::Share, -0.2, 1.3), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
        assert_eq!(labels(Scale::Linear, -0.013, 0.021), ["−0.01", "0", "0.01", "0.02"]);
        assert_eq!(labels(Scale::Linear, 3.0, 3.0), ["3"]);
    }
}
