//! Summary of the detected conflict over all prompts, compared with pure noise.

use std::collections::HashMap;
use std::fmt;

use dissent_domain::conflict::{
    Conflict, LogprobKind, NoiseSelection, NullBand, Quantiles, Rule, Selection, SelectionSettings,
    noise_selection, null_band,
};
use serde::Serialize;

/// Maximum number of prompt groups to compare with their null bands. Each group needs a simulation and two
/// lines of the table.
const SIZES_MAX: usize = 6;
/// Seed of the simulation; fixed, so that equal inputs have equal null bands.
const NULL_BAND_SEED: u64 = 0;

/// Counts, distributions and the selection, as text ([`fmt::Display`]) or as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    prompts: usize,
    completions: usize,
    degenerate: usize,
    selected: usize,
    selected_prompts: usize,
    /// Only under a rule that selects comparisons.
    #[serde(skip_serializing_if = "Option::is_none")]
    selected_pairs: Option<usize>,
    rule: Rule,
    /// What the rule would select of as many prompts of pure noise, on average.
    noise: Option<NoiseSelection>,
    /// δ in force.
    delta: f64,
    /// τ in force.
    tau: f64,
    budget: Option<u64>,
    quantile: Option<f64>,
    seed: Option<u64>,
    logprob: LogprobKind,
    /// The mean |PACS| above which a prompt counts in the shares: δ if given, otherwise the paper's.
    mean_abs_pacs_threshold: f64,
    /// The distance above which a prompt counts in the shares: τ if given, otherwise the paper's.
    kendall_tau_distance_threshold: f64,
    /// Prompts that are not degenerate, by number of completions, the largest group first.
    sizes: Vec<Size>,
    /// Prompts whose number of completions is not in `sizes`.
    prompts_of_other_sizes: usize,
}

/// Prompts with the same number of completions.
#[derive(Debug, Serialize)]
struct Size {
    completions: usize,
    prompts: usize,
    mean_abs_pacs: Compared,
    kendall_tau_distance: Compared,
}

/// A distribution over prompts beside its null band.
#[derive(Debug, Serialize)]
struct Compared {
    here: Quantiles,
    noise: Quantiles,
    /// Share of prompts past the threshold, in [0, 1].
    past_threshold_here: f64,
    /// The same share of pure noise.
    past_threshold_noise: f64,
}

impl Summary {
    pub(super) fn of(
        conflicts: &[&Conflict],
        selection: &Selection,
        settings: &SelectionSettings,
        seed: u64,
        logprob: LogprobKind,
    ) -> Self {
        let paper = SelectionSettings::default();
        let mean_abs_pacs_threshold = settings.delta.unwrap_or(paper.effective_delta());
        let kendall_tau_distance_threshold = settings.tau.unwrap_or(paper.effective_tau());
        let groups = by_size(conflicts);
        let sizes = groups
            .iter()
            .take(SIZES_MAX)
            .filter_map(|group| Size::of(group, mean_abs_pacs_threshold, kendall_tau_distance_threshold));
        Self {
            prompts: conflicts.len(),
            completions: conflicts.iter().map(|conflict| conflict.completions()).sum(),
            degenerate: conflicts.iter().filter(|conflict| conflict.degenerate).count(),
            selected: selection.completions.iter().map(Vec::len).sum(),
            selected_prompts: selection.completions.iter().filter(|indices| !indices.is_empty()).count(),
            selected_pairs: selection.pairs.as_ref().map(|pairs| pairs.iter().map(Vec::len).sum()),
            rule: settings.rule,
            noise: noise_selection(settings, &sizes_of(conflicts), NULL_BAND_SEED),
            delta: settings.effective_delta(),
            tau: settings.effective_tau(),
            budget: settings.budget,
            quantile: (settings.rule == Rule::Quantile).then_some(settings.quantile),
            seed: matches!(settings.rule, Rule::Random | Rule::Rso).then_some(seed),
            logprob,
            mean_abs_pacs_threshold,
            kendall_tau_distance_threshold,
            sizes: sizes.collect(),
            prompts_of_other_sizes: groups.iter().skip(SIZES_MAX).map(Vec::len).sum(),
        }
    }
}

/// The numbers of completions of the prompts that are not degenerate.
fn sizes_of(conflicts: &[&Conflict]) -> Vec<usize> {
    let defined = conflicts.iter().filter(|conflict| !conflict.degenerate);
    defined.map(|conflict| conflict.completions()).collect()
}

