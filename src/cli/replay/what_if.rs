//! `dissent replay --what-if`: what other settings would have asked about.

use std::io::Write as _;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_domain::what_if::{
    Compared, Cost, Overlap, PromptCompared, RoundCompared, WhatIf, WhatIfOutcome,
};
use serde::Serialize;

use crate::history;
use crate::history::overview::ExperimentHistory;
use crate::history::settings::{self, Scope, Setting};
use crate::text::visible;

/// What is compared, and how it is printed.
pub(super) struct Options<'a> {
    /// Stop after this position of the log.
    pub(super) at: Option<u64>,
    /// The settings that differ from the recorded ones.
    pub(super) settings: &'a [Setting],
    /// Most prompts listed where the two selections differ.
    pub(super) top: usize,
    /// Print as JSON.
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Outcome<'a> {
    experiment: &'a ExperimentId,
    recorded: Settings<'a>,
    changed: Settings<'a>,
    #[serde(flatten)]
    outcome: &'a WhatIfOutcome,
}

/// What decides a selection.
#[derive(Serialize)]
struct Settings<'a> {
    conflict: &'a dissent_domain::plan::ConflictPlan,
    feedback: Option<&'a dissent_domain::plan::FeedbackPlan>,
}

impl<'a> Settings<'a> {
    fn of(plan: &'a Plan) -> Self {
        let feedback = plan.learning.as_ref().map(|learning| &learning.feedback);
        Self { conflict: &plan.conflict, feedback }
    }
}

pub(super) fn run(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    options: &Options<'_>,
) -> anyhow::Result<()> {
    let past = ExperimentHistory::read(log, experiment, options.at)?;
    let recorded = past.experiment().plan().context("the experiment has no plan there")?;
    let changed = settings::changed(recorded, options.settings, Scope::Selection)?;
    let mut what_if = WhatIf::new(recorded.clone(), changed.clone());
    history::each(log, experiment, options.at, &mut |event| Ok(what_if.apply(&event.decode()?)?))?;
    let found = what_if.outcome();
    let mut out = std::io::stdout().lock();
    if options.json {
        let (recorded, changed) = (Settings::of(recorded), Settings::of(&changed));
        let outcome = Outcome { experiment, recorded, changed, outcome: &found };
        serde_json::to_writer_pretty(&mut out, &outcome)?;
        return Ok(writeln!(out)?);
    }
    let settings: Vec<String> = options.settings.iter().map(ToString::to_string).collect();
    writeln!(out, "{experiment}, if it had {}", settings.join(" "))?;
    print(&mut out, &found, options.top)?;
    Ok(())
}

fn print(out: &mut impl std::io::Write, found: &WhatIfOutcome, top: usize) -> std::io::Result<()> {
    for RoundCompared { round, compared, prompts } in &found.rounds {
        print_compared(out, &format!("round {round}"), compared)?;
        print_prompts(out, prompts, top)?;
    }
    if found.rounds.len() > 1 {
        print_compared(out, "in all", &found.total)?;
        writeln!(
            out,
            "from the second round on, the scores are those of models that learnt from what was really asked"
        )?;
    }
    for round in &found.undecided {
        writeln!(out, "round {round} has not made its selection: nothing can be said about it")?;
    }
    Ok(())
}

fn print_compared(out: &mut impl std::io::Write, what: &str, compared: &Compared) -> std::io::Result<()> {
    let cost = |cost: &Cost| {
        format!(
            "{} answers of {} prompts, {} comparisons, {} labels",
            cost.answers, cost.prompts, cost.comparisons, cost.labels
        )
    };
    let overlap = |overlap: &Overlap| {
        format!(
            "{} kept, {} new, {} dropped (Jaccard {:.3})",
            overlap.kept, overlap.new, overlap.dropped, overlap.jaccard
        )
    };
    writeln!(out, "{what}")?;
    writeln!(out, "  was          {}", cost(&compared.recorded))?;
    writeln!(
        out,
        "  would be     {}, {} of them not in the log yet",
        cost(&compared.changed),
        compared.labels_missing
    )?;
    writeln!(out, "  answers      {}", overlap(&compared.answers))?;
    writeln!(out, "  comparisons  {}", overlap(&compared.comparisons))
}

/// The prompts that the settings make a difference to.
fn print_prompts(
    out: &mut impl std::io::Write,
    prompts: &[PromptCompared],
    top: usize,
) -> std::io::Result<()> {
    let different: Vec<&PromptCompared> = prompts.iter().filter(|prompt| !prompt.is_same()).collect();
    if different.is_empty() || top == 0 {
        return Ok(());
    }
    writeln!(out, "  {:<24} {:>11} {:>13}  answers", "prompt", "mean|PACS|", "tau distance")?;
    for prompt in different.iter().take(top) {
        let name: String = visible(prompt.prompt_id.as_str()).chars().take(24).collect();
        let distance = prompt.kendall_tau_distance.map_or("undefined".to_owned(), |tau| format!("{tau:.3}"));
        let (was, would) = (listed(&prompt.recorded), listed(&prompt.changed));
        writeln!(out, "  {name:<24} {:>11.3} {distance:>13}  {was} -> {would}", prompt.mean_abs_pacs)?;
    }
    let more = different.len().saturating_sub(top);
    if more > 0 {
        writeln!(out, "  and {more} more: see --top and --json")?;
    }
    Ok(())
}

fn listed(completions: &[u32]) -> String {
    if completions.is_empty() {
        return "none".to_owned();
    }
    completions.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
