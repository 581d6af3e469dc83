//! Golden bytes of every event version. A failing test means that this program cannot read old logs: add a
//! version and an upcast, and never change these files.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use dissent_domain::conflict::{LogprobKind, SelectionSettings, measure};
use dissent_domain::event::{
    CompletionsSampled, ConflictMeasured, EvaluationRequested, Event, EventType, ExperimentCancelled,
    ExperimentFinished, ExperimentForked, ExperimentPaused, ExperimentResumed, ExperimentStarted,
    FeedbackReceived, FeedbackRequested, FeedbackSettled, FiguresByPrompt, PairSelected, PolicyEvaluated,
    PolicyTuned, PromptAdmitted, PromptSetAside, RewardHackingSuspected, RewardModelRefined, RewardsScored,
    RoundClosed, RoundEvaluated, RoundOpened, Stage, StepName, StopDecided, StopReason, TrainingLeaseExpired,
    TrainingProgressed, TrainingRequested, TrainingStarted, decode, encode,
};
use dissent_domain::feedback::{Agreement, Verdict};
use dissent_domain::flags::Flag;
use dissent_domain::generation::{Completion, FinishReason, SamplingParams};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::plan::{ConflictPlan, Plan, PolicyPlan, PromptSource, RewardPlan};
use dissent_domain::prompt::Prompt;
use dissent_domain::reward::RewardKind;
use dissent_domain::weight_form::WeightForm;

fn prompt() -> Prompt {
    Prompt {
        prompt_id: PromptId::new("p1").unwrap(),
        text: "Is it \"safe\"? ✓".into(),
        category: Some("borderline".into()),
        messages: Vec::new(),
    }
}

fn started() -> ExperimentStarted {
    ExperimentStarted {
        program: Some("0.1.0".into()),
        plan: Plan {
            experiment: ExperimentId::new("golden").unwrap(),
            seed: u64::MAX,
            rounds: 2,
            prompts: PromptSource { artifact: "ab".repeat(32), count: 3 },
            policy: PolicyPlan {
                name: "policy".into(),
                fingerprint: "f1".into(),
                template: "chat".into(),
                weights: WeightForm::F32,
            },
            reward: RewardPlan {
                name: "proxy".into(),
                fingerprint: "f2".into(),
                template: "{prompt}\n{completion}".into(),
                kind: RewardKind::Cost,
                output: None,
            },
            sampling: SamplingParams {
                samples: 3,
                temperature: 0.5,
                top_p: 0.9,
                top_k: 40,
                max_new_tokens: 16,
                stop: Vec::new(),
            },
            conflict: ConflictPlan {
                logprob: LogprobKind::Mean,
                selection: SelectionSettings {
                    budget: Some(9),
                    tau: Some(0.25),
                    ..SelectionSettings::default()
                },
            },
            learning: None,
            reading_rules: 1,
            sampling_key: None,
        },
    }
}

/// One event of each type, in its newest version.
fn newest() -> Vec<Event> {
    let prompt_id = prompt().prompt_id;
    let completion = |logprob, finish_reason| Completion {
        token_ids: vec![0, 127, 128, 65_535, 70_000],
        text: "no\u{7}".into(),
        logprob,
        finish_reason,
    };
    let conflict = measure(&[1.0, 2.0, 3.5], &[-3.0, -2.0, -10.25]).unwrap();
    vec![
        started().into(),
        ExperimentForked {
            origin: ExperimentId::new("origin").unwrap(),
            position: 70_000,
            shared: 12,
            plan: started().plan,
        }
        .into(),
        RoundOpened { round: 0, prompts: 3 }.into(),
        PromptAdmitted { round: 0, index: 2, prompt: prompt() }.into(),
        CompletionsSampled {
            round: 0,
            prompt: prompt(),
            policy: "f1".into(),
            prompt_token_ids: vec![1, 2],
            completions: vec![completion(-12.5, FinishReason::Stop), completion(-0.1, FinishReason::Length)],
        }
        .into(),
        RewardsScored {
            round: 0,
            prompt_id: prompt_id.clone(),
            reward_model: "f2".into(),
            rewards: vec![-1.0, 0.0, 1e300],
        }
        .into(),
        ConflictMeasured { round: 0, prompt_id: prompt_id.clone(), conflict, flags: Vec::new() }.into(),
        PromptSetAside {
            round: 1,
            prompt_id: prompt_id.clone(),
            step: StepName::Generation,
            reason: "the prompt has 9000 tokens".into(),
        }
        .into(),
        PairSelected { round: 0, prompt_id, completion: 1, pacs: -1.25 }.into(),
        RoundEvaluated {
            round: 0,
            measured: 2,
            degenerate: 1,
            set_aside: 1,
            selected: 4,
            mean_abs_pacs: Some(1.125),
            kendall_tau: None,
        }
        .into(),
        RoundClosed { round: 0 }.into(),
        ExperimentFinished { rounds: 2 }.into(),
    ]
    .into_iter()
    .chain(feedback())
    .chain(training())
    .chain(evaluation())
    .collect()
}

