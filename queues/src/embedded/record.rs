//! The record of a group's progress in the log, at most [`RECORD_BYTES_MAX`] bytes.
//!
//! Everything up to `done_to` is done, except `open`; of the done messages, `parked` were given up.
//! The record names exceptions, not acknowledgements. So it stays as small as the number of unfinished
//! messages, however far the other messages have advanced.

use serde::{Deserialize, Serialize};

/// Largest record, in bytes: the limit of [`EventLog::store_cursor`](dissent_domain::log::EventLog).
pub(super) const RECORD_BYTES_MAX: usize = 7_490;
/// Maximum number of unfinished messages of a group: delivered, waiting for a retry, or waiting for room
/// among the parked.
pub(super) const OPEN_MAX: usize = 256;
/// Maximum number of parked messages of a group whose parking is not yet acknowledged.
pub(super) const PARKED_MAX: usize = 32;
/// Maximum number of bytes of a reason that the record keeps.
pub(super) const REASON_BYTES_MAX: usize = 96;

// Format byte and lengths; a MessagePack integer of 64 bits takes 9 bytes, one of 32 bits 5.
const _: () = assert!(
    32 + OPEN_MAX * (1 + 9 + 5) + PARKED_MAX * (1 + 9 + 5 + 2 + REASON_BYTES_MAX) <= RECORD_BYTES_MAX,
    "the largest record must fit"
);

/// The first byte of a record.
const FORMAT: u8 = 1;

/// A group's progress.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Every event up to this position is done or irrelevant, except those in `open`.
    pub done_to: u64,
    /// Unfinished messages up to `done_to`, by ascending position.
    pub open: Vec<OpenNote>,
    /// Parked messages up to `done_to` whose parking is not acknowledged, by ascending position.
    pub parked: Vec<ParkedNote>,
}

/// An unfinished message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenNote {
    pub position: u64,
    /// Failed attempts.
    pub failures: u32,
}

/// A parked message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ParkedNote {
    pub position: u64,
    pub failures: u32,
    /// The reason of the last failure.
    pub reason: String,
}

impl Record {
    /// Returns the bytes to store: a format byte, then MessagePack arrays.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let mut bytes = vec![FORMAT];
        rmp_serde::encode::write(&mut bytes, self).map_err(|error| error.to_string())?;
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(format!("the record has {} bytes, the limit is {RECORD_BYTES_MAX}", bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads stored bytes, which are not trusted.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(format!("the record has {} bytes, the limit is {RECORD_BYTES_MAX}", bytes.len()));
        }
        let body = match bytes.split_first() {
            Some((&FORMAT, body)) => body,
            Some((other, _)) => {
                return Err(format!("unknown format {other}: use the version of dissent that wrote it"));
            }
            None => return Err("the record is empty".to_owned()),
        };
        let record: Self = rmp_serde::from_slice(body).map_err(|error| error.to_string())?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), String> {
        if self.open.len() > OPEN_MAX || self.parked.len() > PARKED_MAX {
            return Err(format!(
                "{} open and {} parked messages, the limits are {OPEN_MAX} and {PARKED_MAX}",
                self.open.len(),
                self.parked.len()
            ));
        }
        let open: Vec<u64> = self.open.iter().map(|note| note.position).collect();
        let parked: Vec<u64> = self.parked.iter().map(|note| note.position).collect();
        for positions in [open, parked] {
            let ascending = positions.is_sorted_by(|a, b| a < b);
            let in_range = positions.iter().all(|position| (1..=self.done_to).contains(position));
            if !(ascending && in_range) {
                return Err(format!("the positions do not ascend from 1 to {}", self.done_to));
            }
        }
        Ok(())
    }
}

/// Returns the part of a reason that the record keeps.
pub(super) fn shortened(reason: &str) -> String {
    reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutation::{bounded, cases, mutated, mutations};

    fn sample() -> Record {
        Record {
            done_to: 301,
            open: vec![OpenNote { position: 3, failures: 2 }, OpenNote { position: 300, failures: 0 }],
            parked: vec![ParkedNote { position: 5, failures: 4, reason: "no".to_owned() }],
        }
    }

    #[test]
    fn format_1_stays_readable() {
        let golden = [
            1, 0x93, 0xcd, 1, 45, 0x92, 0x92, 3, 2, 0x92, 0xcd, 1, 44, 0, 0x91, 0x93, 5, 4, 0xa2, b'n', b'o',
        ];
        assert_eq!(sample().encode().unwrap(), golden);
        assert_eq!(Record::decode(&golden).unwrap(), sample());
    }

    #[test]
    fn the_largest_record_fits() {
        let count = |n: usize| u64::MAX - n as u64;
        let record = Record {
            done_to: u64::MAX,
            open: (0..OPEN_MAX).rev().map(|n| OpenNote { position: count(n), failures: u32::MAX }).collect(),
            parked: (0..PARKED_MAX)
                .rev()
                .map(|n| ParkedNote {
                    position: count(n),
                    failures: u32::MAX,
                    reason: shortened(&"é".repeat(REASON_BYTES_MAX)),
                })
                .collect(),
        };
        let bytes = record.encode().unwrap();
        assert!(bytes.len() <= RECORD_BYTES_MAX, "{} bytes", bytes.len());
        assert_eq!(Record::decode(&bytes).unwrap(), record);
    }

    #[test]
    fn decoding_damaged_bytes_never_panics_and_cut_bytes_are_errors() {
        let good = sample().encode().unwrap();
        for cut in 0..good.len() {
            assert!(Record::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut bad = good.clone();
                bad[at] = value;
                let _outcome = Record::decode(&bad);
            }
        }
        assert!(Record::decode(&[1, 0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn positions_out_of_order_are_errors() {
        let mut record = sample();
        record.open.reverse();
        assert!(Record::decode(&record.encode().unwrap()).is_err());
    }

    /// Bytes that decode as a record encode to the same record.
    fn assert_decoding_is_stable(bytes: &[u8]) {
        if let Ok(record) = bounded(bytes.len(), || Record::decode(bytes)) {
            assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
        }
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn decoding_a_mutated_record_is_stable_and_bounded_in_memory(mutations in mutations()) {
            assert_decoding_is_stable(&mutated(&sample().encode().unwrap(), &mutations));
        }

        #[test]
        fn decoding_any_bytes_is_stable_and_bounded_in_memory(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            assert_decoding_is_stable(&[&[FORMAT], &bytes[..]].concat());
        }
    }
}
