//! Loops of a completion: one unit back to back, a few sentences again and again, or few words in any order.
//!
//! Exact repetition back to back is the mark of a loop of a language model. Lists, tables, refrains and code
//! repeat too, but with other words between the copies. Shares of repeated sentences follow the quality
//! filters of Gopher (arXiv 2112.11446, table A1), with higher limits, because completions are short.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::code::{is_code_line, is_code_sign, is_fence, lines_outside_fences};
use super::runs::{Run, visit_runs};
use crate::words::{count_words, is_unspaced, words};

/// Shortest run that counts, in characters.
const RUN_MIN: usize = 40;
/// Share of the text that a run has, wherever it is.
const SHARE_MIN: f64 = 0.4;
/// Share of the text that a run has at its end, and the length that is enough without it, in characters.
const SHARE_AT_END: f64 = 0.2;
const LENGTH_AT_END: usize = 400;
/// Length of a run that counts anywhere in a text, in characters.
const LENGTH_ANYWHERE: usize = 600;
/// Shortest run without letters, and its share.
const BARE_MIN: usize = 60;
const BARE_SHARE: f64 = 0.6;
/// Shortest run within code, its share and its copies.
const CODE_MIN: usize = 200;
const CODE_SHARE: f64 = 0.6;
const CODE_COPIES: usize = 8;
/// Fewest letters and words of a unit whose numbers may differ, as in a counter.
const COUNTED_LETTERS: usize = 25;
const COUNTED_WORDS: usize = 5;
/// Copies of a sentence that count as scattered, and the share of the text that they have together.
const SCATTERED_COPIES: usize = 4;
const SCATTERED_SHARE: f64 = 0.5;
/// Shortest text whose vocabulary is counted, in words. It is poor with less than 2·√n different words; prose
/// of 100 words has about 65.
const VOCABULARY_MIN: usize = 60;
const VOCABULARY_FACTOR: f64 = 2.0;

/// A loop in a completion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Repetition {
    /// What repeats.
    pub kind: RepetitionKind,
    /// Whole copies of the unit, at least 3. Of a poor vocabulary, the mean number of uses of a word.
    pub copies: usize,
    /// Share of the text that the loop has, in (0, 1], by characters without surplus white space.
    pub share: f64,
}

/// The unit of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepetitionKind {
    /// Characters within a word, or signs.
    Characters,
    /// Words or phrases.
    Words,
    /// Sentences.
    Sentences,
    /// Lines or paragraphs.
    Lines,
    /// The same sentences or lines with others between them.
    Scattered,
    /// Few different words, in any order.
    Vocabulary,
}

/// Returns the loop of a completion; `None` without one. A repetition that the prompt asks for is none.
pub(super) fn repetition(prompt: &str, completion: &str) -> Option<Repetition> {
    let mut text = Normal::of(completion, false);
    let mut run = text.longest(Normal::is_loop);
    if run.is_none() && completion.bytes().any(|byte| byte.is_ascii_digit()) {
        text = Normal::of(completion, true);
        run = text.longest(Normal::is_counted_loop);
    }
    match run {
        Some(run) => (!text.is_asked_for(run, prompt)).then(|| text.described(run)),
        None => scattered(completion).or_else(|| poor_vocabulary(completion)),
    }
}

/// A text in lower case with single white space, and sums over its characters.
struct Normal {
    characters: Vec<u32>,
    /// Number of letters before each position; so for the others.
    letters: Vec<u32>,
    digits: Vec<u32>,
    /// Signs of code, and all characters in Markdown blocks of code.
    code: Vec<u32>,
}