fn feedback() -> Vec<Event> {
    let agreement = Agreement { observed: Some(0.75), fleiss_kappa: None, krippendorff_alpha: Some(-0.125) };
    vec![
        FeedbackRequested {
            round: 1,
            comparison: 300,
            prompt_id: prompt().prompt_id,
            prompt_index: 2,
            first: 7,
            second: 0,
            propensity: None,
            is_focus: false,
        }
        .into(),
        FeedbackReceived {
            round: 1,
            comparison: 300,
            annotator: "Zoë".into(),
            verdict: Verdict::Second,
            is_unsafe: Some([true, false]),
            comment: Some("=1+1".into()),
        }
        .into(),
        FeedbackSettled {
            round: 1,
            comparisons: 301,
            judgements: 602,
            preferences: 250,
            ties: 51,
            contradicted: 99,
            agreement,
        }
        .into(),
    ]
}

fn metrics() -> BTreeMap<String, f64> {
    BTreeMap::from([("loss".to_owned(), 0.625), ("rewards/margins".to_owned(), -1.0)])
}

fn training() -> Vec<Event> {
    let (round, attempt) = (1, 2);
    vec![
        TrainingRequested { round, stage: Stage::Reward, attempt, resume_from: Some("cd".repeat(32)) }.into(),
        TrainingStarted { round, stage: Stage::Policy, attempt, worker: "host:1".into(), lease_ms: 60_000 }
            .into(),
        TrainingProgressed {
            round,
            stage: Stage::Policy,
            attempt,
            sequence: 70_000,
            step: 5,
            steps: 10,
            checkpoint: None,
            metrics: metrics(),
        }
        .into(),
        TrainingLeaseExpired { round, stage: Stage::Policy, attempt }.into(),
        RewardModelRefined {
            round,
            attempt,
            adapter: "ef".repeat(32),
            fingerprint: "f3".into(),
            preferences: 250,
            rehearsed: 1000,
            metrics: metrics(),
        }
        .into(),
        PolicyTuned {
            round,
            attempt,
            adapter: "01".repeat(32),
            fingerprint: "f4".into(),
            metrics: BTreeMap::new(),
        }
        .into(),
    ]
}

fn evaluation() -> Vec<Event> {
    vec![
        EvaluationRequested { evaluation: 2 }.into(),
        PolicyEvaluated {
            evaluation: 2,
            policy: "f4".into(),
            reward_model: "f3".into(),
            prompts: 40,
            completions: 160,
            gold_reward: Some([0.5, 0.03125]),
            proxy_reward: [-1.5, 0.25],
            refined_reward: [2.0, 0.125],
            proxy_agreement: Some(0.625),
            refined_agreement: None,
            mean_abs_pacs: Some(1.125),
            kendall_tau: None,
            kl: -0.0625,
            response_tokens: 31.5,
            stopped: 0.875,
            samples: None,
            by_prompt: None,
        }
        .into(),
        RewardHackingSuspected { round: 1, signs: vec!["the proxy reward rose".into(), String::new()] }
            .into(),
        StopDecided { round: 1, reason: StopReason::GoldReward }.into(),
        ExperimentPaused { number: 7, by: "ann".into(), reason: Some("the GPU is needed ✓".into()) }.into(),
        ExperimentResumed { number: 7, by: "bob".into(), reason: None }.into(),
        ExperimentCancelled { by: String::new(), reason: Some("it was the wrong data".into()) }.into(),
    ]
}

