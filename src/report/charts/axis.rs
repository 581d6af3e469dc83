//! Axes of charts: scales, tick marks and the format of their numbers.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::text;

/// The scale of an axis and the format of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// A linear scale.
    Linear,
    /// A linear scale of numbers that are shown with their sign.
    Signed,
    /// A linear scale of counts: only integers have a tick mark.
    Whole,
    /// A linear scale of shares in [0, 1], as percentages.
    Share,
    /// A logarithmic scale of counts, log(1 + n): small counts matter, and some rules have large ones.
    Count,
}

impl Scale {
    /// Maps a value to its coordinate on the axis.
    pub(crate) fn coordinate(self, value: f64) -> f64 {
        match self {
            Self::Linear | Self::Signed | Self::Whole => value,
            Self::Share => value.clamp(0.0, 1.0),
            Self::Count => value.max(0.0).ln_1p(),
        }
    }
}

/// An axis between two coordinates of a scale. Its tick marks are multiples of 1, 2 or 5 times a power of
/// ten.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    scale: Scale,
    ends: (f64, f64),
    /// The distance between tick marks; unused on a logarithmic scale.
    step: f64,
}

impl Axis {
    /// Returns an axis with at most `intervals` + 1 tick marks between these coordinates. `ends` are finite.
    pub(crate) fn new(scale: Scale, ends: Range<f64>, intervals: u32) -> Self {
        let step = round_step((ends.end - ends.start) / f64::from(intervals.max(1)));
        let step = if scale == Scale::Whole { step.max(1.0) } else { step };
        Self { scale, ends: (ends.start, ends.end), step }
    }

    /// Returns the coordinates of the tick marks.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        /// Limit of tick marks: rounding may add one to the intervals that a chart asks for.
        const TICKS_MAX: i32 = 32;
        let (low, high) = self.ends;
        if self.scale == Scale::Count {
            return self.counts();
        }
        let (first, last) = ((low / self.step).ceil(), (high / self.step).floor());
        let multiples = (0..TICKS_MAX).map(|index| first + f64::from(index));
        multiples.take_while(|at| *at <= last).map(|at| at * self.step).collect()
    }

    /// Returns the tick marks of a logarithmic scale, without crowding.
    fn counts(&self) -> Vec<f64> {
        let (low, high) = self.ends;
        let decades = (0..9).map(|exponent| 10_f64.powi(exponent));
        let round = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * decade));
        let mut ticks: Vec<f64> = Vec::new();
        for tick in [0.0].into_iter().chain(round).map(|count| self.scale.coordinate(count)) {
            let is_apart = ticks.last().is_none_or(|last| tick - last >= (high - low) / 9.0);
            if (low..=high).contains(&tick) && is_apart {
                ticks.push(tick);
            }
        }
        ticks
    }

    /// Formats the value at a coordinate, with as many decimals as the distance of the tick marks needs.
    fn label(&self, coordinate: f64) -> String {
        let decimals = |step: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 9")]
            let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
            decimals
        };
        match self.scale {
            Scale::Linear => unsigned(coordinate, decimals(self.step)),
            Scale::Signed => {
                let sign = if coordinate > self.step / 2.0 { "+" } else { "" };
                format!("{sign}{}", unsigned(coordinate, decimals(self.step)))
            }
            Scale::Whole => whole(coordinate),
            Scale::Share => format!("{} %", unsigned(100.0 * coordinate, decimals(100.0 * self.step))),
            Scale::Count => whole(coordinate.exp_m1()),
        }
    }
}

/// Formats a number without a plus, without a negative zero and without trailing zeros.
fn unsigned(value: f64, decimals: usize) -> String {
    let text = text::signed(value, decimals);
    let text = text.trim_start_matches('+');
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

/// Formats an integer, with a comma between thousands.
fn whole(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count; a float saturates")]
    let magnitude = value.abs().round() as u64;
    let sign = if value < 0.0 && magnitude > 0 { "−" } else { "" };
    format!("{sign}{}", text::grouped(magnitude))
}

/// Rounds a step up to 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let decade = 10_f64.powf(step.max(1e-9).log10().floor());
    let is_enough = |round: &f64| *round >= step * (1.0 - 1e-9);
    [1.0, 2.0, 5.0].map(|digit| digit * decade).into_iter().find(is_enough).unwrap_or(10.0 * decade)
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
        self.ticks()
    }

    fn range(&self) -> Range<f64> {
        self.ends.0..self.ends.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(coordinate: &f64) -> String {
        unsigned(*coordinate, 3)
    }

    fn format_ext(&self, coordinate: &f64) -> String {
        self.label(*coordinate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(scale: Scale, low: f64, high: f64) -> Vec<String> {
        let axis = Axis::new(scale, scale.coordinate(low)..scale.coordinate(high), 6);
        axis.ticks().into_iter().map(|at| axis.label(at)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_that_do_not_crowd() {
        assert_eq!(labels(Scale::Count, 0.0, 96.0), ["0", "1", "5", "10", "20", "50"]);
        assert_eq!(labels(Scale::Count, 0.0, 4000.0), ["0", "2", "10", "50", "200", "1,000"]);
        assert_eq!(labels(Scale::Share, -0.2, 1.3), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
        assert_eq!(labels(Scale::Share, 0.0, 0.03), ["0 %", "0.5 %", "1 %", "1.5 %", "2 %", "2.5 %", "3 %"]);
        assert_eq!(labels(Scale::Linear, -0.013, 0.021), ["−0.01", "0", "0.01", "0.02"]);
        assert_eq!(labels(Scale::Linear, 3.0, 3.0), ["3"]);
        assert_eq!(labels(Scale::Linear, 0.0, 1.5e-3), ["0", "0.0005", "0.001", "0.0015"]);
        assert_eq!(labels(Scale::Signed, -2.4, 2.4), ["−2", "−1", "0", "+1", "+2"]);
        assert_eq!(labels(Scale::Signed, -0.7, 0.7), ["−0.5", "0", "+0.5"]);
    }

    #[test]
    fn steps_and_rounds_have_integer_ticks() {
        assert_eq!(labels(Scale::Whole, -0.15, 1.15), ["0", "1"]);
        assert_eq!(labels(Scale::Whole, -0.15, 3.15), ["0", "1", "2", "3"]);
        assert_eq!(labels(Scale::Whole, 1.0, 48.0), ["10", "20", "30", "40"]);
        assert_eq!(
            labels(Scale::Whole, 0.0, 6000.0),
            ["0", "1,000", "2,000", "3,000", "4,000", "5,000", "6,000"]
        );
    }

    proptest! {
        #[test]
        fn labels_of_an_axis_differ(low in -1e4..1e4_f64, width in 1e-4..1e4_f64, intervals in 5..12_u32) {
            for scale in [Scale::Linear, Scale::Signed, Scale::Whole] {
                let axis = Axis::new(scale, low..low + width, intervals);
                let labels: Vec<String> = axis.ticks().into_iter().map(|at| axis.label(at)).collect();
                prop_assert!(labels.len() <= intervals as usize + 1, "{labels:?}");
                prop_assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "{labels:?}");
                if scale == Scale::Whole {
                    prop_assert!(axis.ticks().iter().all(|at| at.fract().abs() < 1e-9));
                } else {
                    prop_assert!(labels.len() >= 2, "{labels:?}");
                }
            }
        }
    }
}
