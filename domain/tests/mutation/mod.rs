//! For the fuzz tests of every crate: mutations of valid bytes, and a bound on the memory of a reader.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::sample::Index;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Serialises the readers, because the allocator counts the memory of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// Memory that a reader may use for each byte of input. A number of one digit becomes a value of 32 bytes, in
/// a list that doubles, and some values are stored twice.
const BYTES_PER_BYTE: usize = 40;
/// Memory that a reader may use in addition: buffers, and the capacity that deserialisers reserve for a
/// claimed length (serde: 1 MiB).
const BYTES_BESIDE: usize = 3 << 20;

/// Runs a reader of `input` bytes. Panics if it uses more memory than the input justifies.
pub(crate) fn bounded<T>(input: usize, read: impl FnOnce() -> T) -> T {
    bounded_beside(input, BYTES_BESIDE, read)
}

/// As [`bounded`], for a reader that needs `beside` bytes for any input.
pub(crate) fn bounded_beside<T>(input: usize, beside: usize, read: impl FnOnce() -> T) -> T {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let outcome = read();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken <= BYTES_PER_BYTE * input + beside, "{taken} bytes of memory for {input} bytes of input");
    outcome
}

/// A configuration with `few` cases, or with `PROPTEST_CASES` cases if it is set.
pub(crate) fn cases(few: u32) -> ProptestConfig {
    let given = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: given.unwrap_or(few), failure_persistence: None, ..ProptestConfig::default() }
}

/// One change to valid bytes.
#[derive(Debug, Clone)]
pub(crate) enum Mutation {
    Flip(Index, u8),
    Delete(Index, usize),
    Insert(Index, Vec<u8>),
    Truncate(Index),
    Repeat(Index, usize),
    /// Replaces the little-endian numbers of a header by huge ones.
    Huge(Index, usize),
    /// Replaces a decimal number.
    Number(Index, &'static str),
    /// Replaces the text between two quotes.
    Word(Index, String),
}

const NUMBERS: [&str; 12] = [
    "-1",
    "0",
    "1",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999999",
    "1e308",
    "1e999",
    "0.5",
];

pub(crate) fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = any::<Index>;
    let one = prop_oneof![
        4 => (at(), 1_u8..).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        2 => (at(), 1..64_usize).prop_map(|(at, count)| Mutation::Delete(at, count)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..24)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => at().prop_map(Mutation::Truncate),
        1 => (at(), 1..64_usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
        3 => (at(), prop::sample::select(vec![2, 4, 8_usize])).prop_map(|(at, width)| Mutation::Huge(at, width)),
        4 => (at(), prop::sample::select(NUMBERS.to_vec())).prop_map(|(at, to)| Mutation::Number(at, to)),
        2 => (at(), "[a-zA-Z_0-9.]{0,12}").prop_map(|(at, to)| Mutation::Word(at, to)),
    ];
    prop::collection::vec(one, 1..5)
}

/// Chooses a place, mostly near the beginning, where headers are.
fn place(at: Index, length: usize) -> usize {
    let at = at.index(2 * length.max(1));
    if at < length { at } else { (at - length) % length.clamp(1, 256) }
}

pub(crate) fn mutated(whole: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for mutation in mutations {
        let length = bytes.len();
        let end = |at: usize, count: usize| (at + count).min(length);
        match mutation {
            _ if length == 0 => {}
            Mutation::Flip(at, bits) => bytes[place(*at, length)] ^= bits,
            Mutation::Delete(at, count) => {
                let at = place(*at, length);
                bytes.drain(at..end(at, *count));
            }
            Mutation::Insert(at, inserted) => {
                let at = place(*at, length);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Mutation::Truncate(at) => bytes.truncate(at.index(length)),
            Mutation::Repeat(at, count) => {
                let at = place(*at, length);
                let again = bytes[at..end(at, *count)].to_vec();
                bytes.splice(at..at, again);
            }
            Mutation::Huge(at, width) => {
                let at = place(*at, length);
                let to = end(at, *width);
                bytes[at..to].fill(0xff);
                // Not always negative as a signed number.
                bytes[to - 1] = 0x7f;
            }
            Mutation::Number(at, to) => replace(&mut bytes, *at, |byte| byte.is_ascii_digit(), to.as_bytes()),
            Mutation::Word(at, to) => {
                replace(&mut bytes, *at, |byte| byte.is_ascii_alphanumeric() || byte == b'_', to.as_bytes());
            }
        }
    }
    bytes
}

/// Replaces a run of such bytes.
fn replace(bytes: &mut Vec<u8>, at: Index, is: impl Fn(u8) -> bool, to: &[u8]) {
    let from = place(at, bytes.len());
    let Some(start) = (from..bytes.len()).find(|&place| is(bytes[place])) else { return };
    let end = (start..bytes.len()).find(|&place| !is(bytes[place])).unwrap_or(bytes.len());
    bytes.splice(start..end, to.iter().copied());
}
