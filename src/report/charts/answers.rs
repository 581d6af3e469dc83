//! Every answer in the plane of the two z-scores that PACS compares.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{Canvas, Chart, Drawn, SMALL, WIDTH, anchored, draw, role, styled};
use crate::report::data::{AnswerFigures, PromptFigures};
use crate::text;

/// Points drawn at most: more would make the page heavy and show no more.
const POINTS_MAX: usize = 4000;

/// An answer's place: z-scores of its log-probability and of its reward.
type Point<'a> = (f64, f64, &'a AnswerFigures);

pub(super) fn chart(prompts: &[&PromptFigures]) -> anyhow::Result<Chart> {
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
        paint(canvas, &shown, reach)
    })
}

/// Room around the points for the words that name the two sides.
const MARGIN: f64 = 1.2;

fn paint(canvas: &Canvas<'_>, points: &[&Point<'_>], reach: f64) -> Drawn {
    let mut chart = ChartBuilder::on(canvas)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(104)
        .y_label_area_size(104)
        .build_cartesian_2d(-reach..reach, -reach..reach)?;
    let corner = |x: f64, y: f64| vec![(-reach, -reach), (reach, reach), (x, y)];
    chart.draw_series([Polygon::new(corner(-reach, reach), role::PROXY.mix(0.09))])?;
    chart.draw_series([Polygon::new(corner(reach, -reach), role::POLICY.mix(0.09))])?;
    styled(chart.configure_mesh())
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
    let dots =
        others.iter().map(|(x, y, _)| Circle::new((*x, *y), radius, role::MUTED.mix(opacity).filled()));
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
    text::signed(z, usize::from(z.fract().abs() > 0.01))
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
