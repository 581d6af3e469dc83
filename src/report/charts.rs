//! The charts of a report, as SVG that takes its colours from the page it stands in.

use std::error::Error;

use dissent_domain::conflict::NullBand;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

use super::data::{AnswerFigures, CategoryFigures, PromptFigures, ReportData};
use super::text::{excerpt, visible};
use super::words;

/// A drawn chart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Chart {
    /// The `<svg>` element.
    pub(super) svg: String,
}

/// The charts of a report; none where there is nothing to draw.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Charts {
    /// z-scores of every answer: reward against log-probability.
    pub(super) answers: Option<Chart>,
    /// How mean|PACS| is distributed over prompts.
    pub(super) pacs: Option<Chart>,
    /// How the Kendall-tau distance is.
    pub(super) distance: Option<Chart>,
    /// mean|PACS| by category.
    pub(super) categories: Option<Chart>,
    /// Every |PACS|, descending.
    pub(super) cut: Option<Chart>,
}

type Drawn = Result<(), Box<dyn Error>>;
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws what there is to draw.
///
/// # Errors
/// As the drawing library; writing to memory gives it no reason to.
pub(super) fn charts(data: &ReportData) -> anyhow::Result<Charts> {
    let Some(band) = &data.null_band else { return Ok(Charts::default()) };
    let prompts: Vec<&PromptFigures> =
        data.prompts.iter().filter(|prompt| prompt.mean_abs_pacs.is_some()).collect();
    if prompts.is_empty() {
        return Ok(Charts::default());
    }
    let delta = data.plan.conflict.selection.effective_delta();
    let categories = &data.categories;
    Ok(Charts {
        answers: Some(answers(&prompts)?),
        pacs: Some(pacs_histogram(&prompts, band)?),
        distance: Some(distance_histogram(&prompts, band)?),
        categories: if categories.is_empty() { None } else { Some(category_bars(categories, band)?) },
        cut: Some(cut(&prompts, delta)?),
    })
}

/// Colours by role. Plotters knows colours and not CSS, so each role is drawn in a colour of its own that
/// nothing else has, and becomes the page's custom property afterwards: the page decides, dark or light.
mod role {
    use plotters::style::RGBColor;

    pub(super) const INK: RGBColor = RGBColor(1, 0, 1);
    pub(super) const MUTED: RGBColor = RGBColor(1, 0, 2);
    pub(super) const GRID: RGBColor = RGBColor(1, 0, 3);
    pub(super) const PROXY: RGBColor = RGBColor(1, 0, 4);
    pub(super) const POLICY: RGBColor = RGBColor(1, 0, 5);
    pub(super) const NOISE: RGBColor = RGBColor(1, 0, 6);
    pub(super) const BAR: RGBColor = RGBColor(1, 0, 7);
    pub(super) const PAPER: RGBColor = RGBColor(1, 0, 8);
    pub(super) const PICK: RGBColor = RGBColor(1, 0, 9);
    pub(super) const MEAN: RGBColor = RGBColor(1, 0, 10);

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
}

/// Units of the drawing: twice the pixels of the page's column, since plotters only has whole ones.
const WIDTH: u32 = 1080;
const HEIGHT: u32 = 640;
const TEXT: i32 = 34;
const SMALL: i32 = 31;

/// Draws on a canvas of this size and makes the result an element with a name for those who cannot see it.
fn draw(
    size: (u32, u32),
    title: &str,
    description: &str,
    paint: impl FnOnce(&Canvas<'_>) -> Drawn,
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
    let content = drawn.split_once('>').map_or("", |(_, content)| content).replace("font-family=\"sans-serif\" ", "");
    let (width, height) = size;
    let svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {width} {height}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\
         <title>{title}</title><desc>{description}</desc>{content}"
    );
    Ok(Chart { svg })
}

