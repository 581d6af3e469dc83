//! Folds the events of an experiment into its tables.

use std::collections::HashMap;
use std::sync::Arc;

use dissent_domain::conflict::{LogprobKind, z_scores};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, EvaluationEvent, Event, ExperimentEvent, FeedbackEvent,
    FeedbackReceived, FeedbackRequested, PairSelected, PolicyEvaluated, PromptEvent, PromptSetAside,
    Recorded, RewardsScored, RoundEvent, TrainingEvent,
};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::EventLog;
use serde_json::Value;

use super::{Cell, Row, TableName};
use crate::history;
use crate::history::pairs::Pairs;

/// The tables of an experiment as of an event.
#[derive(Debug, Default)]
pub(crate) struct ExperimentTables {
    tables: [Vec<Row>; TableName::ALL.len()],
    prompts: HashMap<(u32, PromptId), Prompt>,
    pairs: Pairs,
    logprob: LogprobKind,
    /// The version of the last event.
    version: u64,
}

/// A prompt of a round, as far as its events have come.
#[derive(Debug)]
struct Prompt {
    /// The place of its row.
    place: usize,
    /// The places of its first completion in the tables of completions and of conflicts.
    completions: usize,
    conflicts: Option<usize>,
    category: Cell,
    text: Arc<str>,
    texts: Vec<Arc<str>>,
    logprobs: Vec<f64>,
    rewards: Vec<f64>,
}

/// The place of a column, by its name. Names are those of this file, so it exists.
fn at(table: TableName, name: &str) -> usize {
    table.columns().iter().position(|column| column.name == name).unwrap_or_default()
}

impl ExperimentTables {
    /// Folds the whole history of an experiment.
    ///
    /// # Errors
    /// If the log cannot be read, or an event cannot be decoded.
    pub(crate) fn read(log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<Self> {
        let mut tables = Self::default();
        tables.catch_up(log, experiment)?;
        Ok(tables)
    }

    /// Folds the events that came since.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn catch_up(&mut self, log: &dyn EventLog, experiment: &ExperimentId) -> anyhow::Result<()> {
        /// Each may hold all completions of a prompt.
        const READ_EVENTS: usize = 64;
        loop {
            let read = log.read_stream(experiment, self.version, READ_EVENTS)?;
            read.iter().try_for_each(|recorded| self.apply(recorded))?;
            if read.len() < READ_EVENTS {
                return Ok(());
            }
        }
    }

    /// The number of events so far.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The rows of a table, in the order of their events.
    pub(crate) fn rows(&self, table: TableName) -> &[Row] {
        &self.tables[table as usize]
    }

