//! The sentences that explain the figures, shared by HTML, Markdown and the summary.

use dissent_domain::conflict::{LogprobKind, Rule, SelectionSettings};
use dissent_domain::reward::RewardKind;
use serde::Serialize;

use super::data::{AgainstNoise, ReportData, Status, Verdict};
use super::tendencies::flag_text;
use crate::text::{count, fingerprint, grouped, percent, short, signed};

/// A headline figure with its explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Headline {
    /// The plain name.
    pub(super) label: &'static str,
    /// The technical term.
    pub(super) term: &'static str,
    pub(super) value: String,
    /// The interval of the figure under noise.
    pub(super) noise: String,
    /// The conclusion from the two.
    pub(super) meaning: &'static str,
    /// The colour class: `above`, `within`, `below` or `plain`.
    pub(super) verdict: &'static str,
}

/// A setting of the experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// Returns the headline figures; empty before the first measurement.
pub(super) fn headlines(data: &ReportData) -> Vec<Headline> {
    let figures = &data.figures;
    let pacs = figures.mean_abs_pacs.map(|pacs| Headline {
        label: "Conflict per prompt",
        term: "mean |PACS|",
        value: format!("{:.2}", pacs.mean),
        noise: noise_interval(&pacs),
        meaning: match pacs.verdict {
            Verdict::Above => {
                "More conflict than between unrelated scores: policy and proxy tend to oppose each other."
            }
            Verdict::Within => {
                "As much conflict as between unrelated scores: policy and proxy show neither agreement nor opposition."
            }
            Verdict::Below => "Less conflict than between unrelated scores: policy and proxy partly agree.",
        },
        verdict: verdict(pacs.verdict),
    });
    let tau = figures.kendall_tau.map(|tau| Headline {
        label: "Agreement of rankings",
        term: "mean Kendall’s tau",
        value: signed(tau.mean, 2),
        noise: noise_interval(&tau),
        meaning: match tau.verdict {
            Verdict::Above => "The rankings of policy and proxy agree more often than by chance.",
            Verdict::Within => "The rankings of policy and proxy show no relation.",
            Verdict::Below => "The rankings of policy and proxy oppose each other more often than by chance.",
        },
        // Agreement above noise is conflict below it.
        verdict: verdict(match tau.verdict {
            Verdict::Above => Verdict::Below,
            Verdict::Within => Verdict::Within,
            Verdict::Below => Verdict::Above,
        }),
    });
    let extreme = figures.above_noise_95.map(|share| Headline {
        label: "Unusual prompts",
        term: "mean |PACS| above noise’s 95 %",
        value: percent(share),
        noise: "noise alone: 5 %".to_owned(),
        meaning: "The share of prompts whose conflict exceeds the 95 % quantile of noise.",
        verdict: "plain",
    });
    pacs.into_iter().chain(tau).chain(extreme).collect()
}

fn noise_interval(figure: &AgainstNoise) -> String {
    let AgainstNoise { noise_low, noise_high, .. } = figure;
    if *noise_low < 0.0 {
        format!("noise alone: {} to {}", signed(*noise_low, 2), signed(*noise_high, 2))
    } else {
        format!("noise alone: {noise_low:.2} to {noise_high:.2}")
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Above => "above",
        Verdict::Within => "within",
        Verdict::Below => "below",
    }
}

/// Returns the progress of the round.
pub(super) fn status(data: &ReportData) -> String {
    let counts = &data.counts;
    match data.status {
        Status::Complete => {
            data.learning.as_ref().map_or("complete", |learning| learning.stage.as_str()).to_owned()
        }
        Status::InProgress => {
            let aside = match counts.set_aside {
                0 => String::new(),
                set_aside => format!(", {set_aside} set aside"),
            };
            format!(
                "in progress: {} of {} prompts measured{aside}",
                grouped(counts.measured.into()),
                grouped(counts.prompts.into())
            )
        }
    }
}