impl Normal {
    /// Normalises a text. With `same_numbers`, every number becomes 0, so that counters repeat.
    fn of(text: &str, same_numbers: bool) -> Self {
        let capacity = text.len() + 1;
        let mut normal = Self {
            characters: Vec::with_capacity(capacity),
            letters: vec![0],
            digits: vec![0],
            code: vec![0],
        };
        let mut fenced = false;
        for line in text.trim().lines() {
            let fence = is_fence(line);
            fenced ^= fence;
            let mut previous = '\n';
            for character in line.trim().chars() {
                let repeats = (character.is_whitespace() && previous.is_whitespace())
                    || (same_numbers && character.is_ascii_digit() && previous.is_ascii_digit());
                previous = character;
                if !repeats {
                    let zeroed = same_numbers && character.is_ascii_digit();
                    normal.push(if zeroed { '0' } else { character }, fenced || fence);
                }
            }
            normal.push('\n', fenced || fence);
        }
        normal
    }

    fn push(&mut self, character: char, fenced: bool) {
        let character = if character.is_whitespace() && character != '\n' { ' ' } else { character };
        let lower = character.to_lowercase().next().unwrap_or(character);
        self.characters.push(u32::from(lower));
        let add = |sums: &mut Vec<u32>, counts: bool| {
            let sum = sums.last().copied().unwrap_or(0);
            sums.push(sum + u32::from(counts));
        };
        add(&mut self.letters, character.is_alphabetic());
        add(&mut self.digits, character.is_numeric());
        add(&mut self.code, fenced || is_code_sign(character));
    }

    /// Returns the longest run that `accepts`. Of equal lengths, the one with the shortest unit and the first
    /// one.
    fn longest(&self, accepts: fn(&Self, Run) -> bool) -> Option<Run> {
        let mut best: Option<Run> = None;
        let key = |run: Run| (run.end - run.start, usize::MAX - run.period, usize::MAX - run.start);
        visit_runs(&self.characters, RUN_MIN, |run| {
            if best.is_none_or(|best| key(run) > key(best)) && accepts(self, run) {
                best = Some(run);
            }
        });
        best
    }

    fn described(&self, run: Run) -> Repetition {
        Repetition { kind: self.kind(run), copies: copies(run), share: self.share(run) }
    }

    fn share(&self, run: Run) -> f64 {
        (run.end - run.start) as f64 / self.characters.len() as f64
    }

    fn count(sums: &[u32], run: Run) -> usize {
        usize::try_from(sums[run.start + run.period] - sums[run.start]).unwrap_or(usize::MAX)
    }

    /// Whether a run is a loop rather than a list, a table, a number, a line of signs or code.
    fn is_loop(&self, run: Run) -> bool {
        let (length, share) = (run.end - run.start, self.share(run));
        let copies = copies(run);
        let code = 10 * Self::count(&self.code, run) >= run.period;
        if code {
            return length >= CODE_MIN
                && share >= CODE_SHARE
                && copies >= CODE_COPIES
                && Self::count(&self.letters, run) > 0;
        }
        if Self::count(&self.letters, run) == 0 {
            return length >= BARE_MIN && share >= BARE_SHARE && copies >= 4;
        }
        // The run ends where the text does, but for a few characters.
        let at_end = run.end + 3 >= self.characters.len()
            && (share >= SHARE_AT_END && length >= BARE_MIN || length >= LENGTH_AT_END);
        copies >= if run.period < 20 { 4 } else { 3 }
            && (share >= SHARE_MIN || at_end || length >= LENGTH_ANYWHERE)
    }

    /// Whether a run over equal numbers is a loop of sentences with a counter.
    fn is_counted_loop(&self, run: Run) -> bool {
        let code = 20 * Self::count(&self.code, run) >= run.period;
        !code
            && Self::count(&self.digits, run) > 0
            && Self::count(&self.letters, run) >= COUNTED_LETTERS
            && copies(run) >= 4
            && self.is_loop(run)
            && count_words(&self.text(run.start, run.start + run.period)) >= COUNTED_WORDS
    }

    fn text(&self, start: usize, end: usize) -> String {
        self.characters[start..end].iter().filter_map(|character| char::from_u32(*character)).collect()
    }

