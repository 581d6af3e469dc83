//! Builds the report from the figures of a round: the most conflicting completions, and the comparison with
//! noise.

use std::collections::{BTreeMap, HashSet};

use dissent_domain::conflict::{LogprobKind, NullBand, between_kinds, measure, null_band, resample};
use dissent_domain::event::Recorded;
use dissent_domain::flags::Flag;
use dissent_domain::generation::FinishReason;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;

use super::data::{
    AgainstNoise, CategoryFigures, Certainty, CompletionFigures, ConflictingCompletion, ConflictingPrompt,
    Counts, Excerpt, Figures, LISTED_MAX, PromptFigures, PromptState, RankedCompletion, ReportData,
    ReportError, SCHEMA, Status, TOP_DEFAULT,
};
use super::fold::{History, RoundNumbers, Stream, Texts};
use super::tendencies;
use crate::text::excerpt;

/// Characters of a prompt or a completion in a table.
const EXCERPT_CHARS: usize = 160;

impl ReportData {
    /// Folds the events of `round`, or of the last round, of an experiment.
    ///
    /// Keeps the texts of [`TOP_DEFAULT`] completions that the proxy favours most, and of [`TOP_DEFAULT`]
    /// that the policy favours most.
    ///
    /// # Errors
    /// If the experiment or the round does not exist, or the log cannot be read.
    pub fn from_log(
        log: &dyn EventLog,
        experiment: &ExperimentId,
        round: Option<u32>,
    ) -> Result<Self, ReportError> {
        Self::from_log_with_top(log, experiment, round, TOP_DEFAULT)
    }

    /// Folds like [`ReportData::from_log`], with `top` instead of [`TOP_DEFAULT`].
    ///
    /// # Errors
    /// If the experiment or the round does not exist, or the log cannot be read.
    pub fn from_log_with_top(
        log: &dyn EventLog,
        experiment: &ExperimentId,
        round: Option<u32>,
        top: usize,
    ) -> Result<Self, ReportError> {
        if log.read_stream(experiment, 0, 1)?.is_empty() {
            let known = log.streams()?.into_iter().map(|(name, _)| name).collect();
            return Err(ReportError::UnknownExperiment { experiment: experiment.clone(), known });
        }
        build(&Stream { log, experiment }, experiment, round, top)
    }

    /// Folds like [`ReportData::from_log_with_top`], from the events of one stream.
    ///
    /// # Errors
    /// If the round does not exist, or an event cannot be decoded.
    pub fn from_events(
        events: &[Recorded],
        experiment: &ExperimentId,
        round: Option<u32>,
        top: usize,
    ) -> Result<Self, ReportError> {
        build(events, experiment, round, top)
    }
}

