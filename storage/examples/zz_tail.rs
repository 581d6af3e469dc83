//! Measures the durable log and prints JSON: durable appends against a raw append of the same bytes with a
//! sync at the same points, in turns on the same disk; scanning; opening.
//!
//! `cargo run --release -p dissent-storage --example log_bench [EVENTS] [DIRECTORY]`

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use dissent_domain::event::{EventId, NewEvent};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_storage::{SledLog, SledOptions, wait};

type Failure = Box<dyn std::error::Error>;

const BODY_BYTES: usize = 600;
const IN_FLIGHT: u32 = 64;
const ROUNDS: u32 = 15;
const COMMITS_PER_ROUND: u32 = 40;

fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    for per in [1_u32, 64] {
        let mut logs = Vec::new();
        for how in 0..4 {
            #[allow(unsafe_code)]
            unsafe { std::env::set_var("HOW", how.to_string()) };
            logs.push(SledLog::open(dir.path().join(format!("x{per}-{how}")), &SledOptions::default())?);
        }
        let mut raw = File::create(dir.path().join("raw"))?;
        let mut times = vec![Vec::new(); 5];
        let mut n = 0;
        for _ in 0..300 {
            for (i, log) in logs.iter().enumerate() {
                let appends: Result<Vec<_>, _> = (0..per).map(|k| event(n + k)).collect();
                let appends = appends?;
                let began = Instant::now();
                let sent: Vec<_> = appends.into_iter().map(|a| log.append(a)).collect();
                for s in sent { wait(s)?; }
                times[i].push(began.elapsed().as_secs_f64() * 1e3);
            }
            n += per;
            let bytes = vec![7_u8; 600 * per as usize];
            let began = Instant::now();
            raw.write_all(&bytes)?;
            raw.sync_data()?;
            times[4].push(began.elapsed().as_secs_f64() * 1e3);
        }
        for (name, t) in ["parallel", "after", "none", "before", "raw"].iter().zip(&mut times) {
            let mean = t.iter().sum::<f64>() / t.len() as f64;
            writeln!(std::io::stdout(), "{per} {name}: median {:.3} mean {mean:.3} p90 {:.3}", median(t), t[270])?;
        }
    }
    Ok(())
}

fn event(n: u32) -> Result<Append, Failure> {
    let experiment = ExperimentId::new(format!("experiment-{}", n % 4))?;
    let id = EventId::of_experiment(&experiment).caused("bench.event", n);
    let body = (0..BODY_BYTES).map(|i| (i as u32 ^ n).to_le_bytes()[0]).collect();
    let event = NewEvent {
        id,
        causation: Some(id),
        actor: "generation".to_owned(),
        time_us: u64::from(n),
        event_type: "generation.completions_sampled".to_owned(),
        schema_version: 1,
        body,
    };
    Ok(Append { experiment, expected: ExpectedVersion::Any, events: vec![event] })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

