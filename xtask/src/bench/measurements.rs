//! The measurements: each runs a program that prints one JSON object, and reads its figures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figure::{Figure, Target, median};
use super::reference_python;
use crate::cache::{target_dir, workspace_dir};
use crate::demo::DATA_VARIABLE;
use crate::process::{cargo, complete, output_of};

const SAMPLES: u32 = 8;
const NEW_TOKENS: u32 = 64;
/// Tokens of the prompt, whose ids are those of the example `generate_bench`.
const PROMPT_TOKENS: u32 = 43;
/// Interval between two samples of a running program's memory.
const POLL: Duration = Duration::from_millis(20);

/// Measures tokens per second of sampling, in alternating runs of ours and transformers.
pub(super) fn generation(pairs: u32) -> Result<Vec<Figure>> {
    crate::fetch::fetch_all()?;
    let model = crate::fetch::smollm2_path()?;
    let ours = example("dissent-models", "generate_bench")?;
    let python = reference_python()?;
    let mut product = || {
        let sizes = [SAMPLES.to_string(), NEW_TOKENS.to_string(), "1".to_owned()];
        tokens_per_second(Command::new(&ours).arg(&model).args(sizes))
    };
    let prompt = (0..PROMPT_TOKENS).map(|i| (1000 + 37 * i).to_string()).collect::<Vec<_>>().join(",");
    let reference = |attention: &str| {
        let mut command = Command::new(&python);
        command.arg(workspace_dir().join("bench/generate_reference.py")).arg(&model);
        command.args(["--samples", &SAMPLES.to_string(), "--new-tokens", &NEW_TOKENS.to_string()]);
        tokens_per_second(command.args(["--prompt-ids", &prompt, "--attention", attention]))
    };
    let attention = if reference("sdpa")? >= reference("eager")? { "sdpa" } else { "eager" };
    let compared = alternate(pairs, &mut product, &mut || reference(attention))?;
    let name = format!("generation, {SAMPLES} × {NEW_TOKENS} tokens, SmolLM2-135M f32");
    Ok(vec![
        Figure::plain(name, compared.ours, "tokens/s")
            .beside(format!("transformers generate ({attention})"), compared.reference, compared.ratio)
            .with_target(Target::RatioAtLeast(2.5)),
    ])
}

/// Measures durable appends per second, against a raw file, and scans.
pub(super) fn log() -> Result<Vec<Figure>> {
    // On the disk of the build: a temporary folder is often in memory, where durability costs nothing.
    let folder = target_dir().join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let report = json_of(Command::new(example("dissent-storage", "log_bench")?).arg("200000").arg(&folder))?;
    let of = |key: &str| number(&report, key);
    Ok(vec![
        Figure::plain(
            "durable appends, 64 at a time",
            of("durable_append/events_per_second_median")?,
            "events/s",
        )
        .beside(
            "raw append + fdatasync",
            of("durable_append/raw_events_per_second_median")?,
            of("durable_append/ratio_median")?,
        ),
        Figure::plain("lone durable append", of("lone_append/milliseconds_median")?, "ms").beside(
            "raw append + fdatasync",
            of("lone_append/raw_milliseconds_median")?,
            of("lone_append/ratio_median")?,
        ),
        Figure::plain("scan of the log", of("scan_owned_events/per_second")?, "events/s"),
    ])
}

/// Measures events per second of a replay.
pub(super) fn replay() -> Result<Vec<Figure>> {
    let report = json_of(&mut Command::new(example("dissent", "replay_bench")?))?;
    Ok(vec![
        Figure::plain("replay from the disk", number(&report, "events_per_second")?, "events/s")
            .with_target(Target::AtLeast(200_000.0)),
        Figure::plain(
            "replay, every decision verified",
            number(&report, "verify_events_per_second")?,
            "events/s",
        ),
    ])
}

