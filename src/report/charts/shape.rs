//! Shapes of points. They differ, so that colour is not needed to tell points apart.

use plotters::prelude::*;

use super::canvas::{Canvas, DrawResult, role};

/// The shape of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A filled circle.
    Disc,
    /// A filled triangle.
    Triangle,
    /// A filled square.
    Square,
    /// A diagonal cross.
    Cross,
    /// A circle.
    Ring,
}

impl Shape {
    /// Every shape, in the order of the lines of a chart.
    pub(crate) const ALL: [Self; 5] = [Self::Disc, Self::Triangle, Self::Square, Self::Ring, Self::Cross];

    /// Draws the shape at a pixel, about `radius` units from its centre to its rim.
    pub(crate) fn draw(
        self,
        canvas: &Canvas<'_>,
        (x, y): (i32, i32),
        radius: i32,
        colour: RGBColor,
    ) -> DrawResult {
        match self {
            Self::Disc => canvas.draw(&Circle::new((x, y), radius, colour.filled()))?,
            // A triangle of the same radius looks smaller.
            Self::Triangle => canvas.draw(&TriangleMarker::new((x, y), radius + 3, colour.filled()))?,
            Self::Square => {
                let half = radius - 1;
                let corners = [(x - half, y - half), (x + half, y + half)];
                canvas.draw(&Rectangle::new(corners, colour.filled()))?;
            }
            Self::Cross => canvas.draw(&Cross::new((x, y), radius - 1, colour.stroke_width(5)))?,
            Self::Ring => canvas.draw(&Circle::new((x, y), radius - 1, colour.stroke_width(4)))?,
        }
        Ok(())
    }

    /// Draws a rim in the colour of the paper, behind the shape.
    pub(crate) fn draw_rim(self, canvas: &Canvas<'_>, at: (i32, i32), radius: i32) -> DrawResult {
        match self {
            Self::Cross => canvas.draw(&Cross::new(at, radius + 1, role::PAPER.stroke_width(11)))?,
            // A ring is open: its rim also hides what lies below its middle.
            Self::Ring => Self::Disc.draw(canvas, at, radius + 4, role::PAPER)?,
            Self::Disc | Self::Square => self.draw(canvas, at, radius + 4, role::PAPER)?,
            Self::Triangle => self.draw(canvas, at, radius + 7, role::PAPER)?,
        }
        Ok(())
    }

    /// Returns the shape as SVG around the origin, for a legend: it fills a square of 24 units.
    pub(crate) fn icon(self, colour: RGBColor) -> String {
        let paint = role::property(colour);
        match self {
            Self::Disc => format!(r#"<circle r="9" fill="var({paint})"/>"#),
            Self::Triangle => format!(r#"<path d="M0-11 10 7H-10Z" fill="var({paint})"/>"#),
            Self::Square => format!(r#"<path d="M-8-8H8V8H-8Z" fill="var({paint})"/>"#),
            Self::Cross => {
                format!(r#"<path d="M-8-8 8 8M8-8-8 8" stroke="var({paint})" stroke-width="5" fill="none"/>"#)
            }
            Self::Ring => format!(r#"<circle r="8" stroke="var({paint})" stroke-width="4" fill="none"/>"#),
        }
    }
}