/// The events that have further fields since version 0.2, with a value in each. Without them the bytes are
/// those of [`newest`].
fn with_further_fields() -> Vec<Event> {
    let prompts = ["p1", "p2"].map(|id| PromptId::new(id).unwrap());
    let mut plan = serde_json::to_value(started().plan).unwrap();
    let prompt_source = serde_json::json!({"artifact": "cd".repeat(32), "count": 2});
    plan["learning"] = serde_json::json!({
        "feedback": {
            "source": "people", "opponent": "conflict", "overlap": 2, "budget": 40, "audit": 0.15,
            "degenerate": "skip", "focus": {"round": 1, "topic": "salt, pepper", "prompts": prompts, "pairs": 20},
        },
        "refinement": {"original": null, "hyperparameters": {}},
        "tuning": {"objective": {}, "hyperparameters": {}},
        "evaluation": {"prompts": prompt_source, "samples": 2, "gold": null},
        "guards": {},
    });
    plan["sampling_key"] = "dissent".into();
    plan["reading_rules"] = 2.into();
    let of = |kind: EventType| newest().into_iter().find(|event| event.event_type() == kind).unwrap();
    let mut started = started();
    started.plan = serde_json::from_value(plan).unwrap();
    let mut measured = ConflictMeasured::try_from(of(EventType::ConflictMeasured)).unwrap();
    measured.flags = vec![vec![Flag::Repetition, Flag::Cut], vec![], vec![Flag::Language]];
    let mut requested = FeedbackRequested::try_from(of(EventType::FeedbackRequested)).unwrap();
    (requested.propensity, requested.is_focus) = (Some(0.03125), true);
    let mut evaluated = PolicyEvaluated::try_from(of(EventType::PolicyEvaluated)).unwrap();
    evaluated.samples = Some("ef".repeat(32));
    evaluated.by_prompt = Some(Box::new(FiguresByPrompt {
        prompts: prompts.to_vec(),
        gold_reward: vec![0.5, -0.25],
        proxy_reward: vec![-1.5, 2.0],
        refined_reward: vec![0.125, 3.0],
        kl: vec![0.0, 4.5],
        response_tokens: vec![16.0, 1.5],
        stopped: vec![1.0, 0.5],
        ordered: vec![6, 300],
        proxy_agreed: vec![3, 0],
        refined_agreed: vec![4, 70_000],
        first_refined_agreed: vec![5, 1],
    }));
    vec![started.into(), measured.into(), requested.into(), evaluated.into()]
}

fn golden_path(kind: EventType, version: u16) -> PathBuf {
    let name = format!("{}.v{version}.hex", kind.name());
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn every_event_type_has_golden_bytes() {
    let mut covered: Vec<EventType> = newest().iter().map(Event::event_type).collect();
    covered.sort();
    assert_eq!(covered, EventType::ALL);
}

#[test]
fn the_newest_version_decodes_to_the_encoded_event() {
    for event in newest() {
        let kind = event.event_type();
        let path = golden_path(kind, kind.version());
        if std::env::var_os("DISSENT_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, hex(&encode(&event).unwrap())).unwrap();
        }
        assert_eq!(decoded(kind, kind.version()), event);
    }
}

#[test]
fn further_fields_of_version_0_2_have_golden_bytes() {
    let events = with_further_fields();
    assert_eq!(events.len(), 4);
    for event in events {
        let kind = event.event_type();
        let file = format!("tests/golden/{}.v{}.further-fields.hex", kind.name(), kind.version());
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
        let encoded = encode(&event).unwrap();
        if std::env::var_os("DISSENT_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, hex(&encoded)).unwrap();
        }
        let golden = bytes(std::fs::read_to_string(&path).unwrap().trim());
        assert_eq!(decode(kind.name(), kind.version(), &golden).unwrap(), event);
        assert!(encoded.len() > bytes(&plain(kind)).len(), "{} has no further field", kind.name());
    }
}

/// The golden bytes without further fields, as hexadecimal digits.
fn plain(kind: EventType) -> String {
    std::fs::read_to_string(golden_path(kind, kind.version())).unwrap().trim().to_owned()
}

/// Decodes the golden bytes of a version.
fn decoded(kind: EventType, version: u16) -> Event {
    let golden = std::fs::read_to_string(golden_path(kind, version)).unwrap();
    decode(kind.name(), version, &bytes(golden.trim())).unwrap()
}

#[test]
fn version_1_of_a_start_names_no_program() {
    let started = ExperimentStarted { program: None, ..started() };
    assert_eq!(decoded(EventType::ExperimentStarted, 1), started.into());
}

#[test]
fn every_version_has_golden_bytes() {
    for kind in EventType::ALL {
        for version in 1..=kind.version() {
            assert!(golden_path(*kind, version).is_file(), "{} v{version}", kind.name());
            decoded(*kind, version);
        }
    }
}

#[test]
fn an_old_version_rejects_newer_fields() {
    let body = encode(&started().into()).unwrap();
    assert!(decode("experiment.started", 1, &body).is_err(), "version 1 named no program");
}

#[test]
fn an_unknown_type_or_version_is_an_error_that_names_it() {
    let error = decode("training.finished", 1, &[]).unwrap_err().to_string();
    assert!(error.contains("training.finished"), "{error}");
    assert!(decode("round.closed", 0, &[]).unwrap_err().to_string().contains("version 0"));
    let error = decode("round.closed", 9, &[]).unwrap_err().to_string();
    assert!(error.contains("version 9"), "{error}");
}

#[test]
fn a_truncated_body_is_an_error_without_panic() {
    for event in newest() {
        let body = encode(&event).unwrap();
        for end in 0..body.len() {
            let kind = event.event_type();
            assert!(decode(kind.name(), kind.version(), &body[..end]).is_err());
        }
    }
}