/// Measures the milliseconds of the conflict measures of 100 000 prompts × 8, on one core.
pub(super) fn conflict() -> Result<Vec<Figure>> {
    let report = json_of(&mut Command::new(example("dissent-domain", "conflict_bench")?))?;
    let ms = number(&report, "seconds_median")? * 1e3;
    Ok(vec![Figure::plain("PACS and tau, 100 000 prompts × 8", ms, "ms").with_target(Target::AtMost(100.0))])
}

/// Returns the peak resident memory of the demo's experiment, run from the start on a copy.
pub(super) fn memory() -> Result<Vec<Figure>> {
    crate::fetch::fetch_all()?;
    let dissent = crate::demo::build_dissent()?;
    let config = demo_copy()?;
    let begin = Instant::now();
    let peak = peak_resident_mib(Command::new(dissent).arg("run").arg(config).env_remove(DATA_VARIABLE))?;
    Ok(vec![
        Figure::plain("peak memory of the demo's run", peak, "MiB"),
        Figure::plain("time of the demo's run", begin.elapsed().as_secs_f64(), "s")
            .with_target(Target::AtMost(300.0)),
    ])
}

/// Returns the demo's configuration in a fresh copy of its folder, so that it runs from the start.
pub(super) fn demo_copy() -> Result<PathBuf> {
    let copy = target_dir().join("bench/demo");
    if copy.exists() {
        std::fs::remove_dir_all(&copy).with_context(|| format!("failed to remove {}", copy.display()))?;
    }
    // The configuration's paths start at its file: copied with its neighbours, it needs no editing.
    for folder in ["demo", "proxy-reward"] {
        copy_folder(&workspace_dir().join("examples").join(folder), &copy.join("examples").join(folder))?;
    }
    Ok(copy.join("examples/demo/demo.toml"))
}

/// Builds an example in release mode and returns its path.
pub(super) fn example(package: &str, name: &str) -> Result<PathBuf> {
    complete(cargo().args(["build", "--release", "--quiet", "--package", package, "--example", name]))?;
    Ok(target_dir().join("release/examples").join(name))
}

/// Two rates, measured in alternating runs.
pub(super) struct Compared {
    /// Median rate of ours.
    pub(super) ours: f64,
    /// Median rate of the reference.
    pub(super) reference: f64,
    /// Median of the ratios within a pair: a slow minute of the machine affects both sides and cancels out.
    pub(super) ratio: f64,
}

pub(super) fn alternate(
    pairs: u32,
    ours: &mut dyn FnMut() -> Result<f64>,
    reference: &mut dyn FnMut() -> Result<f64>,
) -> Result<Compared> {
    let (mut our_rates, mut reference_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        // The order alternates, so that neither side always runs second.
        let (our, their) = if pair % 2 == 0 {
            let our = ours()?;
            (our, reference()?)
        } else {
            let their = reference()?;
            (ours()?, their)
        };
        println!("  {} of {pairs}: {our:.3} beside {their:.3}", pair + 1);
        our_rates.push(our);
        reference_rates.push(their);
        ratios.push(our / their);
    }
    let middle = |values: &[f64]| median(values).context("no pair was measured");
    Ok(Compared { ours: middle(&our_rates)?, reference: middle(&reference_rates)?, ratio: middle(&ratios)? })
}

/// Returns the rate that a generation benchmark prints; an error if its work differs from the request.
fn tokens_per_second(command: &mut Command) -> Result<f64> {
    let report = json_of(command)?;
    for (key, asked) in [("prompt_tokens", PROMPT_TOKENS), ("samples", SAMPLES), ("new_tokens", NEW_TOKENS)] {
        if report.get(key).and_then(Value::as_u64) != Some(u64::from(asked)) {
            bail!("wrong {key} in the benchmark's report: expected {asked}, found {report}");
        }
    }
    number(&report, "tokens_per_second")
}

