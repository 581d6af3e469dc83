//! `dissent feedback status`: what is asked, what is open, and how far annotators agree.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::Path;

use dissent_domain::feedback::{Agreement, PairAgreement, Verdict, pair_agreements};
use dissent_domain::id::ExperimentId;
use dissent_domain::learning::RequestedComparison;
use dissent_domain::plan::FeedbackSource;
use serde::Serialize;

use super::recorded::RecordedExperiment;
use crate::log_access::open;
use crate::text::{count, visible};

/// Pairs of annotators that are listed for people.
const PAIRS_LISTED_MAX: usize = 12;

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Name of the experiment.
    #[arg(value_parser = |name: &str| ExperimentId::new(name))]
    experiment: ExperimentId,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(data_dir: &Path, args: &StatusArgs) -> anyhow::Result<()> {
    let log = open::read_log(data_dir)?;
    let status = Status::of(&RecordedExperiment::read(&*log, &args.experiment)?)?;
    let mut out = std::io::stdout().lock();
    Ok(if args.json {
        writeln!(out, "{}", serde_json::to_string(&status)?)
    } else {
        write!(out, "{status}")
    }?)
}

/// How the feedback of the last asking round stands.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    experiment: ExperimentId,
    round: u32,
    source: FeedbackSource,
    settled: bool,
    comparisons: u64,
    /// Comparisons that have not the judgements they need.
    open: u64,
    judgements: u64,
    /// Judgements that each comparison needs.
    overlap: u32,
    budget: Option<u64>,
    /// Judgements of each annotator, in the order of names.
    annotators: BTreeMap<String, u64>,
    agreement: Agreement,
    pairs: Vec<PairAgreement>,
    /// Whether the experiment does nothing until people have judged.
    waits: bool,
}

impl Status {
    pub(super) fn of(known: &RecordedExperiment) -> anyhow::Result<Self> {
        let (plan, round) = (known.plan()?, known.asking()?);
        let Some(feedback) = plan.learning.as_ref().map(|learning| &learning.feedback) else {
            anyhow::bail!("the experiment asks nobody")
        };
        let learning = round.learning();
        let asked = learning.comparisons();
        let settled = learning.settled().is_some();
        let is_open = |asked: &&RequestedComparison| asked.judgements.len() < feedback.overlap as usize;
        let mut annotators = BTreeMap::new();
        for (name, _) in asked.iter().flat_map(|asked| asked.judgements.iter()) {
            *annotators.entry(name.to_owned()).or_insert(0) += 1;
        }
        let verdicts: Vec<Vec<Verdict>> = asked
            .iter()
            .map(|asked| asked.judgements.iter().map(|(_, judgement)| judgement.verdict).collect())
            .collect();
        Ok(Self {
            experiment: plan.experiment.clone(),
            round: round.number(),
            source: feedback.source,
            settled,
            comparisons: asked.len() as u64,
            open: if settled { 0 } else { asked.iter().filter(is_open).count() as u64 },
            judgements: learning.judgements(),
            overlap: feedback.overlap,
            budget: feedback.budget,
            annotators,
            agreement: Agreement::of(&verdicts),
            pairs: pair_agreements(asked.iter().map(|asked| &asked.judgements)),
            waits: learning.waits_for_feedback(feedback),
        })
    }

    fn next(&self) -> &'static str {
        match (self.settled, self.waits, self.source) {
            (true, ..) => "settled: what comes now is too late for this round",
            (false, true, FeedbackSource::People) => {
                "waits for people: `dissent feedback export` gives out what is open"
            }
            (false, true, FeedbackSource::Oracle) => "waits for the oracle: `dissent run` goes on",
            (false, false, _) => "has the judgements it needs: `dissent run` goes on",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { experiment, round, overlap, .. } = self;
        let comparisons = count(self.comparisons, "comparison");
        writeln!(f, "{experiment} · round {round} · {comparisons}, {} open; {}", self.open, self.next())?;
        let budget = self.budget.map(|budget| format!(", budget {budget}")).unwrap_or_default();
        let judgements = count(self.judgements, "judgement");
        writeln!(f, "  {judgements}; {overlap} needed of each comparison{budget}")?;
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