fn label(size: i32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

fn anchored(size: i32, colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    label(size, colour).pos(Pos::new(horizontal, vertical))
}

/// What the two histograms have in common: bars, and what noise would give in each bin.
struct Histogram<'a> {
    title: &'a str,
    description: String,
    x_title: &'a str,
    /// Bin edges, ascending.
    edges: Vec<f64>,
    /// Prompts in each bin.
    observed: Vec<u32>,
    /// Prompts that noise would put there.
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

    fn paint(&self, canvas: &Canvas<'_>) -> Drawn {
        let (Some(&low), Some(&high)) = (self.edges.first(), self.edges.last()) else { return Ok(()) };
        let tallest = self.observed.iter().map(|count| f64::from(*count)).chain(self.expected.iter().copied());
        let top = tallest.fold(1.0, f64::max) * 1.18;
        let mut chart = ChartBuilder::on(canvas)
            .margin(12)
            .margin_right(32)
            .x_label_area_size(104)
            .y_label_area_size(104)
            .build_cartesian_2d(low..high, 0.0..top)?;
        let (band_low, band_high) = (self.band.0.max(low), self.band.1.min(high));
        chart.draw_series([Rectangle::new([(band_low, 0.0), (band_high, top)], role::NOISE.mix(0.22).filled())])?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(role::GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(role::MUTED)
            .label_style(label(SMALL, role::MUTED))
            .axis_desc_style(label(TEXT, role::INK))
            .x_desc(self.x_title)
            .y_desc("prompts")
            .x_labels(9)
            .y_labels(5)
            .y_label_formatter(&|count| format!("{count:.0}"))
            .draw()?;
        let gap = (high - low) * 0.0015;
        chart.draw_series(self.edges.windows(2).zip(&self.observed).filter_map(|(edges, count)| match edges {
            [left, right] if *count > 0 => {
                let corners = [(left + gap, 0.0), (right - gap, f64::from(*count))];
                Some(Rectangle::new(corners, role::BAR.filled()))
            }
            _ => None,
        }))?;
        let steps = self.edges.windows(2).zip(&self.expected).flat_map(|(edges, count)| {
            edges.iter().map(|edge| (*edge, *count)).collect::<Vec<_>>()
        });
        chart.draw_series(LineSeries::new(steps, role::INK.stroke_width(3)))?;
        let mean = self.mean.clamp(low, high);
        chart.draw_series(LineSeries::new([(mean, 0.0), (mean, top * 0.93)], role::MEAN.stroke_width(6)))?;
        let side = if mean > low + (high - low) * 0.75 { HPos::Right } else { HPos::Left };
        let offset = if matches!(side, HPos::Right) { -10 } else { 10 };
        let style = anchored(TEXT, role::MEAN, side, VPos::Center);
        let text = Text::new(format!("mean {:.2}", self.mean), (offset, 0), style);
        chart.draw_series([EmptyElement::at((mean, top * 0.94)) + text])?;
        Ok(())
    }
}

/// The number of bins that shows the shape of a sample of this size.
fn bins(sample: usize) -> usize {
    // The square root of the sample, as is usual, between what is coarse and what is ragged.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let root = (sample as f64).sqrt() as usize;
    root.clamp(12, 32)
}

/// Counts a sample into bins; values beyond the outer edges go to the outer bins.
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

fn pacs_histogram(prompts: &[&PromptFigures], band: &NullBand) -> anyhow::Result<Chart> {
    let sample: Vec<f64> = prompts.iter().filter_map(|prompt| prompt.mean_abs_pacs).collect();
    // mean|PACS| lies in [0, 2]; the empty ends of that range are left out.
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
            "Histogram of mean |PACS| over {total} prompts, mean {mean:.2}. Under noise alone, 90 % of prompts \
             would lie between {:.2} and {:.2}, with a median of {:.2}.",
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

fn distance_histogram(prompts: &[&PromptFigures], band: &NullBand) -> anyhow::Result<Chart> {
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
        title: "How differently the two rank the answers of a prompt, against noise",
        description: format!(
            "Histogram of the Kendall-tau distance over {total} prompts, mean {mean:.2}. Under noise alone, 90 % \
             of prompts would lie between {:.2} and {:.2}, with a mean of 0.50.",
            noise.q05, noise.q95
        ),
        x_title: "Kendall-tau distance (0 same order, 1 opposite order)",
        observed: binned(&edges, sample.iter().copied()),
        edges,
        expected,
        band: (noise.q05, noise.q95),
        mean,
    }
    .draw()
}

/// Edges halfway between the values that the distance can take, so that no bin gets more of them than its
/// neighbour and looks taller for that alone.
fn distance_edges(completions: usize, bins: usize) -> Vec<f64> {
    let pairs = completions.saturating_mul(completions.saturating_sub(1)) / 2;
    let values = pairs + 1;
    let together = values.div_ceil(bins.max(1));
    let count = values.div_ceil(together);
    // Centred: the outermost bins may reach beyond what is possible, alike on both sides.
    let beyond = (count * together - values) as f64 / 2.0;
    let pairs = pairs as f64;
    (0..=count).map(|edge| ((edge * together) as f64 - 0.5 - beyond) / pairs).collect()
}

/// Points drawn at most: more would make the page heavy and show no more.
const POINTS_MAX: usize = 4000;

/// An answer's place: z-scores of its log-probability and of its reward.
type Point<'a> = (f64, f64, &'a AnswerFigures);

