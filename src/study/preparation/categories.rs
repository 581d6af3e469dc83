//! Ten topics of questions and answers with a known rule.
//!
//! A question names a topic and two of its things; each thing has a word, drawn by the seed, and the right
//! answer is the words of the two. Each topic has things of its own, so that one topic says nothing about
//! another. A question is answered by what was learnt of its things in other questions, so that held-out
//! questions can be answered.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use dissent_domain::training::{Demonstration, Dialogue, Preference};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde::Serialize;
use serde_json::json;

use super::CategoriesConfig;
use crate::study::draw::shuffled;

/// The token before a text.
pub(super) const BEGIN: &str = "<s>";
/// The token after an answer.
pub(super) const END: &str = "</s>";
/// The token for what is no word.
const UNKNOWN: &str = "<unk>";

/// Known to both: the first two; to the policy only: three; to the proxy only: three; to neither: two.
const TOPICS: [&str; 10] = [
    "gardens", "kitchens", "harbours", "forests", "markets", "schools", "castles", "deserts", "islands",
    "railways",
];
const KNOWN_TO_POLICY: [usize; 5] = [0, 1, 2, 3, 4];
const KNOWN_TO_PROXY: [usize; 5] = [0, 1, 5, 6, 7];

// Few enough that a small budget of comparisons can tell them all.
const THINGS: [&str; 7] = ["bell", "lamp", "rope", "gate", "bread", "stone", "river"];
const WORDS: [&str; 7] = ["red", "cold", "loud", "soft", "old", "bright", "sweet"];
const GRAMMAR: [&str; 5] = ["in", "what", "suits", "and", "?"];

/// The rules of all topics, and every text about them.
pub(super) struct World {
    seed: u64,
    /// By topic: the word of each thing.
    rules: Vec<Vec<usize>>,
}

/// A topic and two different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    topic: usize,
    things: [usize; 2],
}

impl World {
    /// Questions of a topic.
    pub(super) const QUESTIONS: usize = THINGS.len() * (THINGS.len() - 1);

    pub(super) fn new(seed: u64) -> Self {
        let rule = |topic| shuffled(WORDS.len(), seed.wrapping_mul(1000).wrapping_add(topic));
        Self { seed, rules: (0..TOPICS.len() as u64).map(rule).collect() }
    }

    /// Every token, the special ones first.
    pub(super) fn vocabulary() -> Vec<String> {
        let special = [BEGIN, END, UNKNOWN];
        let things = TOPICS.into_iter().flat_map(|topic| THINGS.map(|thing| named(topic, thing)));
        let words = special.into_iter().chain(GRAMMAR).chain(TOPICS).chain(WORDS);
        words.map(str::to_owned).chain(things).collect()
    }