/// Groups the conflicts that are not degenerate by number of completions, the largest group first.
fn by_size<'a>(conflicts: &[&'a Conflict]) -> Vec<Vec<&'a Conflict>> {
    let mut groups: HashMap<usize, Vec<&Conflict>> = HashMap::new();
    for conflict in conflicts.iter().filter(|conflict| !conflict.degenerate) {
        groups.entry(conflict.completions()).or_default().push(conflict);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(completions, group)| (std::cmp::Reverse(group.len()), *completions));
    groups.into_iter().map(|(_, group)| group).collect()
}

impl Size {
    fn of(group: &[&Conflict], delta: f64, tau: f64) -> Option<Self> {
        let completions = group.first()?.completions();
        let noise: NullBand = null_band(completions, NULL_BAND_SEED)?;
        let means: Vec<f64> = group.iter().map(|conflict| conflict.mean_abs_pacs).collect();
        let distances: Vec<f64> = group.iter().filter_map(|conflict| conflict.kendall_tau_distance).collect();
        Some(Self {
            completions,
            prompts: group.len(),
            mean_abs_pacs: Compared {
                here: Quantiles::of(&means)?,
                noise: noise.mean_abs_pacs,
                past_threshold_here: share(&means, |mean| mean > delta),
                past_threshold_noise: noise.mean_abs_pacs_above(delta),
            },
            kendall_tau_distance: Compared {
                here: Quantiles::of(&distances)?,
                noise: noise.kendall_tau_distance,
                past_threshold_here: share(&distances, |distance| distance >= tau),
                past_threshold_noise: noise.distance_at_least(tau),
            },
        })
    }
}

fn share(values: &[f64], passes: impl Fn(f64) -> bool) -> f64 {
    values.iter().filter(|&&value| passes(value)).count() as f64 / values.len().max(1) as f64
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", count(self.prompts, "prompt"), count(self.completions, "completion"))?;
        if self.degenerate > 0 {
            write!(f, "; {} degenerate, with no conflict to measure", count(self.degenerate, "prompt"))?;
        }
        writeln!(f)?;
        let (delta, tau) = (self.mean_abs_pacs_threshold, self.kendall_tau_distance_threshold);
        self.table(f, "mean|PACS|", &format!("> {delta:?}"), |size| &size.mean_abs_pacs)?;
        self.table(f, "Kendall-tau distance", &format!("≥ {tau:?}"), |size| &size.kendall_tau_distance)?;
        if self.prompts_of_other_sizes > 0 {
            writeln!(
                f,
                "not shown: {} prompts with other numbers of completions",
                self.prompts_of_other_sizes
            )?;
        }
        writeln!(f)?;
        write!(f, "selected ")?;
        if let Some(pairs) = self.selected_pairs {
            write!(f, "{} of ", count(pairs, "pair"))?;
        }
        write!(f, "{}", count(self.selected, "completion"))?;
        write!(f, " in {}", count(self.selected_prompts, "prompt"))?;
        write!(f, " (rule {}, delta {:?}, tau {:?}", self.rule, self.delta, self.tau)?;
        for (name, value) in [("budget", self.budget), ("seed", self.seed)] {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        if let Some(quantile) = self.quantile {
            write!(f, ", quantile {quantile}")?;
        }
        writeln!(f, ", logprob {})", self.logprob)?;
        if let Some(NoiseSelection { completions, prompts }) = self.noise {
            writeln!(
                f,
                "of pure noise the same rule selects about {completions:.0} completions in {prompts:.0} prompts"
            )?;
        }
        Ok(())
    }
}

impl Summary {
    fn table(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        threshold: &str,
        column: impl Fn(&Size) -> &Compared,
    ) -> fmt::Result {
        if self.sizes.is_empty() {
            return Ok(());
        }
        write!(f, "\n{title:<28}")?;
        for heading in ["1 %", "5 %", "50 %", "95 %", "99 %", "mean", threshold] {
            write!(f, "{heading:>8}")?;
        }
        writeln!(f)?;
        for size in &self.sizes {
            let compared = column(size);
            let here = format!("N = {}, {}", size.completions, count(size.prompts, "prompt"));
            row(f, &here, &compared.here, compared.past_threshold_here)?;
            row(f, "  pure noise", &compared.noise, compared.past_threshold_noise)?;
        }
        Ok(())
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, of: &Quantiles, past_threshold: f64) -> fmt::Result {
    write!(f, "{name:<28}")?;
    for value in [of.q01, of.q05, of.q50, of.q95, of.q99, of.mean] {
        write!(f, "{value:>8.3}")?;
    }
    writeln!(f, "{:>6.0} %", 100.0 * past_threshold)
}
