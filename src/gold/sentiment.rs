//! How positive a text sounds: VADER's compound score (Hutto & Gilbert, ICWSM 2014).
//!
//! The lexicon is the unchanged data of `vaderSentiment` 3.3.2, the reference implementation in Python: see
//! `src/gold/vader/README.md`. The rules are written out here as the reference applies them, because the
//! crates that port them score half of all completions differently.

use std::collections::HashMap;

/// Lines of a word, its valence, and two columns that are not used, separated by tabs.
const LEXICON: &str = include_str!("vader/vader_lexicon.txt");

/// Lines of an emoji and its description, separated by a tab.
const EMOJI: &str = include_str!("vader/emoji_utf8_lexicon.txt");

/// Names the rules: another version would be another gold reward.
pub const SENTIMENT_FINGERPRINT: &str = "sentiment/1";

/// A word that strengthens what follows by this.
const BOOST: f64 = 0.293;
/// A word in capitals among others that are not.
const CAPITALS: f64 = 0.733;
/// A negated word counts for so much of the opposite.
const NEGATION: f64 = -0.74;

const NEGATIONS: &str = "aint arent cannot cant couldnt darent didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt \
    neither neednt never none nope nor not nothing nowhere oughtnt shant shouldnt uhuh uh-uh wasnt werent without wont wouldnt \
    rarely seldom despite";

const BOOSTERS: &str = "absolutely amazingly awfully completely considerable considerably decidedly deeply effing enormous \
    enormously entirely especially exceptional exceptionally extreme extremely fabulously flipping flippin frackin fracking \
    fricking frickin frigging friggin fully fuckin fucking fuggin fugging greatly hella highly hugely incredible incredibly \
    intensely major majorly more most particularly purely quite really remarkably so substantially thoroughly total totally \
    tremendous tremendously uber unbelievably unusually utter utterly very";

const DAMPENERS: &str = "almost barely hardly kinda kindof kind-of less little marginal marginally occasional occasionally \
    partly scarce scarcely slight slightly somewhat sorta sortof sort-of";

/// Dampeners of two words.
const DAMPENING_PAIRS: [&str; 3] = ["just enough", "kind of", "sort of"];

/// Phrases that say something else than their words.
const PHRASES: [(&str, f64); 9] = [
    ("the shit", 3.0),
    ("the bomb", 3.0),
    ("bad ass", 1.5),
    ("badass", 1.5),
    ("bus stop", 0.0),
    ("yeah right", -2.0),
    ("kiss of death", -1.5),
    ("to die for", 3.0),
    ("beating heart", 3.5),
];

/// VADER, ready to score.
pub struct Sentiment {
    lexicon: HashMap<&'static str, f64>,
    emoji: HashMap<char, &'static str>,
    modifiers: HashMap<&'static str, f64>,
}

struct Word {
    lower: String,
    is_upper: bool,
}

impl Default for Sentiment {
    fn default() -> Self {
        Self::new()
    }
}

impl Sentiment {
    /// Reads the lexicon.
    #[must_use]
    pub fn new() -> Self {
        // Words are looked up in lower case: the reference never finds those that are listed otherwise.
        let lexicon = entries(LEXICON).filter(|(word, _)| word.to_lowercase() == **word);
        let lexicon = lexicon.filter_map(|(word, valence)| Some((word, valence.parse().ok()?)));
        // The reference goes through texts by character: it finds only emoji of one character.
        let emoji = entries(EMOJI).filter_map(|(emoji, description)| {
            let mut characters = emoji.chars();
            characters.next().filter(|_| characters.next().is_none()).zip(Some(description))
        });
        let boosters = BOOSTERS.split_whitespace().map(|word| (word, BOOST));
        let dampeners = DAMPENERS.split_whitespace().map(|word| (word, -BOOST));
        Self {
            lexicon: lexicon.collect(),
            emoji: emoji.collect(),
            modifiers: boosters.chain(dampeners).collect(),
        }
    }

