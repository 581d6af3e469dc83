//! Generated questions on ten topics, each with a rule that gives the correct answer.
//!
//! A question names a topic and two of its things. The rule maps each thing to a word, drawn by the seed; the
//! correct answer is the two words. Each topic has its own things, so a rule gives no information about other
//! topics. A model learns the words of single things, so it can answer held-out questions.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use dissent_domain::training::{Demonstration, Dialogue, Preference};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde::Serialize;
use serde_json::json;

use super::CategoriesConfig;
use crate::study::shuffle::shuffled;

/// The token before a text.
pub(super) const BEGIN: &str = "<s>";
/// The token after an answer.
pub(super) const END: &str = "</s>";
/// The token for unknown words.
const UNKNOWN: &str = "<unk>";

/// The topics. Both models are trained on the first two. The policy alone is trained on the next three, the
/// proxy alone on the next three, and neither on the last two.
const TOPICS: [&str; 10] = [
    "gardens", "kitchens", "harbours", "forests", "markets", "schools", "castles", "deserts", "islands",
    "railways",
];
const POLICY_TOPICS: [usize; 5] = [0, 1, 2, 3, 4];
const PROXY_TOPICS: [usize; 5] = [0, 1, 5, 6, 7];

// Seven things and words, so that a small budget of comparisons covers all of them.
const THINGS: [&str; 7] = ["bell", "lamp", "rope", "gate", "bread", "stone", "river"];
const WORDS: [&str; 7] = ["red", "cold", "loud", "soft", "old", "bright", "sweet"];
const GRAMMAR: [&str; 5] = ["in", "what", "suits", "and", "?"];

/// The rules of all topics. Generates the data of a study.
pub(super) struct TopicRules {
    seed: u64,
    /// The word of each thing, by topic.
    rules: Vec<Vec<usize>>,
}

/// A topic and two different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    topic: usize,
    things: [usize; 2],
}

impl TopicRules {
    /// The number of questions of a topic.
    pub(super) const QUESTIONS: usize = THINGS.len() * (THINGS.len() - 1);

    pub(super) fn new(seed: u64) -> Self {
        let rule = |topic| shuffled(WORDS.len(), seed.wrapping_mul(1000).wrapping_add(topic));
        Self { seed, rules: (0..TOPICS.len() as u64).map(rule).collect() }
    }

    /// Returns every token, the special ones first.
    pub(super) fn vocabulary() -> Vec<String> {
        let special = [BEGIN, END, UNKNOWN];
        let things = TOPICS.into_iter().flat_map(|topic| THINGS.map(|thing| token_of(topic, thing)));
        let words = special.into_iter().chain(GRAMMAR).chain(TOPICS).chain(WORDS);
        words.map(str::to_owned).chain(things).collect()
    }

