//! Policies that sample with packed weights.

use dissent_domain::event::CompletionsSampled;
use dissent_domain::weight_form::WeightForm;
use dissent_models::generation::{GenerationJob, Generator};
use dissent_models::scoring::{PolicyScorer, ScoreItem};

use super::*;

/// Returns a fixture whose policy samples with int8 weights.
fn int8_fixture() -> Option<Fixture> {
    let mut fixture = Fixture::new()?;
    let checkpoint = opened(WeightForm::Int8);
    assert!(checkpoint.weights.packed_count() > 0);
    fixture.policy.sampling = Some(checkpoint);
    Some(fixture)
}

fn sampled(fixture: &Fixture) -> Vec<CompletionsSampled> {
    fixture.of_kind(EventType::CompletionsSampled).into_iter().map(|e| e.try_into().unwrap()).collect()
}

#[test]
fn completions_of_packed_weights_have_the_log_probabilities_of_f32() {
    run_with(int8_fixture(), async |fixture| {
        let mut plan = fixture.plan(1, FeedbackSource::Oracle);
        plan.policy.weights = WeightForm::Int8;
        fixture.finish(&plan, fixture.trainer(Fault::None)).await;
        let Base { runtime, checkpoint, sampling, options, .. } = &fixture.policy;
        let (sampling, cancel) = (sampling.as_ref().unwrap(), CancelFlag::new());
        let mut generator = Generator::open(runtime, sampling, None, options).unwrap();
        let mut scorer = PolicyScorer::open(runtime, checkpoint, None, options).unwrap();
        let mut moved = 0.0_f64;
        for event in sampled(fixture) {
            let seed = |sample| {
                let (name, prompt) = (plan.sampling_key(), &event.prompt.prompt_id);
                dissent_domain::generation::sample_seed(name, plan.seed, event.round, prompt, sample)
            };
            let job = GenerationJob {
                prompt_ids: event.prompt_token_ids.clone(),
                seeds: (0..plan.sampling.samples).map(seed).collect(),
            };
            let own = generator.generate(&[job], &plan.sampling, &cancel, &mut |_| ()).unwrap().remove(0);
            for (recorded, own) in event.completions.iter().zip(own) {
                assert_eq!(recorded.token_ids, own.token_ids, "the packed weights sample");
                let item = ScoreItem {
                    prompt_ids: event.prompt_token_ids.clone(),
                    completion_ids: own.token_ids.clone(),
                };
                let scores = scorer.score(&[item], &cancel, &mut |_| ()).unwrap().remove(0);
                let expected: f64 = scores.into_iter().map(f64::from).sum();
                assert_eq!(recorded.logprob.to_bits(), expected.to_bits(), "weights f32 score");
                moved = moved.max((own.logprob - expected).abs());
            }
        }
        assert!(moved > 1e-3, "packed weights are another policy: {moved}");
        let again = recompute::recomputed(fixture, &fixture.log, &plan, fixture.trainer(Fault::None));
        assert_eq!(again.differences, [], "recomputing reproduces every result");
    });
}