    /// The compound score of a text, in [−1, 1]: 0 for one without words of the lexicon.
    #[must_use]
    pub fn score(&self, text: &str) -> f64 {
        let text = self.described(text);
        let words: Vec<Word> = text.split_whitespace().map(word).collect();
        let capitals = words.iter().filter(|word| word.is_upper).count();
        let is_mixed = capitals > 0 && capitals < words.len();
        let mut valences: Vec<f64> = (0..words.len()).map(|at| self.valence(&words, at, is_mixed)).collect();
        weigh_around_but(&words, &mut valences);
        let sum: f64 = valences.iter().sum();
        let sum = if sum > 0.0 {
            sum + emphasis(&text)
        } else if sum < 0.0 {
            sum - emphasis(&text)
        } else {
            return 0.0;
        };
        sum / (sum * sum + 15.0).sqrt()
    }

    /// With emoji as their descriptions.
    fn described(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut after_space = true;
        for c in text.chars() {
            match self.emoji.get(&c) {
                Some(description) => {
                    if !after_space {
                        out.push(' ');
                    }
                    out.push_str(description);
                    after_space = false;
                }
                None => {
                    out.push(c);
                    after_space = c == ' ';
                }
            }
        }
        out
    }

    /// What the word at this place adds.
    fn valence(&self, words: &[Word], at: usize, is_mixed: bool) -> f64 {
        let lower = |place: usize| words[place].lower.as_str();
        let before = |back: usize| at.checked_sub(back).map(lower);
        let is_kind_of = lower(at) == "kind" && words.get(at + 1).is_some_and(|next| next.lower == "of");
        if self.modifiers.contains_key(lower(at)) || is_kind_of {
            return 0.0;
        }
        let Some(&listed) = self.lexicon.get(lower(at)) else { return 0.0 };
        let next_is_listed =
            words.get(at + 1).is_some_and(|next| self.lexicon.contains_key(next.lower.as_str()));
        let mut valence = if lower(at) == "no" && next_is_listed { 0.0 } else { listed };
        let far_no = before(3) == Some("no") && matches!(before(1), Some("or" | "nor"));
        if before(1) == Some("no") || before(2) == Some("no") || far_no {
            valence = listed * NEGATION;
        }
        if words[at].is_upper && is_mixed {
            valence += if valence > 0.0 { CAPITALS } else { -CAPITALS };
        }
        for (back, weight) in [(1, 1.0), (2, 0.95), (3, 0.9)] {
            let Some(place) = at.checked_sub(back) else { break };
            if self.lexicon.contains_key(lower(place)) {
                continue;
            }
            valence += weight * self.modification(&words[place], valence, is_mixed);
            valence = negate(words, at, back, valence);
            if back == 3 {
                valence = idiom(words, at, valence);
            }
        }
        // "least" is no word of the lexicon.
        let is_least = before(1) == Some("least") && !matches!(before(2), Some("at" | "very"));
        if is_least { valence * NEGATION } else { valence }
    }

    /// By how much a word before a listed one changes its valence.
    fn modification(&self, word: &Word, valence: f64, is_mixed: bool) -> f64 {
        let Some(&scalar) = self.modifiers.get(word.lower.as_str()) else { return 0.0 };
        let scalar = if valence < 0.0 { -scalar } else { scalar };
        match (word.is_upper && is_mixed, valence > 0.0) {
            (false, _) => scalar,
            (true, true) => scalar + CAPITALS,
            (true, false) => scalar - CAPITALS,
        }
    }
}

/// The first two columns of each line.
fn entries(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    text.lines().filter_map(|line| {
        let mut columns = line.trim().split('\t');
        columns.next().zip(columns.next())
    })
}

/// A word without the punctuation around it; whatever is then as short as an emoticon keeps it.
fn word(token: &str) -> Word {
    let stripped = token.trim_matches(|c: char| c.is_ascii_punctuation());
    let text = if stripped.chars().count() <= 2 { token } else { stripped };
    let has_upper = text.chars().any(char::is_uppercase);
    Word { lower: text.to_lowercase(), is_upper: has_upper && !text.chars().any(char::is_lowercase) }
}

fn is_negation(word: &str) -> bool {
    word.contains("n't") || NEGATIONS.split_whitespace().any(|negation| negation == word)
}