    /// Writes the files for experiments and trainings.
    pub(super) fn write(&self, config: &CategoriesConfig, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tokenizer.json"), serde_json::to_vec_pretty(&tokenizer())?)?;
        let (mut prompts, mut held_out, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for (topic, name) in TOPICS.iter().enumerate() {
            let drawn = self.questions(topic);
            for (index, question) in drawn.iter().take(config.prompts + config.held_out).enumerate() {
                let id = format!("{name}-{index}");
                let line = json!({"prompt_id": id, "prompt": question.text(), "category": name});
                if index < config.prompts {
                    prompts.push(line)
                } else {
                    held_out.push(line)
                }
                answers.push(json!({"prompt_id": id, "answer": self.answer(*question).join(" ")}));
            }
        }
        write(folder, "prompts.jsonl", &prompts)?;
        write(folder, "held-out.jsonl", &held_out)?;
        write(folder, "answers.jsonl", &answers)?;
        let all: Vec<usize> = (0..TOPICS.len()).collect();
        write(folder, "texts.jsonl", &self.demonstrations(config, &all, config.texts, 0.0, 1))?;
        let accuracy = config.demonstration_accuracy;
        let demonstrations = self.demonstrations(config, &POLICY_TOPICS, config.demonstrations, accuracy, 2);
        write(folder, "demonstrations.jsonl", &demonstrations)?;
        let preferences = self.preferences(config);
        write(folder, "lessons.jsonl", &preferences)?;
        // The same rows in the input format of `dissent run`.
        let rows: Vec<serde_json::Value> = preferences.iter().map(preference_json).collect();
        write(folder, "preferences.jsonl", &rows)
    }

    /// Returns every question of a topic, in a seeded random order.
    fn questions(&self, topic: usize) -> Vec<Question> {
        let drawn = shuffled(Self::QUESTIONS, self.seed.wrapping_mul(2000).wrapping_add(topic as u64));
        let others = THINGS.len() - 1;
        let question = |index: usize| {
            let (first, second) = (index / others, index % others);
            Question { topic, things: [first, second + usize::from(second >= first)] }
        };
        drawn.into_iter().map(question).collect()
    }

    fn answer(&self, question: Question) -> [&'static str; 2] {
        question.things.map(|thing| WORDS[self.rules[question.topic][thing]])
    }

    /// Returns training questions of these topics with answers. Each word is correct with probability
    /// `accuracy`.
    fn demonstrations(
        &self,
        config: &CategoriesConfig,
        topics: &[usize],
        count: usize,
        accuracy: f64,
        stream: u64,
    ) -> Vec<Demonstration> {
        let mut rng = SeededRng::new(self.seed, stream);
        let row = |_| {
            let question = self.training_question(config, topics, &mut rng);
            let answer = self.noisy_answer(question, accuracy, &mut rng);
            Demonstration { prompt: Dialogue::Text(question.text()), completion: answer.join(" ") }
        };
        (0..count).map(row).collect()
    }

    /// Returns preferences between answers with different numbers of correct words.
    fn preferences(&self, config: &CategoriesConfig) -> Vec<Preference> {
        let mut rng = SeededRng::new(self.seed, 3);
        let mut found = Vec::with_capacity(config.preferences);
        while found.len() < config.preferences {
            let question = self.training_question(config, &PROXY_TOPICS, &mut rng);
            let [one, other] = [(); 2].map(|()| self.noisy_answer(question, 0.5, &mut rng));
            let correct = |answer: [&str; 2]| {
                answer.iter().zip(self.answer(question)).filter(|(word, correct)| *word == correct).count()
            };
            let (better, worse) = match correct(one).cmp(&correct(other)) {
                std::cmp::Ordering::Greater => (one, other),
                std::cmp::Ordering::Less => (other, one),
                std::cmp::Ordering::Equal => continue,
            };
            let is_reversed = rng.uniform() < config.preference_noise;
            let (chosen, rejected) = if is_reversed { (worse, better) } else { (better, worse) };
            found.push(Preference {
                prompt: Dialogue::Text(question.text()),
                chosen: chosen.join(" "),
                rejected: rejected.join(" "),
                margin: 0.0,
                is_unsafe: None,
            });
        }
        found
    }

    /// Draws a question that is neither a prompt nor a held-out prompt, if the topic has one left.
    fn training_question(
        &self,
        config: &CategoriesConfig,
        topics: &[usize],
        rng: &mut SeededRng,
    ) -> Question {
        let topic = topics[rng.below(topics.len())];
        let prompts = config.prompts + config.held_out;
        let questions = self.questions(topic);
        let free = questions.get(prompts..).filter(|free| !free.is_empty()).unwrap_or(&questions);
        free[rng.below(free.len())]
    }

    /// Returns an answer whose words are correct with probability `accuracy`, and random otherwise.
    fn noisy_answer(&self, question: Question, accuracy: f64, rng: &mut SeededRng) -> [&'static str; 2] {
        self.answer(question).map(|word| {
            let is_kept = rng.uniform() < accuracy;
            if is_kept { word } else { WORDS[rng.below(WORDS.len())] }
        })
    }
}

impl Question {
    fn text(&self) -> String {
        let [first, second] = self.things.map(|thing| token_of(TOPICS[self.topic], THINGS[thing]));
        format!("in {} what suits {first} and {second} ?", TOPICS[self.topic])
    }
}

/// Returns the token of a thing of a topic.
fn token_of(topic: &str, thing: &str) -> String {
    format!("{topic}-{thing}")
}

/// Returns a word-level tokenizer with the vocabulary, as `tokenizer.json`.
fn tokenizer() -> serde_json::Value {
    let ids: serde_json::Map<String, serde_json::Value> =
        TopicRules::vocabulary().into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, BEGIN), special(1, END), special(2, UNKNOWN)],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": UNKNOWN},
    })
}

fn preference_json(preference: &Preference) -> serde_json::Value {
    let prompt = match &preference.prompt {
        Dialogue::Text(text) => json!(text),
        Dialogue::Messages(messages) => json!(messages),
    };
    json!({"prompt": prompt, "chosen": preference.chosen, "rejected": preference.rejected})
}

