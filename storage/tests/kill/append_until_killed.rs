//! The child of the kill test: appends to the log in the given directory until it is killed.
//! Prints `POSITION NUMBER .` for each acknowledged event.
#![expect(clippy::unwrap_used, reason = "a test: failing is a panic")]

mod events;

use std::collections::VecDeque;
use std::io::Write;

use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_storage::{SledLog, wait};
use events::{event, options};

/// Appends in flight.
const IN_FLIGHT: usize = 40;

fn main() {
    let dir = std::env::args_os().nth(1).expect("usage: append_until_killed DIRECTORY");
    let log = SledLog::open(dir, &options()).unwrap();
    let mut next = u32::try_from(log.head()).unwrap();
    let mut in_flight = VecDeque::new();
    let mut out = std::io::stdout().lock();
    loop {
        while in_flight.len() < IN_FLIGHT {
            let append = Append {
                experiment: ExperimentId::new(format!("kill-{}", next % 3)).unwrap(),
                expected: ExpectedVersion::Any,
                events: vec![event(next)],
            };
            in_flight.push_back(log.append(append));
            next += 1;
        }
        let recorded = wait(in_flight.pop_front().unwrap()).unwrap().remove(0);
        log.store_cursor("kill", recorded.position.to_le_bytes().to_vec()).unwrap();
        writeln!(out, "{} {} .", recorded.position, recorded.event.time_us).unwrap();
        out.flush().unwrap();
    }
}
