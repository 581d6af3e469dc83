//! `dissent feedback status`: shows requested and open comparisons, and the agreement of annotators.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::Path;

use dissent_domain::feedback::{Agreement, PairAgreement, Verdict, pair_agreements};
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::RequestedComparison;
use dissent_domain::plan::FeedbackSource;
use serde::Serialize;

use crate::cli::experiment_arg::{ExperimentArg, Target};
use crate::feedback::RecordedExperiment;
use crate::log_access::open;
use crate::text::{count, visible};

/// Maximum number of annotator pairs in the text output.
const PAIRS_LISTED_MAX: usize = 12;

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Name of the experiment, or its configuration.
    #[arg(value_name = "EXPERIMENT|CONFIG.toml")]
    experiment: ExperimentArg,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(data_dir: Option<&Path>, args: &StatusArgs) -> anyhow::Result<()> {
    let Target { experiment, data_dir } = args.experiment.target(data_dir)?;
    let log = open::read_log(&data_dir)?;
    let status = Status::of(&RecordedExperiment::read(&*log, &experiment)?)?;
    let mut out = std::io::stdout().lock();
    Ok(if args.json {
        writeln!(out, "{}", serde_json::to_string(&status)?)
    } else {
        write!(out, "{status}")
    }?)
}

/// State of the feedback of the last round that requested any.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    experiment: ExperimentId,
    round: u32,
    source: FeedbackSource,
    settled: bool,
    comparisons: u64,
    /// Comparisons that need further judgements.
    open: u64,
    judgements: u64,
    /// Judgements needed for each comparison.
    overlap: u32,
    budget: Option<u64>,
    /// Number of judgements of each annotator, ordered by name.
    annotators: BTreeMap<String, u64>,
    agreement: Agreement,
    pairs: Vec<PairAgreement>,
    /// Whether the experiment waits for judgements.
    waits: bool,
}

impl Status {
    pub(super) fn of(recorded: &RecordedExperiment) -> anyhow::Result<Self> {
        let (plan, round) = (recorded.plan()?, recorded.feedback_round()?);
        let Some(feedback) = plan.learning.as_ref().map(|learning| &learning.feedback) else {
            anyhow::bail!("the experiment requests no feedback")
        };
        let learning = round.learning();
        let requested = learning.comparisons();
        let settled = learning.settled().is_some();
        let is_open =
            |comparison: &&RequestedComparison| comparison.judgements.len() < feedback.overlap as usize;
        let mut annotators = BTreeMap::new();
        for (name, _) in requested.iter().flat_map(|comparison| comparison.judgements.iter()) {
            *annotators.entry(name.to_owned()).or_insert(0) += 1;
        }
        let verdicts: Vec<Vec<Verdict>> = requested
            .iter()
            .map(|comparison| comparison.judgements.iter().map(|(_, judgement)| judgement.verdict).collect())
            .collect();
        Ok(Self {
            experiment: plan.experiment.clone(),
            round: round.number(),
            source: feedback.source,
            settled,
            comparisons: requested.len() as u64,
            open: if settled { 0 } else { requested.iter().filter(is_open).count() as u64 },
            judgements: learning.judgements(),
            overlap: feedback.overlap,
            budget: feedback.budget,
            annotators,
            agreement: Agreement::of(&verdicts),
            pairs: pair_agreements(requested.iter().map(|comparison| &comparison.judgements)),
            waits: learning.waits_for_feedback(feedback),
        })
    }

    fn next_step(&self) -> &'static str {
        match (self.settled, self.waits, self.source) {
            (true, ..) => "settled: further judgements are too late for this round",
            (false, true, FeedbackSource::People) => {
                "waits for people: export the open comparisons with `dissent feedback export`"
            }
            (false, true, FeedbackSource::Oracle) => "waits for the oracle: continue with `dissent run`",
            (false, false, _) => "complete: continue with `dissent run`",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { experiment, round, overlap, .. } = self;
        let comparisons = count(self.comparisons, "comparison");
        writeln!(
            f,
            "{experiment} · round {round} · {comparisons}, {} open; {}",
            self.open,
            self.next_step()
        )?;
        let budget = self.budget.map(|budget| format!(", budget {budget}")).unwrap_or_default();
        let judgements = count(self.judgements, "judgement");
        writeln!(f, "  {judgements}; {overlap} needed for each comparison{budget}")?;
        if !self.annotators.is_empty() {
            let each: Vec<String> =
                self.annotators.iter().map(|(name, judged)| format!("{} {judged}", visible(name))).collect();
            writeln!(f, "  annotators: {}", each.join(", "))?;
        }
        if self.pairs.is_empty() {
            return Ok(());
        }
        let Agreement { observed, fleiss_kappa, krippendorff_alpha } = self.agreement;
        let observed = observed.map_or("undefined".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        writeln!(
            f,
            "  agreement: {observed} of pairs of judgements; Krippendorff’s α {}, Fleiss’ κ {}",
            figure(krippendorff_alpha),
            figure(fleiss_kappa),
        )?;
        for PairAgreement { annotators: [one, other], comparisons, cohen_kappa } in
            self.pairs.iter().take(PAIRS_LISTED_MAX)
        {
            let (one, other) = (visible(one), visible(other));
            let of = count(u64::from(*comparisons), "comparison");
            writeln!(f, "    {one} and {other}: Cohen’s κ {} on {of}", figure(*cohen_kappa))?;
        }
        let more = self.pairs.len().saturating_sub(PAIRS_LISTED_MAX);
        if more > 0 {
            writeln!(f, "    and {more} more pairs: see --json")?;
        }
        Ok(())
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or("undefined".to_owned(), |value| format!("{value:.3}").replace('-', "−"))
}