/// Describes the selection as the object of a sentence, without a full stop.
pub(super) fn rule(settings: &SelectionSettings) -> String {
    let (delta, tau) = (settings.effective_delta(), settings.effective_tau());
    let large =
        if delta > 0.0 { format!(" with |PACS| of at least {}", short(delta)) } else { String::new() };
    let distance = format!("a Kendall-tau distance of at least {}", short(tau));
    let distant = if tau > 0.0 { format!(" in the prompts with {distance}") } else { String::new() };
    let budget = settings.budget.map(grouped).unwrap_or_default();
    let capped = if settings.budget.is_some() { format!(", at most {budget}") } else { String::new() };
    match settings.rule {
        Rule::Paper => format!("the completions{large}{distant}{capped}"),
        Rule::Mean => {
            let distant = if tau > 0.0 { format!(" and {distance}") } else { String::new() };
            format!(
                "every completion of the prompts with mean |PACS| above {}{distant}{capped}",
                short(delta)
            )
        }
        Rule::Budget => {
            let large =
                if delta > 0.0 { format!(", if it is at least {}", short(delta)) } else { String::new() };
            format!("the {budget} completions with the largest |PACS|{large}{distant}")
        }
        Rule::Quantile => {
            let top = percent(1.0 - settings.quantile);
            let large = if large.is_empty() { large } else { format!(" and{large}") };
            format!("the completions in the top {top} of |PACS|{large}{distant}{capped}")
        }
        Rule::Random => format!("{budget} completions drawn at random, as a baseline"),
        Rule::Margin => {
            format!("the {budget} comparisons with the smallest difference of reward, as a baseline")
        }
        Rule::Gap => format!("the {budget} comparisons with the largest difference of PACS{distant}"),
        Rule::Discordant => {
            format!("the comparisons that policy and proxy order oppositely{distant}{capped}")
        }
        Rule::EqualMargin => {
            format!(
                "the {budget} comparisons with the largest difference of PACS at about the same difference of reward{distant}"
            )
        }
        Rule::GapAndMargin => {
            format!(
                "the {budget} comparisons with a large difference of PACS and a small difference of reward{distant}"
            )
        }
        Rule::Doubt => {
            format!(
                "the {budget} comparisons in which the policy's preference most exceeds the proxy's{distant}"
            )
        }
        Rule::Rso => {
            format!("comparisons by rejection sampling from the proxy, as a baseline{capped}")
        }
        Rule::All => format!("every comparison{capped}"),
        Rule::None => "nothing".to_owned(),
    }
}

/// Returns the settings of the experiment, for the end of the report.
pub(super) fn settings(data: &ReportData) -> Vec<Setting> {
    let (plan, counts) = (&data.plan, &data.counts);
    let sampling = &plan.sampling;
    let setting = |name, value| Setting { name, value };
    let nucleus =
        if sampling.top_p < 1.0 { format!(", top-p {}", short(sampling.top_p)) } else { String::new() };
    let stop = if sampling.stop.is_empty() {
        String::new()
    } else {
        let texts: Vec<String> = sampling.stop.iter().map(|text| format!("{text:?}")).collect();
        format!(", up to {}", texts.join(" or "))
    };
    let top_k = if sampling.top_k > 0 { format!(", top-k {}", sampling.top_k) } else { String::new() };
    let kind = match plan.reward.kind {
        RewardKind::Reward => "a reward: larger is better",
        RewardKind::Cost => "a cost, negated: larger is better",
    };
    let logprob = match plan.conflict.logprob {
        LogprobKind::Sum => "sum over the tokens of a completion (shorter completions tend to be likelier)",
        LogprobKind::Mean => "mean over the tokens of a completion",
    };
    vec![
        setting("Policy", format!("{} ({})", plan.policy.name, fingerprint(&plan.policy.fingerprint))),
        setting("Policy template", plan.policy.template.clone()),
        setting("Proxy reward", format!("{} ({})", plan.reward.name, fingerprint(&plan.reward.fingerprint))),
        setting("Proxy template", plan.reward.template.clone()),
        setting("Proxy score", kind.to_owned()),
        setting("Log-probability", format!("{logprob}; of the untempered model")),
        setting(
            "Sampling",
            format!(
                "{} per prompt, temperature {}{nucleus}{top_k}, at most {} new tokens{stop}",
                count(sampling.samples.into(), "completion"),
                short(sampling.temperature),
                grouped(sampling.max_new_tokens.into()),
            ),
        ),
        setting("Selection", format!("{}: {}", plan.conflict.selection.rule, rule(&plan.conflict.selection))),
        setting("Seed", plan.seed.to_string()),
        setting(
            "Prompts",
            format!("{} ({})", grouped(plan.prompts.count.into()), fingerprint(&plan.prompts.artifact)),
        ),
        setting("Measured", measured(data)),
        setting(
            "Completions",
            format!(
                "{} ({} cut off by the token limit), {} tokens",
                grouped(counts.completions),
                grouped(counts.truncated),
                grouped(counts.tokens)
            ),
        ),
        setting("Selected", selected(data)),
    ]
}