/// Negates a valence for the word `back` places before it.
fn negate(words: &[Word], at: usize, back: usize, valence: f64) -> f64 {
    let lower = |back: usize| words[at - back].lower.as_str();
    let is_so = |back: usize| matches!(lower(back), "so" | "this");
    let (is_never_so, is_without_doubt) = match back {
        2 => (lower(2) == "never" && is_so(1), lower(2) == "without" && lower(1) == "doubt"),
        3 => (
            (lower(3) == "never" && is_so(2)) || is_so(1),
            lower(3) == "without" && (lower(2) == "doubt" || lower(1) == "doubt"),
        ),
        _ => (false, false),
    };
    if is_never_so {
        valence * 1.25
    } else if !is_without_doubt && is_negation(lower(back)) {
        valence * NEGATION
    } else {
        valence
    }
}

/// Phrases around a word that has three others before it.
fn idiom(words: &[Word], at: usize, valence: f64) -> f64 {
    let joined = |from: usize, to: usize| -> Option<String> {
        let run: Vec<&str> = words.get(from..=to)?.iter().map(|word| word.lower.as_str()).collect();
        Some(run.join(" "))
    };
    let phrase = |from, to| {
        let text = joined(from, to)?;
        PHRASES.iter().find(|(phrase, _)| *phrase == text).map(|(_, valence)| *valence)
    };
    let before = [(at - 1, at), (at - 2, at), (at - 2, at - 1), (at - 3, at - 1), (at - 3, at - 2)];
    let mut valence = before.into_iter().find_map(|(from, to)| phrase(from, to)).unwrap_or(valence);
    for to in [at + 1, at + 2] {
        valence = phrase(at, to).unwrap_or(valence);
    }
    let pairs = [joined(at - 3, at - 2), joined(at - 2, at - 1)];
    let dampened = pairs.iter().flatten().filter(|pair| DAMPENING_PAIRS.contains(&pair.as_str())).count();
    valence - BOOST * dampened as f64
}

/// What stands before the first "but" counts half, what stands after it half as much again. As the reference
/// does, each value is changed where it first occurs.
fn weigh_around_but(words: &[Word], valences: &mut [f64]) {
    let Some(but) = words.iter().position(|word| word.lower == "but") else { return };
    for place in 0..valences.len() {
        let value = valences[place];
        let first = valences.iter().position(|other| other.total_cmp(&value).is_eq()).unwrap_or(place);
        match first.cmp(&but) {
            std::cmp::Ordering::Less => valences[first] *= 0.5,
            std::cmp::Ordering::Greater => valences[first] *= 1.5,
            std::cmp::Ordering::Equal => {}
        }
    }
}

/// What exclamation and question marks add.
fn emphasis(text: &str) -> f64 {
    let count = |mark| text.chars().filter(|c| *c == mark).count();
    let exclaimed = 0.292 * count('!').min(4) as f64;
    exclaimed
        + match count('?') {
            0 | 1 => 0.0,
            few @ (2 | 3) => 0.18 * few as f64,
            _ => 0.96,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `tests/golden/sentiment.py` with the reference implementation.
    const GOLDEN: &str = include_str!("../../tests/golden/sentiment.jsonl");

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        compound: f64,
    }

    #[test]
    fn every_line_of_the_lexicon_has_a_valence() {
        let words: Vec<_> = entries(LEXICON).collect();
        assert_eq!(words.len(), LEXICON.lines().count());
        assert!(
            words.iter().all(|(_, valence)| valence.parse::<f64>().is_ok_and(|valence| valence.abs() <= 4.0))
        );
        assert_eq!(entries(EMOJI).count(), EMOJI.lines().count());
    }

    #[test]
    fn scores_are_those_of_the_reference_implementation() {
        let sentiment = Sentiment::new();
        let cases: Vec<Case> = GOLDEN.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(cases.len() >= 50);
        for Case { text, compound } in cases {
            // The reference rounds to four digits.
            let score = sentiment.score(&text);
            assert!((score - compound).abs() <= 5.1e-5, "{text:?}: {score}, not {compound}");
        }
    }

    #[test]
    fn a_text_without_any_sentiment_is_neutral() {
        let sentiment = Sentiment::new();
        for text in ["", " \n ", "twelve bicycles", "?!?!"] {
            assert_eq!(sentiment.score(text).to_bits(), 0.0_f64.to_bits(), "{text:?}");
        }
    }
}