fn write<T: Serialize>(folder: &Path, name: &str, rows: &[T]) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, row)?;
        lines.write_all(b"\n")?;
    }
    Ok(fs::write(folder.join(name), lines)?)
}

/// A seeded generator with one stream for each purpose.
struct SeededRng(ChaCha8Rng);

impl SeededRng {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Returns a uniform draw from [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a uniform draw from 0..count, with a bias below 2⁻⁵⁰ for the counts here.
    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.0.next_u64() % count.max(1) as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn config() -> CategoriesConfig {
        let small = toml::from_str(
            "prompts = 4\nheld_out = 3\ntexts = 50\ndemonstrations = 400\ndemonstration_accuracy = 0.7\npreferences = 300\n\
             preference_noise = 0.1\nmodel = { hidden_size = 32, intermediate_size = 64, layers = 2, heads = 4 }\n\
             [pretraining]\n[imitation]\n[proxy]\n",
        );
        small.unwrap()
    }

    #[test]
    fn every_topic_has_its_own_rule_that_follows_from_the_seed() {
        let topics = TopicRules::new(1);
        assert_eq!(topics.rules, TopicRules::new(1).rules);
        assert_ne!(topics.rules, TopicRules::new(2).rules);
        let distinct: HashSet<&Vec<usize>> = topics.rules.iter().collect();
        assert_eq!(distinct.len(), TOPICS.len());
    }

    #[test]
    fn both_models_train_on_two_topics_each_alone_on_three_and_neither_on_two() {
        let trained = |topic: &usize| (POLICY_TOPICS.contains(topic), PROXY_TOPICS.contains(topic));
        let count = |models| (0..TOPICS.len()).filter(|topic| trained(topic) == models).count();
        assert_eq!([(true, true), (true, false), (false, true), (false, false)].map(count), [2, 3, 3, 2]);
    }

    #[test]
    fn training_questions_are_no_prompts() {
        let (topics, config) = (TopicRules::new(3), config());
        let prompts: HashSet<String> = (0..TOPICS.len())
            .flat_map(|topic| topics.questions(topic).into_iter().take(7).map(|question| question.text()))
            .collect();
        assert_eq!(prompts.len(), 70);
        let all: Vec<usize> = (0..TOPICS.len()).collect();
        let shown = topics.demonstrations(&config, &all, 2000, 1.0, 1).into_iter().map(|row| row.prompt);
        let preferred = topics.preferences(&config).into_iter().map(|row| row.prompt);
        for prompt in shown.chain(preferred) {
            let Dialogue::Text(text) = prompt else { panic!("a text") };
            assert!(!prompts.contains(&text), "{text}");
        }
    }

    #[test]
    fn training_data_has_the_topics_of_its_model_and_the_configured_accuracy() {
        let (topics, config) = (TopicRules::new(3), config());
        let topic_of = |prompt: &Dialogue| match prompt {
            Dialogue::Text(text) => {
                TOPICS.iter().position(|topic| text.split(' ').any(|word| word == *topic)).unwrap()
            }
            Dialogue::Messages(_) => panic!("a text"),
        };
        for row in topics.preferences(&config) {
            assert!(PROXY_TOPICS.contains(&topic_of(&row.prompt)));
            assert_ne!(row.chosen, row.rejected);
        }
        let shown = topics.demonstrations(&config, &POLICY_TOPICS, 2000, 0.7, 2);
        assert!(shown.iter().all(|row| POLICY_TOPICS.contains(&topic_of(&row.prompt))));
        let mut correct = 0;
        for row in &shown {
            let Dialogue::Text(text) = &row.prompt else { panic!("a text") };
            let things: Vec<usize> = text
                .split(' ')
                .filter_map(|word| THINGS.iter().position(|thing| word.ends_with(&format!("-{thing}"))))
                .collect();
            let rule = &topics.rules[topic_of(&row.prompt)];
            let answer = row.completion.split(' ').zip(&things);
            correct += answer.filter(|(word, thing)| *word == WORDS[rule[**thing]]).count();
        }
        // 0.7, and 1 in 7 of the rest: 0.743 of 4000, standard deviation 28.
        assert!((2860..=3085).contains(&correct), "{correct}");
    }

    #[test]
    fn every_word_of_a_text_is_a_token() {
        let vocabulary: HashSet<String> = TopicRules::vocabulary().into_iter().collect();
        assert_eq!(vocabulary.len(), TopicRules::vocabulary().len(), "no token occurs twice");
        let question = Question { topic: 9, things: [0, 6] };
        assert!(question.text().split(' ').all(|word| vocabulary.contains(word)));
    }
}
