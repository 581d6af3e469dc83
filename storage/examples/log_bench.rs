//! Measures appends, scans and opening of the durable log, and prints JSON.
//!
//! The baseline of appends writes the same bytes raw, with syncs at the same points. Both alternate on the
//! same disk.
//!
//! `cargo run --release -p dissent-storage --example log_bench [EVENTS] [DIRECTORY]`

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use dissent_domain::event::{EventId, NewEvent};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_storage::{SledLog, SledOptions, wait};

type Failure = Box<dyn std::error::Error>;

const BODY_BYTES: u32 = 600;
const IN_FLIGHT: u32 = 64;
const ROUNDS: u32 = 15;
const COMMITS_PER_ROUND: u32 = 40;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let events: u32 = arguments.next().map_or(Ok(200_000), |n| n.parse())?;
    let root = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(root)?;

    let appends = appends(dir.path())?;
    let lone = lone_appends(dir.path())?;
    let path = dir.path().join("large");
    let filling = fill(&path, events)?;
    let began = Instant::now();
    let log = SledLog::open(&path, &SledOptions::default())?;
    let open_seconds = began.elapsed().as_secs_f64();
    let resident_after_open = resident_mebibytes();
    let scan_views = scan(&log, false)?;
    let scan_owned = scan(&log, true)?;
    let began = Instant::now();
    let report = log.verify()?;
    let report = serde_json::json!({
        "body_bytes": BODY_BYTES,
        "durable_append": appends,
        "lone_append": lone,
        "events": events,
        "fill_events_per_second": f64::from(events) / filling.seconds,
        "fill_resident_bytes_per_event": filling.resident_bytes_per_event,
        "open_seconds": open_seconds,
        "scan_views_events": scan_views,
        "scan_owned_events": scan_owned,
        "verify_events_per_second": f64::from(events) / began.elapsed().as_secs_f64(),
        "sound": report.is_sound(),
        "bytes_on_disk_per_event": log.stat()?.bytes_on_disk as f64 / f64::from(events),
        "resident_mebibytes_after_open": resident_after_open,
        "resident_mebibytes_at_end": resident_mebibytes(),
    });
    writeln!(std::io::stdout(), "{report:#}")?;
    Ok(())
}

fn event(n: u32) -> Result<Append, Failure> {
    let experiment = ExperimentId::new(format!("experiment-{}", n % 4))?;
    let id = EventId::of_experiment(&experiment).caused("bench.event", n);
    let body = (0..BODY_BYTES).map(|i| (i ^ n).to_le_bytes()[0]).collect();
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

/// Appends batches of 64 single-event appends and waits for each batch. The baseline writes the same bytes
/// raw and syncs once per 64. The two alternate, so that both see the same variations of the disk.
fn appends(dir: &Path) -> Result<serde_json::Value, Failure> {
    let log = SledLog::open(dir.join("append"), &SledOptions::default())?;
    let mut raw = File::create(dir.join("raw"))?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let per_round = f64::from(COMMITS_PER_ROUND * IN_FLIGHT);
    for round in 0..ROUNDS {
        let mut prepared = Vec::new();
        for n in 0..COMMITS_PER_ROUND * IN_FLIGHT {
            prepared.push(event(round * COMMITS_PER_ROUND * IN_FLIGHT + n)?);
        }
        let began = Instant::now();
        for commit in prepared.chunks(IN_FLIGHT as usize) {
            for append in commit {
                raw.write_all(&append.events.first().ok_or("no event")?.body)?;
            }
            raw.sync_data()?;
        }
        let raw_rate = per_round / began.elapsed().as_secs_f64();
        let began = Instant::now();
        while !prepared.is_empty() {
            let rest = prepared.split_off(prepared.len().min(IN_FLIGHT as usize));
            let sent: Vec<_> =
                std::mem::replace(&mut prepared, rest).into_iter().map(|a| log.append(a)).collect();
            for answer in sent {
                wait(answer)?;
            }
        }
        let our_rate = per_round / began.elapsed().as_secs_f64();
        ours.push(our_rate);
        theirs.push(raw_rate);
        ratios.push(our_rate / raw_rate);
    }
    Ok(serde_json::json!({
        "in_flight": IN_FLIGHT,
        "rounds": ROUNDS,
        "events_per_second_median": median(&mut ours),
        "raw_events_per_second_median": median(&mut theirs),
        "ratio_median": median(&mut ratios),
    }))
}

/// One append at a time, each awaited: the latency for a single caller.
fn lone_appends(dir: &Path) -> Result<serde_json::Value, Failure> {
    let log = SledLog::open(dir.join("lone"), &SledOptions::default())?;
    let mut raw = File::create(dir.join("lone-raw"))?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..400 {
        let append = event(n)?;
        let body = append.events.first().ok_or("no event")?.body.clone();
        let began = Instant::now();
        raw.write_all(&body)?;
        raw.sync_data()?;
        let theirs_now = began.elapsed().as_secs_f64() * 1e3;
        let began = Instant::now();
        wait(log.append(append))?;
        let ours_now = began.elapsed().as_secs_f64() * 1e3;
        ours.push(ours_now);
        theirs.push(theirs_now);
        ratios.push(ours_now / theirs_now);
    }
    Ok(serde_json::json!({
        "milliseconds_median": median(&mut ours),
        "raw_milliseconds_median": median(&mut theirs),
        "ratio_median": median(&mut ratios),
    }))
}

struct Filling {
    seconds: f64,
    /// Growth of resident memory over the second half.
    resident_bytes_per_event: Option<f64>,
}

fn fill(path: &Path, events: u32) -> Result<Filling, Failure> {
    let log = SledLog::open(path, &SledOptions::default())?;
    let began = Instant::now();
    let mut sent = std::collections::VecDeque::new();
    let mut resident_at_half = None;
    for n in 0..events {
        sent.push_back(log.append(event(n)?));
        if sent.len() == 512 {
            sent.pop_front().map(wait).transpose()?;
        }
        if n == events / 2 {
            resident_at_half = resident_mebibytes();
        }
    }
    for answer in sent {
        wait(answer)?;
    }
    let grown = resident_mebibytes().zip(resident_at_half).map(|(end, half)| end - half);
    log.close()?;
    Ok(Filling {
        seconds: began.elapsed().as_secs_f64(),
        resident_bytes_per_event: grown.map(|mebibytes| mebibytes * 1048576.0 / (f64::from(events) / 2.0)),
    })
}

/// Events per second, the best of three: by wall-clock time, and by the processor time of this thread, which
/// a busy machine does not distort.
fn scan(log: &SledLog, owned: bool) -> Result<serde_json::Value, Failure> {
    let (mut best, mut best_cpu) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..3 {
        let (mut count, mut bytes) = (0_u64, 0);
        let began_cpu = thread_seconds().unwrap_or(f64::NAN);
        let began = Instant::now();
        if owned {
            log.scan(0, &mut |recorded| {
                count += 1;
                bytes += recorded.event.body.len();
                ControlFlow::Continue(())
            })?;
        } else {
            log.scan_views(0, &mut |view| {
                count += 1;
                bytes += view.body.len();
                ControlFlow::Continue(())
            })?;
        }
        best = best.min(began.elapsed().as_secs_f64());
        best_cpu = best_cpu.min(thread_seconds().unwrap_or(f64::NAN) - began_cpu);
        if count != log.head() || bytes == 0 {
            return Err("the scan missed events".into());
        }
    }
    let events = log.head() as f64;
    Ok(serde_json::json!({ "per_second": events / best, "per_processor_second": events / best_cpu }))
}

fn thread_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn resident_mebibytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
