//! Simulated worlds with and without a blind topic: how often it is found, and how often there is a false
//! flag.

use super::*;
use crate::random::Random;

const WORLDS: u64 = 200;
const TOPICS: usize = 12;
const PROMPTS: usize = 300;
const LABELS: usize = 150;
/// The proxy's error elsewhere, and in the blind topic.
const ERROR: f64 = 0.25;
const BLIND: f64 = 0.75;

/// Prompts of twelve subjects. Half of a prompt's words are of its subject, and four in ten are of every
/// subject. The others are of a random subject.
struct World {
    subjects: Vec<usize>,
    found: Topics,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut texts = Vec::new();
        let mut subjects = Vec::new();
        for prompt in 0..PROMPTS {
            let subject = prompt % TOPICS;
            let mut text = String::new();
            for _ in 0..6 + random.below(6) {
                let kind = random.unit();
                // Squaring makes the first words of a vocabulary frequent.
                let rank = |size: f64, unit: f64| (unit * unit * size).floor();
                let word = if kind < 0.5 {
                    format!("s{subject}w{} ", rank(25.0, random.unit()))
                } else if kind < 0.9 {
                    format!("w{} ", rank(60.0, random.unit()))
                } else {
                    format!("s{}w{} ", random.below(TOPICS), rank(25.0, random.unit()))
                };
                text.push_str(&word);
            }
            texts.push(text);
            subjects.push(subject);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let settings = TopicSettings { most: 16, restarts: 2, seed, ..TopicSettings::default() };
        Self { subjects, found: topics(&texts, None, &settings).unwrap() }
    }

    /// Draws prompts for labels uniformly and ranks the topics that were found.
    fn ranked(&self, seed: u64, error: impl Fn(usize) -> f64) -> TopicRanking {
        let mut random = Random::new(seed);
        let mut prompts: Vec<usize> = (0..PROMPTS).collect();
        random.shuffle(&mut prompts);
        let judged: Vec<JudgedPrompt> = prompts[..LABELS]
            .iter()
            .filter_map(|&prompt| {
                let wrong = random.unit() < error(self.subjects[prompt]);
                let topic = self.found.of_prompt[prompt]?;
                Some(JudgedPrompt { topic, errors: f64::from(u8::from(wrong)), labels: 1.0 })
            })
            .collect();
        rank_topics(self.found.topics.len(), &judged, &RankingSettings { permutations: 999, seed })
    }

    /// The subject of most prompts of a topic.
    fn subject(&self, topic: usize) -> usize {
        let mut counts = [0; TOPICS];
        self.found.topics[topic].prompts.iter().for_each(|prompt| counts[self.subjects[*prompt]] += 1);
        (0..TOPICS).max_by_key(|subject| counts[*subject]).unwrap()
    }
}

#[test]
fn a_blind_topic_ranks_first_and_worlds_without_one_have_no_flag() {
    let (mut first, mut flagged, mut false_flags, mut numbers) = (0, 0, 0, Vec::new());
    for seed in 0..WORLDS {
        let world = World::new(seed);
        numbers.push(world.found.topics.len());
        let blind = usize::try_from(seed).unwrap() % TOPICS;
        let ranking = world.ranked(seed, |subject| if subject == blind { BLIND } else { ERROR });
        let top = ranking.topics[0];
        if world.subject(top.topic) == blind {
            first += 1;
            flagged += usize::from(top.flagged);
        }
        let none = world.ranked(seed + 1000, |_| ERROR);
        false_flags += usize::from(none.topics.iter().any(|topic| topic.flagged));
    }
    numbers.sort_unstable();
    let median = numbers[numbers.len() / 2];
    println!(
        "of {WORLDS} worlds: blind topic first in {first}, flagged in {flagged}; false flags in {false_flags}; \
         {median} topics in the median, {} to {}",
        numbers[0],
        numbers[numbers.len() - 1]
    );
    assert!(first >= 180, "{first}");
    assert!(flagged >= 100, "{flagged}");
    // 5 % of 200 worlds.
    assert!(false_flags <= 10, "{false_flags}");
    assert!((TOPICS - 2..=TOPICS + 3).contains(&median), "{median}");
}