fn build(
    history: &(impl History + ?Sized),
    experiment: &ExperimentId,
    round: Option<u32>,
    top: usize,
) -> Result<ReportData, ReportError> {
    let mut numbers = RoundNumbers::of(history, round)?;
    let plan = numbers.plan.take().ok_or_else(|| ReportError::NoPlan(experiment.clone()))?;
    if let Some(round) = round.filter(|_| numbers.round.is_none()) {
        let opened = numbers.rounds_opened;
        return Err(ReportError::UnknownRound { experiment: experiment.clone(), round, opened });
    }
    let round = numbers.round.unwrap_or(0);
    // Events are in the order in which workers finished; readers expect the order of the prompt file.
    numbers.prompts.sort_by_key(|prompt| prompt.index);
    let prompt_texts = numbers.prompt_texts();
    numbers.note_judged();
    let prompts = &numbers.prompts;
    let null_band = null_band(plan.sampling.samples as usize, plan.seed);
    let kind = plan.conflict.logprob;

    let proxy_top = most_conflicting(prompts, top, |pacs| pacs);
    let policy_top = most_conflicting(prompts, top, |pacs| -pacs);
    let prompt_top = most_conflicting_prompts(prompts, top);
    let mut texts = Texts::default();
    for &(prompt, completion) in proxy_top.iter().chain(&policy_top) {
        for completion in preferred_by_other(prompt, completion, kind).into_iter().chain([completion]) {
            texts.request(&prompt.prompt_id, to_u32(completion));
        }
    }
    prompt_top.iter().for_each(|prompt| texts.request_prompt(&prompt.prompt_id));
    numbers.selected.iter().take(LISTED_MAX).for_each(|pair| texts.request(&pair.prompt_id, pair.completion));
    texts.fetch(history, round)?;

    for pair in numbers.selected.iter_mut().take(LISTED_MAX) {
        pair.excerpt = Some(Excerpt {
            prompt: excerpt(texts.prompt(&pair.prompt_id), EXCERPT_CHARS),
            completion: excerpt(texts.completion(&pair.prompt_id, pair.completion), EXCERPT_CHARS),
        });
    }
    let listed = |top: &[(&PromptFigures, usize)]| -> Vec<ConflictingCompletion> {
        top.iter()
            .map(|&(prompt, completion)| conflicting_completion(prompt, completion, kind, &texts))
            .collect()
    };
    let learning = std::mem::take(&mut numbers.learning).figures(&plan, round, &prompt_texts);
    Ok(ReportData {
        schema: SCHEMA,
        experiment: experiment.clone(),
        round,
        rounds_opened: numbers.rounds_opened,
        status: if numbers.closed { Status::Complete } else { Status::InProgress },
        counts: counts(&numbers, plan.prompts.count),
        figures: figures(prompts, null_band.as_ref()),
        categories: categories(prompts),
        proxy_favours: listed(&proxy_top),
        policy_favours: listed(&policy_top),
        most_conflicting_prompts: prompt_top
            .iter()
            .filter_map(|prompt| conflicting_prompt(prompt, kind, null_band.as_ref(), &texts))
            .collect(),
        tendencies: tendencies::of_prompts(prompts),
        plan,
        null_band,
        selected: numbers.selected,
        set_aside: numbers.set_aside,
        prompts: numbers.prompts,
        learning,
    })
}

fn counts(numbers: &RoundNumbers, planned: u32) -> Counts {
    let mut counts = Counts {
        prompts: if numbers.round.is_some() { numbers.expected } else { planned },
        set_aside: to_u32(numbers.set_aside.len()),
        selected: to_u32(numbers.selected.len()),
        selected_prompts: to_u32(
            numbers.selected.iter().map(|pair| &pair.prompt_id).collect::<HashSet<_>>().len(),
        ),
        ..Counts::default()
    };
    for prompt in &numbers.prompts {
        counts.sampled += u32::from(!prompt.completions.is_empty());
        counts.scored += u32::from(prompt.completions.iter().any(|completion| completion.reward.is_some()));
        counts.measured += u32::from(prompt.state == PromptState::Measured);
        counts.degenerate += u32::from(prompt.degenerate);
        for completion in &prompt.completions {
            counts.completions += 1;
            counts.tokens += u64::from(completion.tokens);
            counts.truncated += u64::from(completion.finish_reason == FinishReason::Length);
        }
    }
    let all = || {
        numbers.prompts.iter().flat_map(|prompt| &prompt.completions).flat_map(|completion| &completion.flags)
    };
    if all().next().is_some() {
        let count = |flag: Flag| (flag, all().filter(|other| **other == flag).count() as u64);
        counts.flags = Flag::ALL.map(count).to_vec();
    }
    counts
}

fn figures(prompts: &[PromptFigures], band: Option<&NullBand>) -> Figures {
    let Some(band) = band else { return Figures::default() };
    let against = |figure: fn(&PromptFigures) -> Option<f64>, noise_mean, noise_sd| {
        let (mean, count) = mean(prompts.iter().filter_map(figure))?;
        Some(AgainstNoise::new(mean, count, noise_mean, noise_sd))
    };
    let noise = &band.mean_abs_pacs;
    let above =
        |prompt: &PromptFigures| prompt.mean_abs_pacs.map(|pacs| f64::from(u8::from(pacs > noise.q95)));
    let measured = || prompts.iter().filter(|prompt| !prompt.degenerate);
    let discordant: u64 = measured().map(|prompt| prompt.discordant).sum();
    let ordered: u64 = discordant + measured().map(|prompt| prompt.concordant).sum::<u64>();
    Figures {
        mean_abs_pacs: against(|prompt| prompt.mean_abs_pacs, noise.mean, noise.sd),
        // tau = 1 − 2·distance.
        kendall_tau: against(|prompt| prompt.kendall_tau, 0.0, 2.0 * band.kendall_tau_distance.sd),
        above_noise_95: mean(prompts.iter().filter_map(above)).map(|(share, _)| share),
        opposed_pairs: (ordered > 0).then(|| discordant as f64 / ordered as f64),
    }
}