    #[cfg(test)]
    pub(super) fn rows_mut(&mut self, table: TableName) -> &mut Vec<Row> {
        &mut self.tables[table as usize]
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// If the event cannot be decoded.
    pub(crate) fn apply(&mut self, recorded: &Recorded) -> anyhow::Result<()> {
        self.version = recorded.version;
        self.pairs.apply(recorded)?;
        match recorded.decode()? {
            Event::Experiment(ExperimentEvent::Started(e)) => self.logprob = e.plan.conflict.logprob,
            Event::Experiment(ExperimentEvent::Forked(e)) => self.logprob = e.plan.conflict.logprob,
            Event::Experiment(ExperimentEvent::Finished(_)) | Event::Operator(_) => {}
            Event::Prompt(event) => match event {
                PromptEvent::Sampled(e) => self.sampled(recorded, e),
                PromptEvent::Scored(e) => self.scored(e),
                PromptEvent::Measured(e) => self.measured(recorded, &e),
                PromptEvent::SetAside(e) => self.set_aside(recorded, &e),
                PromptEvent::Admitted(_) => {}
            },
            Event::Round(RoundEvent::PairSelected(e)) => self.selected(&e),
            Event::Round(_) => {}
            Event::Feedback(FeedbackEvent::Requested(e)) => self.requested(recorded, &e),
            Event::Feedback(FeedbackEvent::Received(e)) => self.received(recorded, &e),
            Event::Feedback(FeedbackEvent::Settled(_)) => {}
            Event::Training(e) => self.training(recorded, &e)?,
            Event::Evaluation(EvaluationEvent::PolicyEvaluated(e)) => self.evaluated(recorded, &e),
            Event::Evaluation(_) => {}
        }
        Ok(())
    }

    fn push(
        &mut self,
        table: TableName,
        recorded: &Recorded,
        cells: impl IntoIterator<Item = Cell>,
    ) -> usize {
        let rows = &mut self.tables[table as usize];
        let place = rows.len();
        let origin = [Cell::from(recorded.position), Cell::from(recorded.event.time_us)];
        rows.push(Row { place, cells: origin.into_iter().chain(cells).collect() });
        debug_assert_eq!(rows[place].cells.len(), table.columns().len(), "{table}");
        place
    }

    fn set(&mut self, table: TableName, place: usize, column: &str, value: impl Into<Cell>) {
        if let Some(row) = self.tables[table as usize].get_mut(place) {
            row.cells[at(table, column)] = value.into();
        }
    }

    fn sampled(&mut self, recorded: &Recorded, e: CompletionsSampled) {
        let text: Arc<str> = e.prompt.text.as_str().into();
        let category = Cell::from(e.prompt.category.as_deref());
        let id = Cell::from(e.prompt.prompt_id.as_str());
        let place = self.push(
            TableName::Prompts,
            recorded,
            [
                e.round.into(),
                id.clone(),
                category.clone(),
                (&text).into(),
                "sampled".into(),
                (e.completions.len() as u64).into(),
                Cell::Null,
                Cell::Null,
                Cell::Null,
                Cell::Null,
                0_u32.into(),
                Cell::Null,
            ],
        );
        let policy: Arc<str> = e.policy.as_str().into();
        let completions = self.rows(TableName::Completions).len();
        let mut texts: Vec<Arc<str>> = Vec::with_capacity(e.completions.len());
        for (index, completion) in (0_u32..).zip(&e.completions) {
            let text: Arc<str> = completion.text.as_str().into();
            self.push(
                TableName::Completions,
                recorded,
                [
                    e.round.into(),
                    id.clone(),
                    category.clone(),
                    index.into(),
                    (&text).into(),
                    (completion.token_ids.len() as u64).into(),
                    completion.logprob.into(),
                    completion.logprob_mean().into(),
                    Cell::Null,
                    word(&completion.finish_reason),
                    (&policy).into(),
                ],
            );
            texts.push(text);
        }
        let logprobs = e.completions.iter().map(|completion| completion.logprob_as(self.logprob)).collect();
        let rewards = Vec::new();
        let prompt = Prompt { place, completions, conflicts: None, category, text, texts, logprobs, rewards };
        self.prompts.insert((e.round, e.prompt.prompt_id), prompt);
    }

    fn scored(&mut self, e: RewardsScored) {
        let Some(prompt) = self.prompts.get_mut(&(e.round, e.prompt_id)) else { return };
        let (place, first) = (prompt.place, prompt.completions);
        prompt.rewards.clone_from(&e.rewards);
        self.set(TableName::Prompts, place, "state", "scored");
        for (index, reward) in e.rewards.iter().enumerate() {
            self.set(TableName::Completions, first + index, "reward", *reward);
        }
    }

    fn measured(&mut self, recorded: &Recorded, e: &ConflictMeasured) {
        let key = (e.round, e.prompt_id.clone());
        let Some(mut prompt) = self.prompts.remove(&key) else { return };
        let conflict = &e.conflict;
        for (column, value) in [
            ("state", Cell::from("measured")),
            ("degenerate", conflict.degenerate.into()),
            ("mean_abs_pacs", conflict.mean_abs_pacs.into()),
            ("kendall_tau", conflict.kendall_tau.into()),
            ("kendall_tau_distance", conflict.kendall_tau_distance.into()),
        ] {
            self.set(TableName::Prompts, prompt.place, column, value);
        }
        prompt.conflicts = Some(self.rows(TableName::Conflicts).len());
        let (z_reward, z_logprob) = (z_scores(&prompt.rewards), z_scores(&prompt.logprobs));
        let of = |scores: &Option<Vec<f64>>, index: usize| {
            Cell::from(scores.as_ref().and_then(|scores| scores.get(index).copied()))
        };
        for (index, pacs) in conflict.pacs.iter().enumerate() {
            let cells = [
                e.round.into(),
                e.prompt_id.as_str().into(),
                prompt.category.clone(),
                (index as u64).into(),
                (&prompt.text).into(),
                prompt.texts.get(index).into(),
                prompt.rewards.get(index).copied().into(),
                prompt.logprobs.get(index).copied().into(),
                of(&z_reward, index),
                of(&z_logprob, index),
                (*pacs).into(),
                pacs.abs().into(),
                conflict.kendall_tau_distance.into(),
                false.into(),
                Cell::Null,
            ];
            self.push(TableName::Conflicts, recorded, cells);
        }
        self.prompts.insert(key, prompt);
    }

    fn set_aside(&mut self, recorded: &Recorded, e: &PromptSetAside) {
        let place = match self.prompts.get(&(e.round, e.prompt_id.clone())) {
            Some(prompt) => prompt.place,
            // Set aside before its completions.
            None => {
                let before = [e.round.into(), e.prompt_id.as_str().into()];
                let empty = std::iter::repeat_n(Cell::Null, TableName::Prompts.columns().len() - 4);
                self.push(TableName::Prompts, recorded, before.into_iter().chain(empty))
            }
        };
        self.set(TableName::Prompts, place, "state", "set aside");
        self.set(TableName::Prompts, place, "reason", e.reason.as_str());
    }

    fn selected(&mut self, e: &PairSelected) {
        let Some(prompt) = self.prompts.get(&(e.round, e.prompt_id.clone())) else { return };
        let (place, conflicts) = (prompt.place, prompt.conflicts);
        let column = at(TableName::Prompts, "selected");
        if let Some(Cell::Int(count)) =
            self.tables[TableName::Prompts as usize].get_mut(place).map(|row| &mut row.cells[column])
        {
            *count += 1;
        }
        if let Some(first) = conflicts {
            self.set(TableName::Conflicts, first + e.completion as usize, "selected", true);
        }
    }

    fn requested(&mut self, recorded: &Recorded, e: &FeedbackRequested) {
        let texts = self.pairs.texts(e.round, &e.prompt_id).cloned().unwrap_or_default();
        let prompt = self.prompts.get(&(e.round, e.prompt_id.clone()));
        let logprobs = match self.logprob {
            LogprobKind::Sum => &texts.logprobs,
            LogprobKind::Mean => &texts.logprob_means,
        };
        let of = |scores: &[f64], index: u32| Cell::from(scores.get(index as usize).copied());
        let text = |index: u32| Cell::from(prompt.and_then(|prompt| prompt.texts.get(index as usize)));
        let cells = [
            e.round.into(),
            e.comparison.into(),
            e.prompt_id.as_str().into(),
            texts.category.as_deref().into(),
            prompt.map(|prompt| &prompt.text).into(),
            e.first.into(),
            e.second.into(),
            text(e.first),
            text(e.second),
            of(&texts.rewards, e.first),
            of(&texts.rewards, e.second),
            of(logprobs, e.first),
            of(logprobs, e.second),
            of(&texts.pacs, e.first),
            of(&texts.pacs, e.second),
            0_u32.into(),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            Cell::Null,
            e.propensity.unwrap_or(1.0).into(),
            e.propensity.is_some().into(),
            e.is_focus.into(),
        ];
        self.push(TableName::Comparisons, recorded, cells);
    }

    fn received(&mut self, recorded: &Recorded, e: &FeedbackReceived) {
        self.push(
            TableName::Judgements,
            recorded,
            [
                e.round.into(),
                e.comparison.into(),
                e.annotator.as_str().into(),
                word(&e.verdict),
                e.is_unsafe.map(|[first, _]| first).into(),
                e.is_unsafe.map(|[_, second]| second).into(),
                e.comment.as_deref().into(),
            ],
        );
        let Some((place, pair)) = self.pairs.of(e.round, e.comparison) else { return };
        let outcome = Cell::from(self.pairs.outcome(pair).map(dissent_domain::outcome::Outcome::name));
        let is_unsafe = pair.is_unsafe();
        let judged = [
            ("judgements", Cell::from(pair.judgements.len() as u64)),
            ("verdict", pair.verdict().map_or(Cell::Null, |verdict| word(&verdict))),
            ("first_unsafe", is_unsafe.map(|[first, _]| first).into()),
            ("second_unsafe", is_unsafe.map(|[_, second]| second).into()),
            ("outcome", outcome.clone()),
        ];
        let request = &pair.request;
        let prompt = self.prompts.get(&(request.round, request.prompt_id.clone()));
        let conflicts = prompt.and_then(|prompt| prompt.conflicts);
        let completions = [request.first, request.second];
        for (column, value) in judged {
            self.set(TableName::Comparisons, place, column, value);
        }
        for completion in completions {
            if let Some(first) = conflicts {
                self.set(TableName::Conflicts, first + completion as usize, "outcome", outcome.clone());
            }
        }
    }

    fn training(&mut self, recorded: &Recorded, event: &TrainingEvent) -> anyhow::Result<()> {
        // The rows of `dissent log export`, whose names and values these are.
        let row = history::table::training_row(event)?;
        let text = |name: &str| Cell::from(row.get(name).and_then(Value::as_str));
        let int = |name: &str| Cell::from(row.get(name).and_then(Value::as_u64));
        let listed = |name: &str| row.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let metrics: serde_json::Map<String, Value> = (listed("metric_names").into_iter())
            .zip(listed("metric_values"))
            .filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value)))
            .collect();
        let metrics = (!metrics.is_empty()).then(|| Value::Object(metrics).to_string());
        let cells = [
            int("round"),
            text("event"),
            text("stage"),
            int("attempt"),
            text("worker"),
            int("step"),
            int("steps"),
            text("fingerprint"),
            metrics.as_deref().into(),
        ];
        self.push(TableName::Trainings, recorded, cells);
        Ok(())
    }

    fn evaluated(&mut self, recorded: &Recorded, e: &PolicyEvaluated) {
        let cells = [
            e.evaluation.into(),
            e.policy.as_str().into(),
            e.reward_model.as_str().into(),
            e.prompts.into(),
            e.completions.into(),
            e.gold_reward.map(|[mean, _]| mean).into(),
            e.gold_reward.map(|[_, error]| error).into(),
            e.proxy_reward[0].into(),
            e.proxy_reward[1].into(),
            e.refined_reward[0].into(),
            e.refined_reward[1].into(),
            e.proxy_agreement.into(),
            e.refined_agreement.into(),
            e.mean_abs_pacs.into(),
            e.kendall_tau.into(),
            e.kl.into(),
            e.response_tokens.into(),
            e.stopped.into(),
        ];
        self.push(TableName::Evaluations, recorded, cells);
    }
}

/// The word by which events name a value.
fn word(value: &impl serde::Serialize) -> Cell {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => Cell::from(word.as_str()),
        _ => Cell::Null,
    }
}
