//! Why the models disagree: the policy's log-probability of each token, and the proxy's reward without each
//! sentence. The models of the reported round run again on the completions at the top of a report.

mod models;
mod sentences;
mod tokens;

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use dissent_domain::event::{CompletionsSampled, Event, PromptEvent};
use dissent_domain::id::PromptId;
use dissent_domain::log::EventLog;
use dissent_models::runtime::CancelFlag;

use crate::config::Config;
use crate::history;
use crate::progress::CountingView;
use crate::report::{ConflictingCompletion, Explanation, RankedCompletion, ReportData, SentenceEffect};
use models::RoundModels;

/// Explains the first `top` completions that the proxy favours and that the policy favours, and those beside
/// them. `config` names the models of the experiment, `data_dir` holds its artifacts.
///
/// # Errors
/// If a model cannot be opened or is not that of the round, or a run of it fails or is cancelled.
pub(crate) fn explain(
    data: &mut ReportData,
    top: usize,
    log: &dyn EventLog,
    config: &Config,
    data_dir: &Path,
    cancel: &CancelFlag,
) -> anyhow::Result<()> {
    let listed = || data.proxy_favours.iter().take(top).chain(data.policy_favours.iter().take(top));
    let mut texts: HashMap<PromptId, Option<CompletionsSampled>> =
        listed().map(|case| (case.prompt_id.clone(), None)).collect();
    if texts.is_empty() {
        return Ok(());
    }
    let round = data.round;
    history::each(log, &data.experiment, None, &mut |recorded| {
        if let Event::Prompt(PromptEvent::Sampled(e)) = recorded.decode()?
            && e.round == round
            && let Some(of_prompt) = texts.get_mut(&e.prompt.prompt_id)
        {
            *of_prompt = Some(e);
        }
        Ok(())
    })?;
    let mut models = RoundModels::open(log, &data.experiment, round, config, data_dir)?;
    let mut bar = CountingView::new(listed().count() as u64, "conflicts");
    for cases in [&mut data.proxy_favours, &mut data.policy_favours] {
        for case in cases.iter_mut().take(top) {
            let sampled = texts.get(&case.prompt_id).and_then(Option::as_ref);
            let sampled = sampled.with_context(|| format!("{} has no completions", case.prompt_id))?;
            explain_case(case, sampled, &mut models, cancel)
                .with_context(|| format!("prompt {}", case.prompt_id))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn explain_case(
    case: &mut ConflictingCompletion,
    sampled: &CompletionsSampled,
    models: &mut RoundModels,
    cancel: &CancelFlag,
) -> anyhow::Result<()> {
    for shown in [Some(&mut case.completion), case.preferred.as_mut()].into_iter().flatten() {
        let explanation = explanation(shown, sampled, models, cancel)?;
        shown.explanation = Some(explanation);
    }
    Ok(())
}

fn explanation(
    shown: &RankedCompletion,
    sampled: &CompletionsSampled,
    models: &mut RoundModels,
    cancel: &CancelFlag,
) -> anyhow::Result<Explanation> {
    let completion =
        sampled.completions.get(shown.sample as usize).context("the completion is not recorded")?;
    let logprobs = models.logprobs(&sampled.prompt_token_ids, &completion.token_ids, cancel)?;
    let tokens = tokens::tokens(models.tokenizer(), &completion.token_ids, &logprobs)?;
    let sentences = sentences::sentences(&completion.text);
    let texts: Vec<String> = std::iter::once(completion.text.clone())
        .chain((0..sentences.len()).map(|index| sentences::without(&sentences, index)))
        .collect();
    let rewards = models.rewards(&sampled.prompt, &texts, cancel)?;
    let whole = rewards.first().copied().context("no reward")?;
    let effect = |(sentence, without): (&&str, &f64)| SentenceEffect {
        sentence: (*sentence).to_owned(),
        effect: whole - without,
    };
    Ok(Explanation { tokens, sentences: sentences.iter().zip(&rewards[1..]).map(effect).collect() })
}