/// Returns the mean and the number of values; `None` without values.
fn mean(values: impl Iterator<Item = f64>) -> Option<(f64, u32)> {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| (sum / f64::from(count), count))
}

fn categories(prompts: &[PromptFigures]) -> Vec<CategoryFigures> {
    let mut by_category: BTreeMap<Option<&str>, Vec<&PromptFigures>> = BTreeMap::new();
    for prompt in prompts {
        by_category.entry(prompt.category.as_deref()).or_default().push(prompt);
    }
    if by_category.keys().all(Option::is_none) {
        return Vec::new();
    }
    let figures = by_category.into_iter().filter_map(|(category, prompts)| {
        let (mean_abs_pacs, count) = mean(prompts.iter().filter_map(|prompt| prompt.mean_abs_pacs))?;
        Some(CategoryFigures {
            category: category.map(str::to_owned),
            prompts: count,
            mean_abs_pacs,
            kendall_tau: mean(prompts.iter().filter_map(|prompt| prompt.kendall_tau)).map(|(tau, _)| tau),
            selected: prompts.iter().map(|prompt| selected_completions(prompt)).sum(),
        })
    });
    figures.collect()
}

fn selected_completions(prompt: &PromptFigures) -> u32 {
    to_u32(prompt.completions.iter().filter(|completion| completion.selected).count())
}

/// Returns the `top` completions with the largest positive `conflict(pacs)`; equal values in prompt order.
/// Repeated samples of a prompt are listed once.
fn most_conflicting(
    prompts: &[PromptFigures],
    top: usize,
    conflict: fn(f64) -> f64,
) -> Vec<(&PromptFigures, usize)> {
    let mut candidates: Vec<(f64, &PromptFigures, usize)> = Vec::new();
    for prompt in prompts {
        for (index, completion) in prompt.completions.iter().enumerate() {
            candidates.push((conflict(completion.pacs.unwrap_or(0.0)), prompt, index));
        }
    }
    candidates.retain(|(value, ..)| *value > 0.0);
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut listed: Vec<(&PromptFigures, usize)> = Vec::new();
    for (_, prompt, index) in candidates {
        if listed.len() == top {
            break;
        }
        let repeats = |&(other, earlier): &(&PromptFigures, usize)| {
            std::ptr::eq(other, prompt) && is_same(&other.completions[earlier], &prompt.completions[index])
        };
        if !listed.iter().any(repeats) {
            listed.push((prompt, index));
        }
    }
    listed
}

/// Whether two completions of a prompt have the same figures, as repeated samples have.
fn is_same(a: &CompletionFigures, b: &CompletionFigures) -> bool {
    let bits = |completion: &CompletionFigures| {
        (completion.logprob.to_bits(), completion.reward.map(f64::to_bits), completion.tokens)
    };
    bits(a) == bits(b)
}

fn most_conflicting_prompts(prompts: &[PromptFigures], top: usize) -> Vec<&PromptFigures> {
    let key = |prompt: &PromptFigures| prompt.kendall_tau_distance.zip(prompt.mean_abs_pacs);
    let mut ranked: Vec<(f64, f64, &PromptFigures)> = prompts
        .iter()
        .filter_map(|prompt| key(prompt).map(|(distance, pacs)| (distance, pacs, prompt)))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    ranked.into_iter().take(top).map(|(_, _, prompt)| prompt).collect()
}

/// Returns the completion of the prompt that the other model rates highest; `None` if it is `completion`.
///
/// The other model is the policy if the proxy favours `completion`, and the proxy otherwise.
fn preferred_by_other(prompt: &PromptFigures, completion: usize, kind: LogprobKind) -> Option<usize> {
    let favoured_by_proxy = prompt.completions.get(completion)?.pacs? > 0.0;
    let score = |completion: &CompletionFigures| {
        if favoured_by_proxy {
            completion.logprob_as(kind)
        } else {
            completion.reward.unwrap_or(f64::NEG_INFINITY)
        }
    };
    let best = prompt.completions.iter().enumerate().max_by(|a, b| {
        // Of equal scores, the first counts.
        score(a.1).total_cmp(&score(b.1)).then(b.0.cmp(&a.0))
    });
    best.map(|(index, _)| index).filter(|&index| index != completion)
}