/// Returns the number of measured prompts, and the reasons why others are missing.
pub(super) fn measured(data: &ReportData) -> String {
    let counts = &data.counts;
    let mut out =
        format!("{} of {} measured", grouped(counts.measured.into()), count(counts.prompts.into(), "prompt"));
    if counts.degenerate > 0 {
        let degenerate = grouped(counts.degenerate.into());
        out += &format!(
            ", {degenerate} of them degenerate (all completions have the same reward or log-probability)"
        );
    }
    if counts.set_aside > 0 {
        out += &format!(", {} set aside", grouped(counts.set_aside.into()));
    }
    out
}

/// The share of completions cut off by the token limit from which the report warns at its top.
const MANY_TRUNCATED: f64 = 0.2;

/// Warns if many completions are cut off by the token limit: their rewards and log-probabilities are those of
/// unfinished texts.
pub(super) fn truncated(data: &ReportData) -> Option<String> {
    let counts = &data.counts;
    let share = counts.truncated as f64 / counts.completions.max(1) as f64;
    (share >= MANY_TRUNCATED).then(|| {
        format!(
            "{} of the completions are cut off by the limit of {} tokens: the models rate unfinished texts. Raise \
             generation.max_new_tokens, or read every figure with care.",
            percent(share),
            grouped(data.plan.sampling.max_new_tokens.into())
        )
    })
}

/// Names what the texts of the completions show, and what that means for the feedback. `None` if no
/// completion has a flag, or flags are not recorded.
pub(super) fn flags(data: &ReportData) -> Option<String> {
    let counts = &data.counts;
    let named: Vec<String> = counts
        .flags
        .iter()
        .filter(|(_, completions)| *completions > 0)
        .map(|(flag, completions)| format!("{} {}", grouped(*completions), flag_text(*flag)))
        .collect();
    if named.is_empty() {
        return None;
    }
    let most_are_cut = 2 * counts.truncated > counts.completions;
    let left_out = if most_are_cut {
        "Nobody is asked about those that loop or are empty. Most are cut off, so that counts for nothing here"
    } else {
        "Nobody is asked about those that loop, are empty or are cut off"
    };
    Some(format!(
        "Of {}: {}. {left_out} (feedback.degenerate = \"skip\").",
        count(counts.completions, "completion"),
        named.join(", ")
    ))
}

/// Returns the reason why a complete round has no figures.
pub(super) fn nothing_measured(data: &ReportData) -> &'static str {
    if data.counts.measured == 0 {
        "No conflict is measured: every prompt was set aside. The reasons are below."
    } else {
        "Conflict is undefined on every prompt: a prompt has one completion only, or all its completions have the same score."
    }
}

/// Returns the number of selected completions.
pub(super) fn selected(data: &ReportData) -> String {
    match data.status {
        Status::InProgress => "pending until all prompts are done".to_owned(),
        Status::Complete => {
            let counts = &data.counts;
            let prompts = count(counts.selected_prompts.into(), "prompt");
            format!("{} of {prompts}", count(counts.selected.into(), "completion"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_described_with_its_settings() {
        let settings = |rule, budget| SelectionSettings { rule, budget, ..SelectionSettings::default() };
        for (settings, expected) in [
            (
                settings(Rule::Paper, None),
                "the completions with |PACS| of at least 1 in the prompts with a Kendall-tau distance of at least 0.5",
            ),
            (
                SelectionSettings { tau: Some(0.0), ..settings(Rule::Paper, Some(1500)) },
                "the completions with |PACS| of at least 1, at most 1,500",
            ),
            (settings(Rule::Mean, None), "every completion of the prompts with mean |PACS| above 1"),
            (
                SelectionSettings { tau: Some(0.6), ..settings(Rule::Mean, None) },
                "every completion of the prompts with mean |PACS| above 1 and a Kendall-tau distance of at least 0.6",
            ),
            (settings(Rule::Budget, Some(20)), "the 20 completions with the largest |PACS|"),
            (
                SelectionSettings { delta: Some(1.5), ..settings(Rule::Budget, Some(20)) },
                "the 20 completions with the largest |PACS|, if it is at least 1.5",
            ),
            (settings(Rule::Quantile, None), "the completions in the top 10 % of |PACS|"),
            (
                SelectionSettings { delta: Some(1.5), ..settings(Rule::Quantile, None) },
                "the completions in the top 10 % of |PACS| and with |PACS| of at least 1.5",
            ),
            (settings(Rule::Random, Some(20)), "20 completions drawn at random, as a baseline"),
        ] {
            assert_eq!(rule(&settings), expected);
        }
    }
}