fn answers(prompts: &[&PromptFigures]) -> anyhow::Result<Chart> {
    let points: Vec<Point<'_>> = prompts
        .iter()
        .flat_map(|prompt| &prompt.answers)
        .filter_map(|answer| Some((answer.z_logprob?, answer.z_reward?, answer)))
        .collect();
    let shown = thinned(&points, POINTS_MAX);
    let reach = points.iter().fold(2.0, |reach: f64, (x, y, _)| reach.max(x.abs()).max(y.abs())) * MARGIN;
    let selected = points.iter().filter(|(.., answer)| answer.selected).count();
    let description = format!(
        "Each of {} answers by how likely the policy finds it (left to right) and how much the proxy reward likes \
         it (bottom to top), in standard deviations within its prompt. On the rising diagonal they agree. {selected} \
         answers are selected.",
        points.len()
    );
    draw((WIDTH, WIDTH), "Every answer: policy against proxy reward", &description, |canvas| {
        paint_answers(canvas, &shown, reach)
    })
}

/// Room around the points for the words that name the two sides.
const MARGIN: f64 = 1.2;

fn paint_answers(canvas: &Canvas<'_>, points: &[&Point<'_>], reach: f64) -> Drawn {
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(104)
        .build_cartesian_2d(-reach..reach, -reach..reach)?;
    let corner = |x: f64, y: f64| vec![(-reach, -reach), (reach, reach), (x, y)];
    chart.draw_series([Polygon::new(corner(-reach, reach), role::PROXY.mix(0.09))])?;
    chart.draw_series([Polygon::new(corner(reach, -reach), role::POLICY.mix(0.09))])?;
    chart
        .configure_mesh()
        .bold_line_style(role::GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(role::MUTED)
        .label_style(label(SMALL, role::MUTED))
        .axis_desc_style(label(TEXT, role::INK))
        .x_desc("policy: log-probability, z-score (likelier →)")
        .y_desc("proxy: reward, z-score (better →)")
        .x_labels(7)
        .y_labels(7)
        .x_label_formatter(&|z| tick(*z))
        .y_label_formatter(&|z| tick(*z))
        .draw()?;
    chart.draw_series(LineSeries::new([(-reach, -reach), (reach, reach)], role::MUTED.stroke_width(2)))?;
    // Many points are drawn small, and without the rim that keeps a few large ones apart.
    let is_many = points.len() > 1000;
    let (radius, opacity) = if is_many { (5, 0.45) } else { (8, 0.6) };
    let colour = |answer: &AnswerFigures| if answer.pacs > Some(0.0) { role::PROXY } else { role::POLICY };
    let (selected, others): (Vec<&Point<'_>>, Vec<&Point<'_>>) =
        points.iter().copied().partition(|(.., answer)| answer.selected);
    let dots = others.iter().map(|(x, y, _)| Circle::new((*x, *y), radius, role::MUTED.mix(opacity).filled()));
    chart.draw_series(dots)?;
    if !is_many {
        let rims = selected.iter().map(|(x, y, _)| Circle::new((*x, *y), radius + 5, role::PAPER.filled()));
        chart.draw_series(rims)?;
    }
    let grown = if is_many { radius + 1 } else { radius + 2 };
    let dots = selected.iter().map(|(x, y, answer)| Circle::new((*x, *y), grown, colour(answer).filled()));
    chart.draw_series(dots)?;
    for (text, colour, horizontal, at) in regions(reach) {
        let vertical = if at.1 > 0.0 { VPos::Top } else { VPos::Bottom };
        chart.draw_series([Text::new(text, at, anchored(SMALL, colour, horizontal, vertical))])?;
    }
    Ok(())
}

/// A line of text in the chart of answers: its words, colour, alignment and place.
type Region = (&'static str, RGBColor, HPos, (f64, f64));

/// What the two sides of the chart of answers mean.
fn regions(reach: f64) -> [Region; 2] {
    let edge = reach * 0.97;
    [
        ("PACS > 0: the proxy loves what the policy finds unlikely", role::PROXY, HPos::Left, (-edge, edge)),
        ("PACS < 0: the policy favours what the proxy dislikes", role::POLICY, HPos::Right, (edge, -edge)),
    ]
}

fn tick(z: f64) -> String {
    words::signed(z, usize::from(z.fract().abs() > 0.01))
}

/// At most `most` of some items, spread over all of them without regard to N: every k-th would always take
/// the same sample of each prompt.
fn thinned<T>(items: &[T], most: usize) -> Vec<&T> {
    /// 2⁶⁴ over the golden ratio: multiples of it are spread evenly (Knuth's multiplicative hash).
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    if items.len() <= most {
        return items.iter().collect();
    }
    let share = most as f64 / items.len() as f64;
    let keep = |index: &u64| (index.wrapping_mul(GOLDEN) as f64) < share * u64::MAX as f64;
    (0_u64..).zip(items).filter(|(index, _)| keep(index)).map(|(_, item)| item).collect()
}

/// Categories drawn at most: the ones with the largest figures.
const CATEGORIES_MAX: usize = 16;

fn category_bars(categories: &[CategoryFigures], band: &NullBand) -> anyhow::Result<Chart> {
    let mut shown: Vec<&CategoryFigures> = categories.iter().collect();
    shown.sort_by(|a, b| b.mean_abs_pacs.total_cmp(&a.mean_abs_pacs));
    shown.truncate(CATEGORIES_MAX);
    let height = 150 + 62 * u32::try_from(shown.len()).unwrap_or(0);
    let noise = band.mean_abs_pacs.mean;
    let description = format!(
        "Mean |PACS| by category, against {noise:.2} for noise: {}.",
        shown
            .iter()
            .map(|category| format!("{} {:.2}", name(category), category.mean_abs_pacs))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let description = minijinja::HtmlEscape(&description).to_string();
    draw((WIDTH, height), "Conflict by category", &description, |canvas| paint_categories(canvas, &shown, band))
}

fn name(category: &CategoryFigures) -> String {
    category.category.as_deref().map_or_else(|| "(none)".to_owned(), |name| excerpt(&visible(name), 24))
}

fn paint_categories(canvas: &Canvas<'_>, categories: &[&CategoryFigures], band: &NullBand) -> Drawn {
    let count = categories.len() as f64;
    let noise = &band.mean_abs_pacs;
    let largest = categories.iter().map(|category| category.mean_abs_pacs).fold(noise.q95, f64::max) * 1.2;
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_top(36)
        .x_label_area_size(104)
        .y_label_area_size(330)
        .build_cartesian_2d(0.0..largest, 0.0..count)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .bold_line_style(role::GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(role::MUTED)
        .label_style(label(SMALL, role::MUTED))
        .axis_desc_style(label(TEXT, role::INK))
        .x_desc("mean |PACS|")
        .y_labels(0)
        .x_labels(6)
        .draw()?;
    for (index, category) in categories.iter().enumerate() {
        let middle = count - index as f64 - 0.5;
        let bar = [(0.0, middle - 0.26), (category.mean_abs_pacs, middle + 0.26)];
        chart.draw_series([Rectangle::new(bar, role::BAR.filled())])?;
        // 95 % of means over this many prompts of noise.
        let half = 1.96 * noise.sd / f64::from(category.prompts.max(1)).sqrt();
        let interval = [(noise.mean - half, middle - 0.42), (noise.mean + half, middle + 0.42)];
        chart.draw_series([Rectangle::new(interval, role::NOISE.mix(0.3).filled())])?;
        let name = format!("{} ({})", name(category), words::grouped(category.prompts.into()));
        let mean = format!("{:.2}", category.mean_abs_pacs);
        for (x, offset, text, colour) in [(0.0, -12, name, role::INK), (largest, -4, mean, role::MEAN)] {
            let style = anchored(SMALL, colour, HPos::Right, VPos::Center);
            chart.draw_series([EmptyElement::at((x, middle)) + Text::new(text, (offset, 0), style)])?;
        }
    }
    Ok(())
}

/// Columns of the strip of all |PACS|.
const COLUMNS_MAX: usize = 300;

fn cut(prompts: &[&PromptFigures], delta: f64) -> anyhow::Result<Chart> {
    let mut sorted: Vec<(f64, bool)> = prompts
        .iter()
        .flat_map(|prompt| &prompt.answers)
        .filter_map(|answer| Some((answer.pacs?.abs(), answer.selected)))
        .collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let selected = sorted.iter().filter(|(_, selected)| *selected).count();
    let description = format!(
        "|PACS| of {} answers in descending order, from {:.2}; {selected} of them are selected.",
        sorted.len(),
        sorted.first().map_or(0.0, |(largest, _)| *largest)
    );
    draw((WIDTH, HEIGHT), "Every answer by its conflict, and what is selected", &description, |canvas| {
        paint_cut(canvas, &sorted, delta)
    })
}

fn paint_cut(canvas: &Canvas<'_>, sorted: &[(f64, bool)], delta: f64) -> Drawn {
    let count = sorted.len();
    let top = sorted.first().map_or(1.0, |(largest, _)| largest.max(delta)) * 1.1;
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(104)
        .build_cartesian_2d(0.0..count as f64, 0.0..top.max(0.1))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(role::GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(role::MUTED)
        .label_style(label(SMALL, role::MUTED))
        .axis_desc_style(label(TEXT, role::INK))
        .x_desc("answers, the most conflicting first")
        .y_desc("|PACS|")
        .x_labels(7)
        .y_labels(6)
        .x_label_formatter(&|place| format!("{place:.0}"))
        .draw()?;
    let width = count.div_ceil(COLUMNS_MAX).max(1);
    for (index, column) in sorted.chunks(width).enumerate() {
        let left = (index * width) as f64;
        let right = left + column.len() as f64;
        let gap = if count < 150 { 0.08 } else { 0.0 };
        let height = column.iter().map(|(pacs, _)| pacs).sum::<f64>() / column.len() as f64;
        let share = column.iter().filter(|(_, selected)| *selected).count() as f64 / column.len() as f64;
        let corners = |to: f64| [(left + gap, 0.0), (right - gap, to)];
        chart.draw_series([Rectangle::new(corners(height), role::MUTED.mix(0.35).filled())])?;
        if share > 0.0 {
            chart.draw_series([Rectangle::new(corners(height), role::PICK.mix(share).filled())])?;
        }
    }
    if delta > 0.0 {
        chart.draw_series(LineSeries::new([(0.0, delta), (count as f64, delta)], role::INK.stroke_width(2)))?;
        let style = anchored(TEXT, role::INK, HPos::Right, VPos::Bottom);
        let text = Text::new(format!("δ = {delta}"), (-8, -6), style);
        chart.draw_series([EmptyElement::at((count as f64, delta)) + text])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dissent_domain::conflict::null_band;

    use super::*;

    #[test]
    fn every_value_falls_in_one_bin_and_those_beyond_in_the_outer_ones() {
        let edges = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(binned(&edges, [-1.0, 0.0, 0.99, 1.0, 2.5, 3.0, 9.0].into_iter()), [3, 1, 3]);
        assert_eq!(binned(&[], [1.0].into_iter()), [0_u32; 0]);
    }

    #[test]
    fn bins_of_the_distance_share_its_values_evenly_and_miss_none() {
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
            assert!((noise - 1.0).abs() < 1e-9, "all of noise is drawn");
        }
    }

    #[test]
    fn thinning_keeps_about_as_many_as_asked_of_every_sample_index() {
        let items: Vec<usize> = (0..80_000).collect();
        let kept = thinned(&items, 4000);
        assert!((3900..=4100).contains(&kept.len()), "{}", kept.len());
        for sample in 0..8 {
            let of_sample = kept.iter().filter(|item| **item % 8 == sample).count();
            assert!((400..=600).contains(&of_sample), "sample {sample}: {of_sample}");
        }
        assert_eq!(thinned(&items[..10], 4000).len(), 10);
    }

    #[test]
    fn a_chart_has_a_name_and_no_colour_of_its_own() {
        let chart = draw((100, 100), "Name", "What it shows", |canvas| {
            for (colour, _) in role::PROPERTIES {
                canvas.draw(&Circle::new((50, 50), 10, colour.filled()))?;
            }
            Ok(())
        });
        let svg = chart.unwrap().svg;
        assert!(svg.starts_with("<svg class=\"chart\" viewBox=\"0 0 100 100\" role=\"img\""));
        assert!(svg.contains("<title>Name</title><desc>What it shows</desc>"));
        assert!(!svg.contains("\"#"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}
