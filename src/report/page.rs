//! The data and the filters of both report templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, HtmlEscape, UndefinedBehavior, escape_formatter};
use serde::Serialize;

use super::charts::Charts;
use super::data::{
    CategoryFigures, ConflictingCompletion, ConflictingPrompt, Counts, Figures, LISTED_MAX, ReportData,
    SelectedPair, SetAside, Status,
};
use super::learning::{self, LearningPage};
use super::tendencies::TendencyRow;
use super::wording::{self, Headline, Setting};
use crate::text;

/// The data of a template: the report without the figures of single prompts.
#[derive(Serialize)]
pub(super) struct Page<'a> {
    experiment: &'a str,
    round: u32,
    rounds: u32,
    status: String,
    is_complete: bool,
    /// The warning that many completions are cut off.
    truncated: Option<String>,
    policy: &'a str,
    proxy: &'a str,
    samples: u32,
    counts: Counts,
    figures: &'a Figures,
    noise_mean_abs_pacs: Option<f64>,
    headlines: Vec<Headline>,
    settings: Vec<Setting>,
    rule: String,
    selected_count: String,
    measured: String,
    nothing_measured: &'static str,
    categories: &'a [CategoryFigures],
    proxy_favours: &'a [ConflictingCompletion],
    policy_favours: &'a [ConflictingCompletion],
    most_conflicting_prompts: &'a [ConflictingPrompt],
    selected: &'a [SelectedPair],
    set_aside: &'a [SetAside],
    /// Limit of the two lists above, in rows.
    listed_max: usize,
    charts: &'a Charts,
    learning: Option<LearningPage>,
    tendencies: Vec<TendencyRow>,
    /// What the texts of the completions show; `None` if flags are not recorded.
    flags: Option<String>,
}

impl<'a> Page<'a> {
    pub(super) fn new(data: &'a ReportData, charts: &'a Charts) -> Self {
        Self {
            experiment: data.experiment.as_str(),
            round: data.round,
            rounds: data.plan.rounds,
            status: wording::status(data),
            is_complete: data.status == Status::Complete,
            truncated: wording::truncated(data),
            policy: &data.plan.policy.name,
            proxy: &data.plan.reward.name,
            samples: data.plan.sampling.samples,
            counts: data.counts.clone(),
            figures: &data.figures,
            noise_mean_abs_pacs: data.null_band.as_ref().map(|band| band.mean_abs_pacs.mean),
            headlines: wording::headlines(data),
            settings: settings(data),
            rule: wording::rule(&data.plan.rule_selection()),
            selected_count: wording::selected(data),
            measured: wording::measured(data),
            nothing_measured: wording::nothing_measured(data),
            categories: &data.categories,
            proxy_favours: &data.proxy_favours,
            policy_favours: &data.policy_favours,
            most_conflicting_prompts: &data.most_conflicting_prompts,
            selected: data.selected.get(..LISTED_MAX).unwrap_or(&data.selected),
            set_aside: data.set_aside.get(..LISTED_MAX).unwrap_or(&data.set_aside),
            listed_max: LISTED_MAX,
            charts,
            learning: data.learning.as_ref().map(|learning| LearningPage::new(learning, &data.experiment)),
            tendencies: data.tendencies.iter().map(TendencyRow::new).collect(),
            flags: wording::flags(data),
        }
    }
}

/// Returns the settings of the experiment; those of the learning part come last.
fn settings(data: &ReportData) -> Vec<Setting> {
    let mut settings = wording::settings(data);
    settings.extend(data.plan.learning.iter().flat_map(|plan| learning::settings(plan)));
    settings
}

/// Returns a template engine for HTML. It escapes every text that the template does not mark as safe.
///
/// # Errors
/// As [`environment`].
pub(crate) fn html_environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = environment()?;
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(untrusted) if !value.is_safe() => {
            write!(out, "{}", HtmlEscape(&text::visible(untrusted)))?;
            Ok(())
        }
        _ => escape_formatter(out, state, value),
    });
    Ok(environment)
}

/// Returns a template engine for CommonMark. It escapes every text that the template does not mark as safe.
///
/// # Errors
/// As [`environment`].
pub(crate) fn markdown_environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = environment()?;
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("markdown".into()));
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(untrusted) if !value.is_safe() => Ok(out.write_str(&text::markdown(untrusted))?),
        Some(trusted) => Ok(out.write_str(trusted)?),
        None if value.is_number() => Ok(write!(out, "{value}")?),
        None => escape_formatter(out, state, value),
    });
    Ok(environment)
}

/// Returns a template engine with the report's number formats. An undefined name is an error.
///
/// # Errors
/// Never: the syntax is the default one, with trimmed blocks.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("grouped", text::grouped);
    environment.add_filter("ordinal", text::ordinal);
    environment.add_filter("percent", |share: f64| text::percent(share));
    environment.add_filter("signed", |number: f64| text::signed(number, 2));
    environment.add_filter("fixed", |number: f64| text::signed(number, 2).trim_start_matches('+').to_owned());
    environment.add_filter("gauge", gauge);
    environment.add_filter("heat", heat);
    environment.add_filter("is_long", is_long);
    Ok(environment)
}

/// Returns how unlikely a token is, 0 to 4, from its log-probability in nats.
fn heat(logprob: f64) -> usize {
    [-1.0, -2.0, -4.0, -7.0].iter().filter(|limit| logprob < **limit).count()
}

/// Returns the place of a z-score between the smallest and the largest possible z-score of `of` values, in
/// percent.
fn gauge(z: f64, of: u32) -> String {
    // A z-score of N values lies within ±√(N−1).
    let reach = f64::from(of.saturating_sub(1)).sqrt().max(1.0);
    format!("{:.1}%", (50.0 + 50.0 * z / reach).clamp(0.0, 100.0))
}

/// Whether a text fills more than a part of a page, so that it scrolls in a frame of its own.
fn is_long(text: &str) -> bool {
    /// Characters of a text that is shown at full height, on about ten lines of a phone.
    const CHARS_MAX: usize = 420;
    const LINES_MAX: usize = 10;
    text.chars().count() > CHARS_MAX || text.lines().count() > LINES_MAX
}
