//! `dissent run`: an experiment to its end, in the foreground.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dissent_actors::{Pipeline, PipelineError, Policy, Proxy, Resources};
use dissent_domain::event::Event;
use dissent_domain::experiment::{Plan, finished_id};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_models::generation::Generator;
use dissent_models::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;
use dissent_queues::{EmbeddedBroker, EmbeddedOptions};
use dissent_storage::{ArtifactStore, SledLog, SledOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{BadInput, Interrupted};
use super::progress::ProgressView;
use crate::config::Config;
use crate::planning::{self, Models};
use crate::report;

/// How long what is in hand may take after the first signal.
const GRACE: Duration = Duration::from_secs(8);
const GO_ON: &str = "run the same command again to go on";

/// Run an experiment to its end, or go on where it stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent run experiment.toml
  dissent run experiment.toml --provider cuda
  DISSENT_LOG=info dissent run experiment.toml 2> run.log

Configuration (* is needed; relative paths start at the file's folder, `cache:` at the cache folder):
  [experiment]  name*, seed = 0, rounds = 1, data_dir
  [prompts]     path*: JSON lines of {\"prompt_id\"?, \"prompt\", \"category\"?}
  [policy]      path*, adapter, template = \"chat\"
  [reward]      path*, layers, adapter, template = \"chat\", kind = \"reward\" or \"cost\"
  [generation]  samples = 8, temperature = 0.7, top_p = 1.0, top_k = 0, max_new_tokens = 128, batch_prompts = 4
  [conflict]    rule = \"paper\", \"mean\", \"budget\", \"quantile\" or \"random\", delta, tau, budget, quantile = 0.9,
                logprob = \"sum\" or \"mean\"
  [runtime]     provider = \"auto\", \"cpu\" or \"cuda\", threads = 0, onnxruntime

Press Ctrl-C to stop: what is in hand is finished (a second Ctrl-C gives it up), everything done is kept, and the
same command goes on from there. The result is the same as without the stop.")]
pub(crate) struct RunArgs {
    /// The experiment's configuration.
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Where models run: cpu, cuda or auto. Overrides the configuration.
    #[arg(long)]
    provider: Option<Provider>,
    /// Threads of one model run; 0: one for each physical core. Overrides the configuration.
    #[arg(long)]
    threads: Option<usize>,
    /// Prompts worked on at once: speed only, the result is the same. Overrides the configuration.
    #[arg(long)]
    batch_prompts: Option<usize>,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(data_dir: Option<&Path>, args: &RunArgs) -> anyhow::Result<()> {
    let config = configured(args)?;
    let data_dir = super::data_dir(data_dir.or(config.experiment.data_dir.as_deref()));
    let log: Arc<dyn EventLog> = Arc::new(SledLog::open(super::log_dir(&data_dir), &SledOptions::default())?);
    let artifacts = ArtifactStore::open(data_dir.join("artifacts"))?;
    let view = ProgressView::new();
    view.say("opening the models");
    let models = Models::open(&config)?;
    let (plan, prompts) = planning::plan(&config, &models, &artifacts)?;
    refuse_another_plan(&*log, &plan)?;
    if log.find(finished_id(&plan))?.is_none() {
        let (runtime, options) = crate::loading::runtime(&config.runtime, rows(&config))?;
        view.say("starting the policy and the proxy reward model");
        let policy = open_policy(&config, &models, runtime, &options)?;
        let proxy = open_proxy(&config, &models, runtime, &options)?;
        let broker = Arc::new(EmbeddedBroker::new(log.clone(), EmbeddedOptions::default()));
        let resources = Resources { log: log.clone(), broker, prompts, policy, proxy };
        actix::System::new().block_on(drive(&plan, resources, &view))?;
    }
    drop(view);
    conclude(&*log, &plan.experiment, &data_dir, args.json)
}

fn configured(args: &RunArgs) -> anyhow::Result<Config> {
    let mut config = Config::load(&args.config)?;
    config.runtime.provider = args.provider.unwrap_or(config.runtime.provider);
    config.runtime.threads = args.threads.unwrap_or(config.runtime.threads);
    config.generation.batch_prompts = args.batch_prompts.unwrap_or(config.generation.batch_prompts);
    config.validate().map_err(BadInput)?;
    Ok(config)
}

/// Completions decoded together: all of a batch.
fn rows(config: &Config) -> usize {
    config.generation.batch_prompts.saturating_mul(config.generation.samples as usize).min(ROWS_MAX)
}

/// Beyond this many rows a step is bound by computing, not by reading the weights, and more rows gain little.
const ROWS_MAX: usize = 32;

fn open_policy(
    config: &Config,
    models: &Models,
    runtime: &'static OnnxRuntime,
    options: &SessionOptions,
) -> anyhow::Result<Policy> {
    let model = &models.policy;
    let template: PromptTemplate = config.policy.template.parse()?;
    // What fails for every prompt is a mistake in the configuration, not in the prompts.
    template.render_prompt(&model.checkpoint.tokenizer, "prompt").context("policy.template")?;
    let generator = Generator::open(runtime, &model.checkpoint, model.adapter.as_ref(), options)
        .with_context(|| format!("failed to start the policy {}", model.name))?;
    Ok(Policy {
        generator,
        tokenizer: model.tokenizer(),
        template,
        fingerprint: model.fingerprint.clone(),
        batch_prompts: config.generation.batch_prompts,
    })
}

fn open_proxy(
    config: &Config,
    models: &Models,
    runtime: &'static OnnxRuntime,
    options: &SessionOptions,
) -> anyhow::Result<Proxy> {
    let model = &models.reward;
    let template: PromptTemplate = config.reward.template.parse()?;
    template.render_whole(&model.checkpoint.tokenizer, "prompt", "answer").context("reward.template")?;
    let reward_model = RewardModel::open(runtime, &model.checkpoint, model.adapter.as_ref(), options)
        .with_context(|| format!("failed to start the reward model {}", model.name))?;
    Ok(Proxy {
        model: reward_model,
        tokenizer: model.tokenizer(),
        template,
        fingerprint: model.fingerprint.clone(),
        kind: config.reward.kind,
    })
}

/// A recorded experiment is never continued with other settings: its results would be of neither.
fn refuse_another_plan(log: &dyn EventLog, plan: &Plan) -> anyhow::Result<()> {
    let Some(first) = log.read_stream(&plan.experiment, 0, 1)?.into_iter().next() else { return Ok(()) };
    let Event::ExperimentStarted(started) = first.decode()? else {
        anyhow::bail!("the stream of {} does not begin with its start", plan.experiment)
    };
    match planning::difference(&started.plan, plan) {
        None => Ok(()),
        Some(difference) => Err(BadInput(format!(
            "the experiment {} was begun with another plan ({difference}): give the new one another name, or \
             restore the old configuration to go on",
            plan.experiment
        ))
        .into()),
    }
}

/// Runs the pipeline until the experiment is finished, fails, or is interrupted; always drains.
async fn drive(plan: &Plan, resources: Resources, view: &ProgressView) -> anyhow::Result<()> {
    let mut pipeline = Pipeline::start(plan, resources).await?;
    let cancel = pipeline.cancel_handle();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let showing = actix::spawn(view.follow(pipeline.progress(), pipeline.meter()));
    let outcome: Result<(), anyhow::Error> = tokio::select! {
        finished = pipeline.finished() => finished.map_err(Into::into),
        _ = interrupt.recv() => Err(Interrupted(GO_ON).into()),
        _ = terminate.recv() => Err(Interrupted(GO_ON).into()),
    };
    showing.abort();
    if outcome.is_err() {
        view.say("stopping: finishing what is in hand (press Ctrl-C again to give it up)");
        let failed =
            matches!(outcome.as_ref().map_err(|e| e.downcast_ref()), Err(Some(PipelineError::Failed(_))));
        actix::spawn(give_up(cancel, interrupt, if failed { Duration::ZERO } else { GRACE }));
    }
    let drained = pipeline.drain().await;
    outcome?;
    Ok(drained?)
}

/// Gives up what is being computed on a second Ctrl-C, or when the grace is over.
async fn give_up(cancel: CancelFlag, mut interrupt: tokio::signal::unix::Signal, grace: Duration) {
    let _ = tokio::time::timeout(grace, interrupt.recv()).await;
    cancel.cancel();
}

fn conclude(
    log: &dyn EventLog,
    experiment: &ExperimentId,
    data_dir: &Path,
    json: bool,
) -> anyhow::Result<()> {
    let data = report::ReportData::from_log(log, experiment, None)?;
    let path = super::report_path(data_dir, experiment);
    report::write_html(&data, &path)?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &report::summary_json(&data, &path))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}\nreport: {}", report::summary(&data), shown(&path).display())?;
    }
    // A run of which nothing came should not look to a script like one that went well.
    anyhow::ensure!(
        data.counts.measured > 0 || data.set_aside.is_empty(),
        "every prompt was set aside and nothing was measured: once the reasons are gone, run it under another name"
    );
    Ok(())
}

/// As short as it can be said from where the user is, and without the detours of a configuration's paths.
fn shown(path: &Path) -> PathBuf {
    let Ok(path) = path.canonicalize() else { return path.to_owned() };
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).map(Path::to_owned).unwrap_or(path)
}