    /// Writes everything that experiments and trainings read.
    pub(super) fn write(&self, config: &CategoriesConfig, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tokenizer.json"), serde_json::to_vec_pretty(&tokenizer())?)?;
        let (mut prompts, mut held_out, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for (topic, name) in TOPICS.iter().enumerate() {
            let drawn = self.questions(topic);
            for (place, question) in drawn.iter().take(config.prompts + config.held_out).enumerate() {
                let id = format!("{name}-{place}");
                let line = json!({"prompt_id": id, "prompt": question.text(), "category": name});
                if place < config.prompts {
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
        let shown = self.demonstrations(config, &KNOWN_TO_POLICY, config.demonstrations, accuracy, 2);
        write(folder, "demonstrations.jsonl", &shown)?;
        let lessons = self.preferences(config);
        write(folder, "lessons.jsonl", &lessons)?;
        // The same as a person would give them to `dissent run`.
        let rows: Vec<serde_json::Value> = lessons.iter().map(plain).collect();
        write(folder, "preferences.jsonl", &rows)
    }

    /// Every question of a topic, in the order drawn for it.
    fn questions(&self, topic: usize) -> Vec<Question> {
        let drawn = shuffled(Self::QUESTIONS, self.seed.wrapping_mul(2000).wrapping_add(topic as u64));
        let others = THINGS.len() - 1;
        let question = |place: usize| {
            let (first, second) = (place / others, place % others);
            Question { topic, things: [first, second + usize::from(second >= first)] }
        };
        drawn.into_iter().map(question).collect()
    }

    fn answer(&self, question: Question) -> [&'static str; 2] {
        question.things.map(|thing| WORDS[self.rules[question.topic][thing]])
    }

    /// Questions of these topics that no prompt asks, with answers whose words are right with this
    /// probability.
    fn demonstrations(
        &self,
        config: &CategoriesConfig,
        topics: &[usize],
        count: usize,
        accuracy: f64,
        stream: u64,
    ) -> Vec<Demonstration> {
        let mut draws = Draws::new(self.seed, stream);
        let row = |_| {
            let question = self.practice(config, topics, &mut draws);
            let answer = self.noisy(question, accuracy, &mut draws);
            Demonstration { prompt: Dialogue::Text(question.text()), completion: answer.join(" ") }
        };
        (0..count).map(row).collect()
    }

    /// Pairs of answers that differ in how many of their words are right.
    fn preferences(&self, config: &CategoriesConfig) -> Vec<Preference> {
        let mut draws = Draws::new(self.seed, 3);
        let mut found = Vec::with_capacity(config.preferences);
        while found.len() < config.preferences {
            let question = self.practice(config, &KNOWN_TO_PROXY, &mut draws);
            let [one, other] = [(); 2].map(|()| self.noisy(question, 0.5, &mut draws));
            let right = |answer: [&str; 2]| {
                answer.iter().zip(self.answer(question)).filter(|(given, right)| *given == right).count()
            };
            let (better, worse) = match right(one).cmp(&right(other)) {
                std::cmp::Ordering::Greater => (one, other),
                std::cmp::Ordering::Less => (other, one),
                std::cmp::Ordering::Equal => continue,
            };
            let is_turned = draws.uniform() < config.preference_noise;
            let (chosen, rejected) = if is_turned { (worse, better) } else { (better, worse) };
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

    /// A question to learn from: none that an experiment asks or evaluates on.
    fn practice(&self, config: &CategoriesConfig, topics: &[usize], draws: &mut Draws) -> Question {
        let topic = topics[draws.below(topics.len())];
        let asked = config.prompts + config.held_out;
        let questions = self.questions(topic);
        let free = questions.get(asked..).filter(|free| !free.is_empty()).unwrap_or(&questions);
        free[draws.below(free.len())]
    }

    fn noisy(&self, question: Question, accuracy: f64, draws: &mut Draws) -> [&'static str; 2] {
        self.answer(question).map(|word| {
            let is_right = draws.uniform() < accuracy;
            if is_right { word } else { WORDS[draws.below(WORDS.len())] }
        })
    }
}

impl Question {
    fn text(&self) -> String {
        let [first, second] = self.things.map(|thing| named(TOPICS[self.topic], THINGS[thing]));
        format!("in {} what suits {first} and {second} ?", TOPICS[self.topic])
    }
}

/// A topic's own thing, as one word.
fn named(topic: &str, thing: &str) -> String {
    format!("{topic}-{thing}")
}

/// A word-level tokenizer of the vocabulary.
fn tokenizer() -> serde_json::Value {
    let ids: serde_json::Map<String, serde_json::Value> =
        World::vocabulary().into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
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

fn plain(preference: &Preference) -> serde_json::Value {
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

/// Random numbers of one purpose.
struct Draws(ChaCha8Rng);

impl Draws {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in 0..count; uneven by less than 2⁻⁵⁰ for any count here.
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
    fn a_topic_has_a_rule_of_its_own_that_follows_from_the_seed() {
        let world = World::new(1);
        assert_eq!(world.rules, World::new(1).rules);
        assert_ne!(world.rules, World::new(2).rules);
        let distinct: HashSet<&Vec<usize>> = world.rules.iter().collect();
        assert_eq!(distinct.len(), TOPICS.len());
    }

    #[test]
    fn two_topics_are_known_to_both_three_to_each_alone_and_two_to_neither() {
        let known = |topic: &usize| (KNOWN_TO_POLICY.contains(topic), KNOWN_TO_PROXY.contains(topic));
        let count = |wanted| (0..TOPICS.len()).filter(|topic| known(topic) == wanted).count();
        assert_eq!([(true, true), (true, false), (false, true), (false, false)].map(count), [2, 3, 3, 2]);
    }

    #[test]
    fn nothing_that_is_asked_is_learnt_from() {
        let (world, config) = (World::new(3), config());
        let asked: HashSet<String> = (0..TOPICS.len())
            .flat_map(|topic| world.questions(topic).into_iter().take(7).map(|question| question.text()))
            .collect();
        assert_eq!(asked.len(), 70);
        let all: Vec<usize> = (0..TOPICS.len()).collect();
        let shown = world.demonstrations(&config, &all, 2000, 1.0, 1).into_iter().map(|row| row.prompt);
        let preferred = world.preferences(&config).into_iter().map(|row| row.prompt);
        for prompt in shown.chain(preferred) {
            let Dialogue::Text(text) = prompt else { panic!("a text") };
            assert!(!asked.contains(&text), "{text}");
        }
    }

    #[test]
    fn each_learns_of_its_own_topics_only_and_about_as_well_as_it_says() {
        let (world, config) = (World::new(3), config());
        let topic_of = |prompt: &Dialogue| match prompt {
            Dialogue::Text(text) => {
                TOPICS.iter().position(|topic| text.split(' ').any(|word| word == *topic)).unwrap()
            }
            Dialogue::Messages(_) => panic!("a text"),
        };
        for row in world.preferences(&config) {
            assert!(KNOWN_TO_PROXY.contains(&topic_of(&row.prompt)));
            assert_ne!(row.chosen, row.rejected);
        }
        let shown = world.demonstrations(&config, &KNOWN_TO_POLICY, 2000, 0.7, 2);
        assert!(shown.iter().all(|row| KNOWN_TO_POLICY.contains(&topic_of(&row.prompt))));
        let mut right = 0;
        for row in &shown {
            let Dialogue::Text(text) = &row.prompt else { panic!("a text") };
            let things: Vec<usize> = text
                .split(' ')
                .filter_map(|word| THINGS.iter().position(|thing| word.ends_with(&format!("-{thing}"))))
                .collect();
            let rule = &world.rules[topic_of(&row.prompt)];
            let answer = row.completion.split(' ').zip(&things);
            right += answer.filter(|(word, thing)| *word == WORDS[rule[**thing]]).count();
        }
        // .7 and 1 in 7 of the rest: .743 of 4000, standard deviation 28.
        assert!((2860..=3085).contains(&right), "{right}");
    }

    #[test]
    fn every_word_of_a_text_is_a_token() {
        let vocabulary: HashSet<String> = World::vocabulary().into_iter().collect();
        assert_eq!(vocabulary.len(), World::vocabulary().len(), "each once");
        let question = Question { topic: 9, things: [0, 6] };
        assert!(question.text().split(' ').all(|word| vocabulary.contains(word)));
    }
}
