//! A gold reward by sentiment: VADER's compound score (Hutto & Gilbert, ICWSM 2014).
//!
//! The lexicon is the unchanged data of `vaderSentiment` 3.3.2, the reference implementation in Python (see
//! `src/gold/vader/README.md`). The rules follow that implementation. Existing ports to Rust score half of
//! all completions differently.

use std::collections::HashMap;

/// Lines of a word, its valence, and two unused columns, separated by tabs.
const LEXICON: &str = include_str!("vader/vader_lexicon.txt");

/// Lines of an emoji and its description, separated by a tab.
const EMOJI: &str = include_str!("vader/emoji_utf8_lexicon.txt");

/// The version of the rules. Another version is another gold reward.
pub const SENTIMENT_FINGERPRINT: &str = "sentiment/1";

/// Valence that a booster adds to the next word.
const BOOST: f64 = 0.293;
/// Valence that capitals add, if other words are not in capitals.
const CAPITALS: f64 = 0.733;
/// Factor of the valence of a negated word.
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

/// Idioms with their valence.
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

/// The scorer with its lexicon.
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
    /// Parses the lexicon.
    #[must_use]
    pub fn new() -> Self {
        // The reference looks words up in lower case, so it never finds entries with capitals.
        let lexicon = entries(LEXICON).filter(|(word, _)| word.to_lowercase() == **word);
        let lexicon = lexicon.filter_map(|(word, valence)| Some((word, valence.parse().ok()?)));
        // The reference scans texts by character, so it finds only emoji of one character.
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

    /// Returns the compound score of a text, in [−1, 1]; 0 without words of the lexicon.
    #[must_use]
    pub fn score(&self, text: &str) -> f64 {
        let text = self.describe_emoji(text);
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

    /// Replaces emoji by their descriptions.
    fn describe_emoji(&self, text: &str) -> String {
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

    /// Returns the valence of the word at this index in its context.
    fn valence(&self, words: &[Word], at: usize, is_mixed: bool) -> f64 {
        let lower = |index: usize| words[index].lower.as_str();
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
            let Some(index) = at.checked_sub(back) else { break };
            if self.lexicon.contains_key(lower(index)) {
                continue;
            }
            valence += weight * self.modification(&words[index], valence, is_mixed);
            valence = negate(words, at, back, valence);
            if back == 3 {
                valence = idiom(words, at, valence);
            }
        }
        // "least" is not in the lexicon.
        let is_least = before(1) == Some("least") && !matches!(before(2), Some("at" | "very"));
        if is_least { valence * NEGATION } else { valence }
    }

    /// Returns the change of valence by a booster or a dampener before the word.
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

/// Returns the first two columns of each line.
fn entries(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    text.lines().filter_map(|line| {
        let mut columns = line.trim().split('\t');
        columns.next().zip(columns.next())
    })
}

/// Strips the punctuation around a word, except if two characters or fewer remain, as of an emoticon.
fn word(token: &str) -> Word {
    let stripped = token.trim_matches(|c: char| c.is_ascii_punctuation());
    let text = if stripped.chars().count() <= 2 { token } else { stripped };
    let has_upper = text.chars().any(char::is_uppercase);
    Word { lower: text.to_lowercase(), is_upper: has_upper && !text.chars().any(char::is_lowercase) }
}

fn is_negation(word: &str) -> bool {
    word.contains("n't") || NEGATIONS.split_whitespace().any(|negation| negation == word)
}

/// Applies a negation by the word `back` words before.
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

/// Applies the idioms and dampening pairs around a word with three words before it.
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

/// Multiplies valences before the first "but" by 0.5 and those after it by 1.5. Like the reference, it
/// changes the first occurrence of each value.
fn weigh_around_but(words: &[Word], valences: &mut [f64]) {
    let Some(but) = words.iter().position(|word| word.lower == "but") else { return };
    for index in 0..valences.len() {
        let value = valences[index];
        let first = valences.iter().position(|other| other.total_cmp(&value).is_eq()).unwrap_or(index);
        match first.cmp(&but) {
            std::cmp::Ordering::Less => valences[first] *= 0.5,
            std::cmp::Ordering::Greater => valences[first] *= 1.5,
            std::cmp::Ordering::Equal => {}
        }
    }
}

/// Returns the amount that exclamation and question marks add.
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

    /// Scores of the reference implementation, made by `tests/golden/sentiment.py`.
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
    fn scores_equal_those_of_the_reference_implementation() {
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