/// Returns the JSON object that a program prints: all of its output, or its last line.
pub(super) fn json_of(command: &mut Command) -> Result<Value> {
    let text = output_of(command.current_dir(workspace_dir()))?;
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    serde_json::from_str(&text)
        .or_else(|_| serde_json::from_str(last))
        .with_context(|| format!("neither the output nor its last line is JSON: {last:?}"))
}

/// Returns the number at a path of keys, such as `durable_append/ratio_median`.
pub(super) fn number(report: &Value, path: &str) -> Result<f64> {
    let value = report.pointer(&format!("/{path}")).and_then(Value::as_f64).filter(|value| value.is_finite());
    value.with_context(|| format!("no number {path} in {report}"))
}

/// Runs a program to its end and returns its peak resident memory, in MiB.
fn peak_resident_mib(command: &mut Command) -> Result<f64> {
    let mut child = command.current_dir(workspace_dir()).spawn().context("failed to start the program")?;
    let status_file = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak_kib: f64 = 0.0;
    loop {
        // The kernel keeps the high-water mark, so the last sample misses at most 20 ms of growth.
        peak_kib = peak_kib.max(high_water_kib(&std::fs::read_to_string(&status_file).unwrap_or_default()));
        if let Some(status) = child.try_wait().context("failed to wait for the program")? {
            if !status.success() {
                bail!("the program failed: {status}");
            }
            break;
        }
        std::thread::sleep(POLL);
    }
    if peak_kib == 0.0 {
        bail!("peak memory is read from /proc, which this system does not have");
    }
    Ok(peak_kib / 1024.0)
}

/// Returns `VmHWM` of a `/proc/PID/status`, in KiB; 0 if it is absent, as for a process that has just ended.
fn high_water_kib(status: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("failed to create {}", to.display()))?;
    let entries = std::fs::read_dir(from).with_context(|| format!("failed to list {}", from.display()))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        let name = path.file_name().unwrap_or_default();
        std::fs::copy(&path, to.join(name)).with_context(|| format!("failed to copy {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_minute_of_the_machine_does_not_move_the_ratio() {
        let slowdown = [1.0, 1.0, 10.0, 1.0, 1.0];
        let (mut our_runs, mut their_runs) = (slowdown.iter(), slowdown.iter());
        let compared = alternate(5, &mut || Ok(300.0 / our_runs.next().unwrap()), &mut || {
            Ok(100.0 / their_runs.next().unwrap())
        })
        .unwrap();
        assert!((compared.ratio - 3.0).abs() < 1e-12, "{}", compared.ratio);
        assert!((compared.ours - 300.0).abs() < 1e-12 && (compared.reference - 100.0).abs() < 1e-12);
    }

    #[test]
    fn the_report_is_all_that_a_program_prints_or_its_last_line() {
        let report =
            json_of(Command::new("printf").arg(r#"warming up\n{"tokens_per_second": 250.5}\n"#)).unwrap();
        assert!((number(&report, "tokens_per_second").unwrap() - 250.5).abs() < 1e-12);
        assert!(number(&report, "seconds").unwrap_err().to_string().contains("no number seconds"));
        let whole = json_of(Command::new("printf").arg(r#"{\n"a": {\n"b": 2}\n}\n"#)).unwrap();
        assert!((number(&whole, "a/b").unwrap() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn the_high_water_mark_is_read_in_kib() {
        let status = "Name:\tdissent\nVmPeak:\t 900 kB\nVmHWM:\t  512 kB\nVmRSS:\t  400 kB\n";
        assert!((high_water_kib(status) - 512.0).abs() < f64::EPSILON);
        assert!(high_water_kib("").abs() < f64::EPSILON);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_memory_of_a_program_is_what_it_touched() {
        // awk holds a string of 32 MiB.
        let program =
            r#"BEGIN { s = "x"; while (length(s) < 33554432) s = s s; print length(s) > "/dev/null" }"#;
        let peak = peak_resident_mib(Command::new("awk").arg(program)).unwrap();
        assert!((32.0..512.0).contains(&peak), "{peak} MiB");
    }
}