    fn kind(&self, run: Run) -> RepetitionKind {
        let unit = self.text(run.start, run.start + run.period);
        let ends_sentence =
            |character: char| matches!(character, '.' | '!' | '?' | '。' | '！' | '？' | '؟' | '।');
        let has_letters = unit.chars().any(char::is_alphabetic);
        if has_letters && unit.contains('\n') {
            RepetitionKind::Lines
        } else if has_letters && unit.contains(ends_sentence) {
            RepetitionKind::Sentences
        } else if has_letters && (unit.contains(' ') || (run.period > 1 && unit.contains(is_unspaced))) {
            RepetitionKind::Words
        } else {
            RepetitionKind::Characters
        }
    }

    /// Whether the prompt asks to repeat and has all the words of the unit.
    fn is_asked_for(&self, run: Run, prompt: &str) -> bool {
        let prompt = prompt.to_lowercase();
        if !REQUESTS.iter().any(|request| prompt.contains(request)) {
            return false;
        }
        // The unit may begin within a word: of two units, the words within are whole.
        let two = self.text(run.start, run.start + 2 * run.period);
        let known: BTreeSet<&str> = words(&prompt).collect();
        let whole: Vec<&str> = words(&two).collect();
        match whole.as_slice() {
            [] => false,
            [word] => known.contains(word),
            [_, inner @ .., _] if !inner.is_empty() => inner.iter().all(|word| known.contains(word)),
            [first, last, ..] => known.contains(first) || known.contains(last),
        }
    }
}

/// Returns the whole copies of a run's unit. The last one may lack the space after it, and a full stop.
fn copies(run: Run) -> usize {
    (run.end - run.start + 2.min(run.period - 1)) / run.period
}

/// Words of prompts that ask for a repetition.
const REQUESTS: [&str; 22] = [
    "repeat",
    " times",
    "over and over",
    "again and again",
    "forever",
    "wiederhol",
    " mal ",
    "répèt",
    "répét",
    " fois",
    "repit",
    "repet",
    " veces",
    "ripet",
    " volte",
    " vezes",
    "повтор",
    "herhaal",
    "重复",
    "遍",
    "繰り返",
    "반복",
];

/// Finds sentences and lines that return again and again. Blocks and lines of code are left out.
fn scattered(completion: &str) -> Option<Repetition> {
    let ends = |character: char| matches!(character, '.' | '!' | '?' | '。' | '！' | '？' | '؟' | '।');
    let (mut copies, mut all) = (BTreeMap::<String, (usize, usize)>::new(), 0);
    for line in lines_outside_fences(completion).filter(|line| !is_code_line(line)) {
        for sentence in line.split(ends) {
            let sentence: String =
                words(sentence).flat_map(|word| [word, " "]).collect::<String>().to_lowercase();
            let length = sentence.chars().filter(|character| character.is_alphabetic()).count();
            all += length;
            if length >= 10 {
                copies.entry(sentence).or_insert((0, length)).0 += 1;
            }
        }
    }
    let repeated = || copies.values().filter(|(copies, _)| *copies >= SCATTERED_COPIES);
    let share = repeated().map(|(copies, length)| copies * length).sum::<usize>() as f64 / all.max(1) as f64;
    let most = repeated().map(|(copies, _)| *copies).max()?;
    (share >= SCATTERED_SHARE).then_some(Repetition { kind: RepetitionKind::Scattered, copies: most, share })
}

/// Finds prose with few different words. Scripts without spaces are left out.
fn poor_vocabulary(completion: &str) -> Option<Repetition> {
    let (mut different, mut all) = (BTreeSet::<String>::new(), 0_usize);
    for line in lines_outside_fences(completion).filter(|line| !is_code_line(line)) {
        for word in words(line).filter(|word| word.chars().all(|it| it.is_alphabetic() || it == '\'')) {
            if !word.contains(is_unspaced) {
                all += 1;
                different.insert(word.to_lowercase());
            }
        }
    }
    let poor = all >= VOCABULARY_MIN && (different.len() as f64) < VOCABULARY_FACTOR * (all as f64).sqrt();
    let copies = all.checked_div(different.len())?;
    poor.then_some(Repetition { kind: RepetitionKind::Vocabulary, copies, share: 1.0 })
}