fn conflicting_completion(
    prompt: &PromptFigures,
    completion: usize,
    kind: LogprobKind,
    texts: &Texts,
) -> ConflictingCompletion {
    let preferred = preferred_by_other(prompt, completion, kind);
    ConflictingCompletion {
        prompt_id: prompt.prompt_id.clone(),
        category: prompt.category.clone(),
        prompt: texts.prompt(&prompt.prompt_id).to_owned(),
        kendall_tau: prompt.kendall_tau,
        mean_abs_pacs: prompt.mean_abs_pacs,
        completion: ranked_completion(prompt, completion, kind, texts),
        preferred: preferred.map(|preferred| ranked_completion(prompt, preferred, kind, texts)),
    }
}

fn ranked_completion(
    prompt: &PromptFigures,
    completion: usize,
    kind: LogprobKind,
    texts: &Texts,
) -> RankedCompletion {
    let figures = &prompt.completions[completion];
    let count =
        |is: &dyn Fn(&CompletionFigures) -> bool| to_u32(prompt.completions.iter().filter(|a| is(a)).count());
    RankedCompletion {
        sample: to_u32(completion),
        times: count(&|other| is_same(other, figures)),
        text: texts.completion(&prompt.prompt_id, to_u32(completion)).to_owned(),
        reward_rank: 1 + count(&|other| other.reward > figures.reward),
        logprob_rank: 1 + count(&|other| other.logprob_as(kind) > figures.logprob_as(kind)),
        of: to_u32(prompt.completions.len()),
        figures: figures.clone(),
        explanation: None,
    }
}

fn conflicting_prompt(
    prompt: &PromptFigures,
    kind: LogprobKind,
    band: Option<&NullBand>,
    texts: &Texts,
) -> Option<ConflictingPrompt> {
    let kendall_tau_distance = prompt.kendall_tau_distance?;
    Some(ConflictingPrompt {
        prompt_id: prompt.prompt_id.clone(),
        category: prompt.category.clone(),
        excerpt: excerpt(texts.prompt(&prompt.prompt_id), EXCERPT_CHARS),
        kendall_tau_distance,
        kendall_tau: prompt.kendall_tau?,
        mean_abs_pacs: prompt.mean_abs_pacs?,
        noise_at_least: band.map(|band| band.distance_at_least(kendall_tau_distance)),
        selected: selected_completions(prompt),
        certainty: certainty(prompt, kind),
    })
}

/// How sure the conflict of a prompt is; `None` without scores.
fn certainty(prompt: &PromptFigures, kind: LogprobKind) -> Option<Certainty> {
    let rewards: Vec<f64> =
        prompt.completions.iter().map(|completion| completion.reward).collect::<Option<_>>()?;
    let logprobs = |kind| -> Vec<f64> {
        prompt.completions.iter().map(|completion| completion.logprob_as(kind)).collect()
    };
    let resampled = resample(&rewards, &logprobs(kind)).ok()?;
    let other = match kind {
        LogprobKind::Sum => LogprobKind::Mean,
        LogprobKind::Mean => LogprobKind::Sum,
    };
    let by = |kind| measure(&rewards, &logprobs(kind)).ok();
    let differs = between_kinds(&by(kind)?, &by(other)?)?;
    Some(Certainty {
        may_be_chance: resampled.tau_vanishes(),
        kendall_tau: resampled.kendall_tau.map(|tau| [tau.low, tau.high]),
        only_with: differs.tau_vanishes.then_some(kind),
        reward_spread: spread(&rewards),
    })
}

/// The standard deviation of the rewards of a prompt.
fn spread(rewards: &[f64]) -> f64 {
    let count = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / count;
    (rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0)).sqrt()
}

/// Converts a count or an index; the limits on prompts and samples keep it below 2³².
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
