//! Tests of the comparison of opponents.

use super::*;

/// A prompt of five completions.
fn prompt(rewards: [f64; 5], logprobs: [f64; 5]) -> ScoredPrompt {
    ScoredPrompt {
        rewards: rewards.to_vec(),
        logprobs: logprobs.to_vec(),
        logprob_means: logprobs.to_vec(),
        ensemble: Vec::new(),
    }
}

/// Every pair of five completions, judged by their true qualities.
fn judged(prompt: usize, quality: [f64; 5]) -> Vec<JudgedPair> {
    let verdict = |first: usize, second: usize| match quality[first].total_cmp(&quality[second]) {
        std::cmp::Ordering::Greater => Verdict::First,
        std::cmp::Ordering::Less => Verdict::Second,
        std::cmp::Ordering::Equal => Verdict::Tie,
    };
    let pairs = (0..5).flat_map(|first| (first + 1..5).map(move |second| [first, second]));
    pairs
        .map(|[first, second]| JudgedPair {
            prompt,
            completions: [first, second],
            verdict: verdict(first, second),
        })
        .collect()
}

/// Prompts whose proxy confuses 0 and 1, which it rates almost equally.
fn close_errors(prompts: usize) -> (Vec<ScoredPrompt>, Vec<JudgedPair>) {
    let rewards = [3.0, 2.9, 0.0, -1.0, -2.0];
    let scored = |index: usize| {
        let shift = 0.01 * (index % 7) as f64;
        prompt(rewards, [-9.0 - shift, 9.0, -3.0, 0.5 + shift, 2.0])
    };
    let all = (0..prompts).map(scored).collect();
    // The proxy is wrong about the pair (0, 1) only; 3 and 4 tie.
    let pairs = (0..prompts).flat_map(|index| judged(index, [2.9, 3.0, 0.0, -1.0, -1.0])).collect();
    (all, pairs)
}

fn table(prompts: usize, method: IntervalMethod, samples: usize) -> OpponentTable {
    let (scored, pairs) = close_errors(prompts);
    let sample = AskedSample::new(&scored, &pairs, LogprobKind::Sum).unwrap();
    evaluate(&vec![sample; samples], LogprobKind::Sum, method, 0).unwrap()
}

fn row(table: &OpponentTable, opponent: Opponent) -> &OpponentRow {
    let found = table.rows.iter().find(|row| {
        row.opponent == opponent && row.logprob == LogprobKind::Sum && (row.share - 0.1).abs() < 1e-9
    });
    found.unwrap()
}

#[test]
fn errors_by_label_are_those_of_the_pairs_that_an_opponent_asks_about() {
    // 4 of 40 completions are selected: all are completion 0, of the largest |PACS|.
    let table = table(8, IntervalMethod::Bootstrap, 1);
    assert_eq!((table.prompts, table.samples), (8.0, 1));
    // The farthest PACS is that of 4, which the proxy orders rightly; 1 has the farthest among the near ones.
    for (opponent, per_label) in
        [(Opponent::Conflict, 0.0), (Opponent::Matched, 1.0), (Opponent::Margin, 1.0)]
    {
        let row = row(&table, opponent);
        assert!((row.labels - 4.0).abs() < 1e-12, "{opponent:?}: {}", row.labels);
        assert!((row.errors_per_label.unwrap().mean - per_label).abs() < 1e-12, "{opponent:?}: {row:?}");
    }
    // A random opponent of four is the wrong one in a quarter of the draws.
    let random = row(&table, Opponent::Random).errors_per_label.unwrap();
    assert!((0.05..0.5).contains(&random.mean), "{random:?}");
    let over_random = row(&table, Opponent::Matched)
        .differences
        .iter()
        .find(|difference| difference.over == Opponent::Random)
        .unwrap();
    assert!((over_random.errors_per_label.mean - (1.0 - random.mean)).abs() < 1e-12);
    assert_eq!(over_random.result, ComparisonResult::Won);
}

#[test]
fn a_tie_is_a_label_that_finds_no_error() {
    let scored = vec![prompt([0.0, 1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0, 0.5]); 3];
    // The judged pairs are (0, 4), which ties, and (0, 3), which the proxy orders wrongly.
    let pair = |prompt, second, verdict| JudgedPair { prompt, completions: [0, second], verdict };
    let pairs: Vec<JudgedPair> =
        (0..3).flat_map(|prompt| [pair(prompt, 4, Verdict::Tie), pair(prompt, 3, Verdict::First)]).collect();
    let sample = AskedSample::new(&scored, &pairs, LogprobKind::Sum).unwrap();
    let table = evaluate(&[sample], LogprobKind::Sum, IntervalMethod::Bootstrap, 0).unwrap();
    let at_half =
        table.rows.iter().find(|row| row.opponent == Opponent::Conflict && row.share > 0.4).unwrap();
    // Of 15 completions 8 are selected: 0 and 4 of three prompts, which ask about (0, 4), and 3 of two.
    assert!((at_half.ties.unwrap() - 0.6).abs() < 1e-12, "{at_half:?}");
    assert!((at_half.errors_per_label.unwrap().mean - 0.4).abs() < 1e-12);
    assert!((at_half.errors_per_preference.unwrap().mean - 1.0).abs() < 1e-12);
}

#[test]
fn only_judged_pairs_are_asked_about() {
    let (scored, pairs) = close_errors(6);
    let without: Vec<JudgedPair> = pairs.into_iter().filter(|pair| pair.completions != [0, 1]).collect();
    let sample = AskedSample::new(&scored, &without, LogprobKind::Sum).unwrap();
    let table = evaluate(&[sample], LogprobKind::Sum, IntervalMethod::Bootstrap, 0).unwrap();
    for opponent in Opponent::ALL {
        let row = row(&table, opponent);
        let found = row.errors_per_label.unwrap().mean;
        assert!(found.abs() < 1e-12, "{opponent:?} finds {found}, but the only error is not judged");
    }
}

#[test]
fn differences_over_seeds_have_intervals_and_equal_samples_have_none_of_width() {
    let table = table(8, IntervalMethod::StudentT, 3);
    let interval = row(&table, Opponent::Matched).errors_per_label.unwrap();
    assert!((interval.high - interval.low).abs() < 1e-9, "{interval:?}");
    // Both kinds of log-probability, three shares, and two baselines of four opponents.
    assert_eq!(table.rows.len(), 24);
    assert_eq!(table.comparisons, 36);
    assert!(evaluate(&[], LogprobKind::Sum, IntervalMethod::StudentT, 0).is_none());
}

#[test]
fn one_seed_has_counts_and_no_interval() {
    let table = table(8, IntervalMethod::StudentT, 1);
    let row = row(&table, Opponent::Conflict);
    assert!((row.labels - 4.0).abs() < 1e-12 && row.errors_per_label.is_none(), "{row:?}");
}
