//! The common parts of all charts: canvas, sizes, colours by role, and the style of axes.

use std::error::Error;

use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

/// A drawn chart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Chart {
    /// The `<svg>` element.
    pub(crate) svg: String,
}

pub(crate) type DrawResult = Result<(), Box<dyn Error>>;
pub(crate) type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colours by role. Plotters has no CSS colours, so each role is drawn in a unique colour. [`draw`] replaces
/// that colour by a custom property of the page, which has a light and a dark scheme.
pub(crate) mod role {
    use plotters::style::RGBColor;

    pub(crate) const INK: RGBColor = RGBColor(1, 0, 1);
    pub(crate) const MUTED: RGBColor = RGBColor(1, 0, 2);
    pub(crate) const GRID: RGBColor = RGBColor(1, 0, 3);
    pub(crate) const PROXY: RGBColor = RGBColor(1, 0, 4);
    pub(crate) const POLICY: RGBColor = RGBColor(1, 0, 5);
    pub(crate) const NOISE: RGBColor = RGBColor(1, 0, 6);
    pub(crate) const BAR: RGBColor = RGBColor(1, 0, 7);
    pub(crate) const PAPER: RGBColor = RGBColor(1, 0, 8);
    pub(crate) const PICK: RGBColor = RGBColor(1, 0, 9);
    pub(crate) const MEAN: RGBColor = RGBColor(1, 0, 10);

    pub(super) const PROPERTIES: [(RGBColor, &str); 10] = [
        (INK, "--ink"),
        (MUTED, "--muted"),
        (GRID, "--grid"),
        (PROXY, "--proxy"),
        (POLICY, "--policy"),
        (NOISE, "--noise"),
        (BAR, "--bar"),
        (PAPER, "--paper"),
        (PICK, "--pick"),
        (MEAN, "--mean"),
    ];

    /// Returns the custom property of the page that holds a colour.
    pub(crate) fn property(colour: RGBColor) -> &'static str {
        PROPERTIES.iter().find(|(other, _)| *other == colour).map_or("--ink", |(_, property)| property)
    }
}

/// Sizes in units of the drawing: half a pixel of the page's column, because plotters has whole units only.
pub(crate) const WIDTH: u32 = 1080;
pub(crate) const HEIGHT: u32 = 640;
pub(crate) const TEXT: i32 = 34;
pub(crate) const SMALL: i32 = 31;

/// Draws on a canvas of this size. Returns an SVG element with a title and a description for screen readers.
pub(crate) fn draw(
    size: (u32, u32),
    title: &str,
    description: &str,
    paint: impl FnOnce(&Canvas<'_>) -> DrawResult,
) -> anyhow::Result<Chart> {
    let mut drawn = String::new();
    {
        let canvas = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let done = paint(&canvas).and_then(|()| canvas.present().map_err(Into::into));
        done.map_err(|error| anyhow::anyhow!("failed to draw the chart {title:?}: {error}"))?;
    }
    for (colour, property) in role::PROPERTIES {
        let RGBColor(r, g, b) = colour;
        drawn = drawn.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"var({property})\""));
    }
    let content =
        drawn.split_once('>').map_or("", |(_, content)| content).replace("font-family=\"sans-serif\" ", "");
    let (width, height) = size;
    let svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {width} {height}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\
         <title>{title}</title><desc>{description}</desc>{content}"
    );
    Ok(Chart { svg })
}

/// Returns the width of the longest of some labels, in units of the drawing, with room for the larger text of
/// a phone. At most five of nine parts of the width.
pub(crate) fn room_for<'a>(labels: impl Iterator<Item = &'a str>) -> u32 {
    /// The mean width of a character at a phone's text size.
    const CHARACTER: u32 = 21;
    let longest = labels.map(|label| label.chars().count()).max().unwrap_or(0);
    let width = u32::try_from(longest).unwrap_or(u32::MAX).saturating_mul(CHARACTER).saturating_add(24);
    width.clamp(120, WIDTH * 5 / 9)
}

/// Applies the common style of axes: grey lines and numbers, titles in the text colour.
pub(crate) fn style_axes<'a, 'b, X: Ranged, Y: Ranged, DB: DrawingBackend>(
    mut mesh: MeshStyle<'a, 'b, X, Y, DB>,
) -> MeshStyle<'a, 'b, X, Y, DB> {
    mesh.bold_line_style(role::GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(role::MUTED)
        .label_style(label(SMALL, role::MUTED))
        .axis_desc_style(label(TEXT, role::INK));
    mesh
}

pub(crate) fn label(size: i32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

pub(crate) fn anchored_text(
    size: i32,
    colour: RGBColor,
    horizontal: HPos,
    vertical: VPos,
) -> TextStyle<'static> {
    label(size, colour).pos(Pos::new(horizontal, vertical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_title_a_description_and_no_fixed_colour() {
        let chart = draw((100, 100), "Name", "A description", |canvas| {
            for (colour, _) in role::PROPERTIES {
                canvas.draw(&Circle::new((50, 50), 10, colour.filled()))?;
            }
            Ok(())
        });
        let svg = chart.unwrap().svg;
        assert!(svg.starts_with("<svg class=\"chart\" viewBox=\"0 0 100 100\" role=\"img\""));
        assert!(svg.contains("<title>Name</title><desc>A description</desc>"));
        assert!(!svg.contains("\"#"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}
