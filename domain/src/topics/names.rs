//! Names of topics: their distinctive words.

use std::collections::BTreeMap;

use super::vectors::term_counts;

/// Largest number of words in a name.
const WORDS_MAX: usize = 5;
/// Fewest prompts of the topic that have a word of its name; of a topic of one prompt, 1.
const PROMPTS_MIN: usize = 2;
/// Share of all prompts above which a word is a stop word, in every language.
const STOP_SHARE: f64 = 0.4;
/// Strength of the prior, as a share of all counted words.
const PRIOR_SHARE: f64 = 0.1;
/// Smallest z-score of a word of a name.
const Z_MIN: f64 = 1.0;

/// Returns the most distinctive words of each topic.
///
/// The score is the log-odds of the word in the topic against the other topics, in standard errors. Its prior
/// is in proportion to all counts (Monroe, Colaresi and Quinn, 2008, equations 16 and 22), so words that are
/// frequent everywhere stay out. Each prompt counts a word once.
pub(super) fn distinctive_words(
    texts: &[&str],
    of_prompt: &[Option<usize>],
    topics: usize,
) -> Vec<Vec<String>> {
    // Prompts with each word, by topic.
    let mut counts = BTreeMap::<String, Vec<f64>>::new();
    let mut sizes = vec![0_usize; topics];
    for (text, topic) in texts.iter().zip(of_prompt) {
        let Some(topic) = *topic else { continue };
        sizes[topic] += 1;
        for term in term_counts(text).into_keys() {
            counts.entry(term).or_insert_with(|| vec![0.0; topics])[topic] += 1.0;
        }
    }
    let prompts: usize = sizes.iter().sum();
    let totals: Vec<f64> =
        (0..topics).map(|topic| counts.values().map(|counts| counts[topic]).sum()).collect();
    let all: f64 = totals.iter().sum();
    let name = |topic: usize| {
        let mut scored: Vec<(f64, &str)> = Vec::new();
        for (word, by_topic) in &counts {
            let everywhere: f64 = by_topic.iter().sum();
            let is_stop = topics > 1 && everywhere > STOP_SHARE * prompts as f64;
            let here = by_topic[topic];
            if is_stop || here < PROMPTS_MIN.min(sizes[topic]) as f64 {
                continue;
            }
            let prior = PRIOR_SHARE * everywhere;
            let odds = |count: f64, total: f64| {
                let with_prior = count + prior;
                (with_prior / (total + PRIOR_SHARE * all - with_prior).max(1e-9)).ln()
            };
            let elsewhere = everywhere - here;
            let difference = odds(here, totals[topic]) - odds(elsewhere, all - totals[topic]);
            let error = (1.0 / (here + prior) + 1.0 / (elsewhere + prior)).sqrt();
            // Of a single topic there are no others, so the most frequent words name it.
            let score = if topics > 1 { difference / error } else { here };
            if score >= Z_MIN {
                scored.push((score, word));
            }
        }
        scored.sort_by(|(a, word_a), (b, word_b)| b.total_cmp(a).then(word_a.cmp(word_b)));
        scored.into_iter().take(WORDS_MAX).map(|(_, word)| word.to_owned()).collect()
    };
    (0..topics).map(name).collect()
}
